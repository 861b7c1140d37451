"""The user's requests: the settings of a run, the presets, the command lines."""
