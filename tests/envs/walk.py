"""Environments of gymnasium for these tests, playing them, and refusals."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from envs.episodes import EpisodeRecord
from envs.tapes import Envs, Transition


class Walk(gym.Env):
    """A dot on a line of eight: action 1 steps right, 0 stays, and chance pushes it back. The right
    end pays 2.5. With noise all over the screen no seed repeats it."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - as gymnasium has it
    observation_space, action_space = Box(0, 255, (40, 80, 3), np.uint8), Discrete(2)

    def __init__(self, render_mode: str | None = None, noise: bool = False) -> None:
        self.render_mode, self.noise = render_mode, np.random.default_rng() if noise else None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.at = int(self.np_random.integers(3))
        return self.render(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.at = max(0, self.at + int(action) - int(self.np_random.random() < 0.3))
        return self.render(), 2.5 * (self.at == 7), self.at == 7, False, {}

    def render(self) -> np.ndarray:
        shape = self.observation_space.shape
        picture = np.zeros(shape, np.uint8)
        if self.noise is not None:
            picture = self.noise.integers(256, size=shape, dtype=np.uint8)
        picture[:, 10 * self.at : 10 * self.at + 10] = (255, 128, 0)
        return picture


WALK, CHANCE = "recall-tests/Walk-v0", "recall-tests/Chance-v0"
for name, noise in ((WALK, False), (CHANCE, True)):
    gym.register(name, Walk, max_episode_steps=30, kwargs={"noise": noise})


def play(made: Envs, steps: int, seed: int = 0) -> tuple[list[Transition], list[EpisodeRecord]]:
    """Random actions that depend on the environment's index and the seed only."""
    rngs = [np.random.default_rng([seed, i]) for i in range(made.num_envs)]
    transitions, records = [], []
    for _ in range(steps):
        made.send(np.array([rng.integers(made.num_actions) for rng in rngs]))
        transitions.append(made.recv())
        records += made.finished()
    return transitions, records


def same(a: Any, b: Any) -> bool:
    """Whether arrays, records, and lists and dicts of them are equal."""
    if isinstance(a, EpisodeRecord):
        a, b = vars(a), vars(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b)


@contextmanager
def refused(says: str) -> Iterator[None]:
    """A ValueError of one line that says this (a pattern)."""
    with pytest.raises(ValueError, match=says) as error:
        yield
    assert "\n" not in str(error.value)
