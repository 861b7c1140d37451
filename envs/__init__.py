"""Where the agents play: Atari games, what of the screen is seen, and episodes that can be watched again."""
