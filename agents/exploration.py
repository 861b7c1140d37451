"""Epsilon-greedy exploration with its own random generator."""

import numpy as np


def linear_epsilon(
    frame: int, num_envs: int, *, start: float, final: float, frames: int
) -> np.ndarray:
    """Epsilon [N] at this frame: linear from `start` to `final` over the first `frames` frames."""
    share = min(frame / frames, 1.0) if frames else 1.0
    return np.full(num_envs, start + share * (final - start))


def actor_epsilon(frame: int, num_envs: int) -> np.ndarray:
    """A constant epsilon for each of N envs: base^(1 + alpha i / (N - 1)), base 0.4, alpha 7.

    Horgan et al. 2018; R2D2 appendix. The frame has no effect.
    """
    return 0.4 ** (1 + 7.0 * np.arange(num_envs) / max(num_envs - 1, 1))


def epsilon_greedy(q: np.ndarray, epsilon: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """q [N, A], epsilon [N] -> actions [N] int64. The draws from `rng` do not depend on q."""
    explore = rng.random(len(q)) < epsilon
    uniform = rng.integers(q.shape[1], size=len(q))
    return np.where(explore, uniform, q.argmax(axis=1))
