"""The recall task: see a cue, wait, name it. The smallest environment that asks for memory.

A picture has six pixels: one for each of four cues, one that says "remember this", one that asks.
In the first picture of an episode a cue is lit and "remember this" with it; while the agent waits,
cues are lit at random, one a picture, and mean nothing; when it is asked, no cue is lit. The action
taken then earns +1 if it names the first cue, else -1. The noise is what an input gate is for, the
wait what a memory cell is for. A guess is right one time in four.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

CUES, REMEMBER, ASKED = 4, 4, 5  # number of cues; the two other pixels
WAITS = (2, 5, 10, 20, 50, 100)


class Recall(gym.Env[np.ndarray, np.int64]):
    """Images uint8 [1, 6]. The question comes a number of steps after the cue that is drawn from
    `waits` anew for each episode."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - as gymnasium has it

    def __init__(self, waits: Sequence[int] = WAITS, render_mode: str | None = None) -> None:
        self.observation_space, self.action_space = Box(0, 255, (1, 6), np.uint8), Discrete(CUES)
        self.waits, self.render_mode = waits, render_mode
        self._picture = np.zeros((1, 6), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._clock, self._cue, self._wait = (
            0,
            int(self.np_random.integers(CUES)),
            self.np_random.choice(self.waits),
        )
        return self._draw(self._cue, REMEMBER), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._clock == self._wait:
            return self._draw(), 1.0 if action == self._cue else -1.0, True, False, {}
        self._clock += 1
        lit = ASKED if self._clock == self._wait else int(self.np_random.integers(CUES))
        return self._draw(lit), 0.0, False, False, {}

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The six pixels side by side, 16 to a side: [16, 96, 3]."""
        return (
            np.kron(self._picture, np.ones((16, 16), np.uint8))[..., None].repeat(3, -1)
            if self.render_mode
            else None
        )

    def _draw(self, *lit: int) -> np.ndarray:
        self._picture = np.zeros((1, 6), np.uint8)
        self._picture[0, list(lit)] = 255
        return self._picture


for _waits, _name in ((WAITS, "Recall"), *(((wait,), f"Recall{wait}") for wait in WAITS)):
    gym.register(f"recall/{_name}-v0", entry_point="envs.recall:Recall", kwargs={"waits": _waits})
