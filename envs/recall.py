"""The recall task: see a cue, wait, name it. The smallest environment that needs memory.

A picture has six pixels: one for each of four cues, one for "remember this", one for the question.
In the first picture of an episode a cue and "remember this" are lit. While the agent waits, a
random cue is lit in each picture and means nothing. In the last picture only the question is lit;
the action then earns +1 if it names the first cue, else -1. The random cues need an input gate, the
wait needs a memory cell. A guess is right one time in four.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

CUES, REMEMBER, ASKED = 4, 4, 5  # number of cues; the two other pixels
WAITS = (2, 5, 10, 20, 50, 100)


class Recall(gym.Env[np.ndarray, np.int64]):
    """Images uint8 [1, 6]. Each episode draws the steps from cue to question from `waits`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - as gymnasium has it

    def __init__(self, waits: Sequence[int] = WAITS, render_mode: str | None = None) -> None:
        self.observation_space, self.action_space = Box(0, 255, (1, 6), np.uint8), Discrete(CUES)
        self.waits, self.render_mode = waits, render_mode
        self._picture = np.zeros((1, 6), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._cue = int(self.np_random.integers(CUES))
        self._wait = self.np_random.choice(self.waits)
        return self._draw(self._cue, REMEMBER), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._wait == 0:
            return self._draw(), 1.0 if action == self._cue else -1.0, True, False, {}
        self._wait -= 1
        pixel = ASKED if self._wait == 0 else int(self.np_random.integers(CUES))
        return self._draw(pixel), 0.0, False, False, {}

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The six pixels side by side, each enlarged to 16 x 16: uint8 [16, 96, 3]."""
        squares = np.kron(self._picture, np.ones((16, 16), np.uint8))
        return squares[..., None].repeat(3, -1) if self.render_mode else None

    def _draw(self, *pixels: int) -> np.ndarray:
        self._picture = np.zeros((1, 6), np.uint8)
        self._picture[0, list(pixels)] = 255
        return self._picture


for _waits, _name in ((WAITS, "Recall"), *(((wait,), f"Recall{wait}") for wait in WAITS)):
    gym.register(f"recall/{_name}-v0", entry_point=f"{__name__}:Recall", kwargs={"waits": _waits})
