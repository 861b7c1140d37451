"""One run: its parts, its schedule, its console and its trackers."""
