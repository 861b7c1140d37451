"""Scoring a network: true, unclipped scores of whole episodes, apart from training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agents.networks import QNetwork
from envs.episodes import EpisodeRecord
from envs.games import human_normalised, human_score, random_score
from envs.protocols import Protocol
from experiment import setup
from experiment.config import Config
from experiment.statistics import mean_interval, standard_error

MAX_ENVS = 32


@dataclass
class Evaluation:
    """Scores of `episodes` whole episodes, in env order, and their records."""

    scores: list[float] = field(default_factory=list)
    records: list[EpisodeRecord] = field(default_factory=list)

    def summary(self, game: str) -> dict[str, Any]:
        """Mean, median, standard error and 95 % interval (Student's t) of the true scores."""
        scores = np.array(self.scores)
        low, high = mean_interval(scores)
        return {
            "episodes": len(scores),
            "mean": float(scores.mean()),
            "median": float(np.median(scores)),
            "standard_error": float(standard_error(scores)),
            "interval_95": [float(low), float(high)],
            "human_normalised": human_normalised(game, float(scores.mean())),
            "random_score": random_score(game),
            "human_score": human_score(game),
            "mean_frames": float(4 * np.mean([r.steps for r in self.records])),
        }

    def ranked(self) -> list[int]:
        """Indices of the episodes from the best score to the worst; ties in order of play."""
        return sorted(range(len(self.scores)), key=lambda i: -self.scores[i])


def evaluate(
    network: QNetwork, config: Config, protocol: Protocol, episodes: int, epsilon: float, seed: int, **envs: Any
) -> Evaluation:
    """Play `episodes` whole episodes, the same number in every env: no bias towards short ones.

    Envs are chosen so that they divide the episodes. The random streams are the evaluation's own: training
    is not disturbed. `envs` changes what AtariEnvs is given (observe).
    """
    num_envs = max(n for n in range(1, MAX_ENVS + 1) if episodes % n == 0)
    per_env = episodes // num_envs
    games = setup.make_envs(config, protocol, setup.EVAL_ENVS, num_envs=num_envs, seed=seed, **envs)
    actor = setup.make_actor(config, network, num_envs, setup.rng(seed, "evaluation"))
    eps = np.full(num_envs, epsilon)
    found: list[list[EpisodeRecord]] = [[] for _ in range(num_envs)]
    try:
        frame, is_first, reward = games.reset(), np.ones(num_envs, bool), np.zeros(num_envs, np.float32)
        while any(len(done) < per_env for done in found):
            games.send(actor.act(frame, is_first, reward, eps))
            step = games.recv()
            frame, is_first, reward = step.frame, step.is_first, step.reward
            for record in games.finished():
                if len(found[record.env]) < per_env:
                    found[record.env].append(record)
    finally:
        games.close()
    records = [record for env in found for record in env]
    return Evaluation([r.score for r in records], records)
