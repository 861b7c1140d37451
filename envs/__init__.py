"""Where the agents play: Atari games and others, screens that hide a part, and episodes that can be
watched again."""
