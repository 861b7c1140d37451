"""How a run is set up, kept, shown and measured."""
