"""Environments: Atari games and others, screens that hide a part, and records of episodes."""
