"""Epsilon-greedy exploration with its own random generator."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LinearEpsilon:
    """Falls linearly from `start` to `final` over the first `frames` frames, the same for every env."""

    start: float
    final: float
    frames: int

    def __call__(self, frame: int, num_envs: int) -> np.ndarray:
        """Epsilon of each env [N] at this frame."""
        share = min(frame / self.frames, 1.0) if self.frames else 1.0
        return np.full(num_envs, self.start + share * (self.final - self.start))


@dataclass(frozen=True)
class ActorEpsilon:
    """A fixed epsilon for each env: base^(1 + alpha i / (N - 1)) (Horgan et al. 2018; R2D2 appendix)."""

    base: float = 0.4
    alpha: float = 7.0

    def __call__(self, frame: int, num_envs: int) -> np.ndarray:
        """Epsilon of each env [N]; the frame does not matter."""
        return self.base ** (1 + self.alpha * np.arange(num_envs) / max(num_envs - 1, 1))


def epsilon_greedy(q: np.ndarray, epsilon: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """q [N, A], epsilon [N] -> actions [N] int64. Draws the same amount from `rng` whatever q is."""
    explore = rng.random(len(q)) < epsilon
    uniform = rng.integers(q.shape[1], size=len(q))
    return np.where(explore, uniform, q.argmax(axis=1))
