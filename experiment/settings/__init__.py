"""What is asked for: the settings of a run, the presets, the command lines."""
