"""gymnasium.make("recall.gym:recall/Breakout-v0") registers our environments and makes one."""

from recall import _room

Screen = _room("envs.gym").Screen
