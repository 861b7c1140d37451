"""Whole episodes played by a network: true, unclipped scores, apart from training."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agents.networks import QNetwork
from envs.episodes import EpisodeRecord
from envs.games import human_normalised, human_score, random_score
from envs.protocols import Protocol
from experiment import build
from experiment.scores.intervals import mean_interval, standard_error
from experiment.settings.config import Config
from experiment.store.files import refused, write_json

MAX_ENVS = 32


@dataclass
class Evaluation:
    """Scores of whole episodes and their records, in the order of the envs."""

    scores: list[float] = field(default_factory=list)
    records: list[EpisodeRecord] = field(default_factory=list)

    def summary(self, game: str) -> dict[str, Any]:
        """Mean, median, standard error and 95 % interval (Student's t) of the true scores.

        Beside them the game's random and human scores; None where a value is not known.
        """
        scores = np.array(self.scores)
        return {
            "episodes": len(scores),
            "mean": float(scores.mean()),
            "median": float(np.median(scores)),
            "standard_error": _finite(standard_error(scores)),
            "interval_95": [_finite(bound) for bound in mean_interval(scores)],
            "human_normalised": human_normalised(game, float(scores.mean())),
            "random_score": random_score(game),
            "human_score": human_score(game),
        }


def _finite(value: float) -> float | None:
    """None for NaN, which JSON lacks."""
    return float(value) if np.isfinite(value) else None


def ranked(scores: Sequence[float]) -> list[int]:
    """Indices from the best score to the worst; of equal scores the earlier index comes first."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def middle_and_best(scores: Sequence[float]) -> tuple[int, int]:
    """The index of the median score, and that of the best."""
    order = ranked(scores)
    return order[len(order) // 2], order[0]


def spread(summary: Mapping[str, Any]) -> str:
    """The interval of a summary as text."""
    low, high = summary["interval_95"]
    return (
        "no interval from one episode" if low is None else f"95 % interval {low:.1f} to {high:.1f}"
    )


def evaluate(
    network: QNetwork,
    config: Config,
    protocol: Protocol,
    should_stop: Callable[[], bool] = lambda: False,
    wipe_every: int = 0,
    report: Callable[[list[float], int], object] = lambda scores, steps: None,
) -> Evaluation:
    """Play `config.eval_episodes` whole episodes, the same number in each env, short or long.

    At most 32 envs play side by side; if the episodes do not divide evenly, the last env plays
    fewer, a number fixed before play. `config.eval_epsilon` is the share of random actions,
    `config.seed` the seed of the games and of these actions. The random streams are the
    evaluation's own: training is not disturbed.

    If `should_stop` returns True before a step, the evaluation ends early with the finished
    episodes; short ones end first, so their mean is biased. After each step `report` is called
    with the scores so far, in the order in which episodes ended, and the number of steps. With
    `wipe_every` k the core states of all envs are reset before the steps 0, k, 2 k ...: the
    network remembers nothing for longer than k steps.

    The network computes only envs that have episodes left to play. Random draws do not depend on
    that, but the last bits of a Q-value may depend on the size of the batch.
    """
    episodes = config.eval_episodes
    per_env = -(-episodes // MAX_ENVS)
    left = np.diff([*range(0, episodes, per_env), episodes])  # [N], episodes yet to play
    num_envs = len(left)
    games = build.make_envs(config, protocol, build.EVAL_ENVS, num_envs)
    actor = build.make_actor(config, network, num_envs, build.rng(config.seed, "evaluation"))
    epsilon = np.full(num_envs, config.eval_epsilon)
    records: list[EpisodeRecord] = []  # in the order in which they ended
    steps = 0
    with closing(games):
        is_first, reward = np.ones(num_envs, bool), np.zeros(num_envs, np.float32)
        frame = games.reset()
        while left.any() and not should_stop():
            if wipe_every and steps % wipe_every == 0:
                actor.core_state = network.initial_state(num_envs)
            games.send(actor.act(frame, is_first, reward, epsilon, playing=left > 0))
            step = games.recv()
            frame, is_first, reward, steps = step.frame, step.is_first, step.reward, steps + 1
            for record in games.finished():
                if left[record.env]:
                    left[record.env] -= 1
                    records.append(record)
            report([record.score for record in records], steps)
    records.sort(key=lambda record: record.env)  # stable: an env's episodes stay in order
    return Evaluation([record.score for record in records], records)


def check_writable(*folders: Path, option: str = "--out") -> None:
    """Make the folders before the work begins. UsageError if no file can be written there.

    `option`: the flag that chooses another folder.
    """
    for folder in folders:
        with refused(folder, f"written; choose another folder with {option}"):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()


def record_name(episode: int) -> str:
    """The file of an episode's record, in its evaluation's folder."""
    return f"episode-{episode:03d}.json"


def write_evaluation(
    stem: Path, result: Evaluation, summary: dict[str, Any], about: dict[str, Any]
) -> Path:
    """Write `stem`.json (about, summary, scores) and the folder `stem` of the episodes' records.

    OSError if they cannot be written.
    """
    stem.mkdir(parents=True, exist_ok=True)
    for i, record in enumerate(result.records):
        record.save(stem / record_name(i))
    path = stem.with_name(stem.name + ".json")
    write_json(path, {**about, **summary, "scores": result.scores})
    return path
