"""Scoring a network: true, unclipped scores of whole episodes, apart from training."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from agents.networks import QNetwork
from envs.episodes import EpisodeRecord, replay_colour
from envs.games import human_normalised, human_score, random_score
from envs.protocols import Protocol
from experiment import build
from experiment.scores.intervals import mean_interval, standard_error
from experiment.scores.video import write_video
from experiment.settings.config import Config, UsageError, check, from_dict
from experiment.store.checkpoint import NETWORK, Checkpoint, load_latest
from experiment.store.files import write_json
from experiment.store.fits import check_weights

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
            "standard_error": _known(standard_error(scores)),
            "interval_95": [_known(low), _known(high)],
            "human_normalised": human_normalised(game, float(scores.mean())),
            "random_score": random_score(game),
            "human_score": human_score(game),
        }


def ranked(scores: Sequence[float]) -> list[int]:
    """Indices from the best score to the worst, of equals the earlier first."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def middle_and_best(scores: Sequence[float]) -> tuple[int, int]:
    """Which episode, or run, is the median one, and which the best."""
    order = ranked(scores)
    return order[len(order) // 2], order[0]


def _known(value: float) -> float | None:
    """None for NaN: one episode says nothing of the spread."""
    return float(value) if np.isfinite(value) else None


def spread(summary: Mapping[str, Any]) -> str:
    """The interval of a summary in words."""
    low, high = summary["interval_95"]
    return "no interval from one episode" if low is None else f"95 % interval {low:.1f} to {high:.1f}"


class StoppedError(Exception):
    """The evaluation was asked to stop before its last episode ended."""


def evaluate(
    network: QNetwork,
    config: Config,
    protocol: Protocol,
    should_stop: Callable[[], bool] = lambda: False,
    wipe_every: int = 0,
) -> Evaluation:
    """Play the settings' `eval_episodes` whole episodes, the same number in every env: no bias towards short ones.

    Up to 32 envs; where they do not divide the episodes, the last one plays fewer, which is settled before play.
    `eval_epsilon` is the share of random actions, `seed` that of the games and of these actions.

    Asked before each step, `should_stop` can end it early: StoppedError. With `wipe_every` k the core states of all
    envs are set back to their start before the steps 0, k, 2 k ...: nothing is remembered for longer than k steps.

    The random streams are the evaluation's own: training is not disturbed.
    """
    episodes, seed = config.eval_episodes, config.seed
    per_env = -(-episodes // MAX_ENVS)
    num_envs = -(-episodes // per_env)
    quota = [per_env] * (num_envs - 1) + [episodes - per_env * (num_envs - 1)]
    games = build.make_envs(config, protocol, build.EVAL_ENVS, num_envs=num_envs, seed=seed)
    actor = build.make_actor(config, network, num_envs, build.rng(seed, "evaluation"))
    epsilon = np.full(num_envs, config.eval_epsilon)
    found: list[list[EpisodeRecord]] = [[] for _ in range(num_envs)]
    steps = count()
    try:
        frame, is_first, reward = games.reset(), np.ones(num_envs, bool), np.zeros(num_envs, np.float32)
        while [*map(len, found)] != quota:
            if should_stop():
                raise StoppedError
            if wipe_every and next(steps) % wipe_every == 0:
                actor.core_state = network.initial_state(num_envs)
            games.send(actor.act(frame, is_first, reward, epsilon))
            step = games.recv()
            frame, is_first, reward = step.frame, step.is_first, step.reward
            for record in games.finished():
                if len(found[record.env]) < quota[record.env]:
                    found[record.env].append(record)
    finally:
        games.close()
    records = [record for env in found for record in env]
    return Evaluation([r.score for r in records], records)


@dataclass(frozen=True)
class Agent:
    """A trained agent, and how it is to be scored."""

    folder: Path
    config: Config  # of the evaluation: observation, episodes, epsilon, seed
    protocol: Protocol
    network: QNetwork
    about: dict[str, Any]  # what files with its scores say of it


def open_agent(folder: Path, **changes: Any) -> Agent:
    """The agent of a run's newest whole checkpoint; `changes` are to its settings. On the CPU.

    UsageError if there is none, or if it, or what is wanted of it, makes no sense.
    """
    saved = load_latest(folder, training=False, report=lambda text: print(text, file=sys.stderr))
    trained, preset = from_dict({**saved.meta.get("config", {}), "preset": saved.meta.get("preset")}, str(folder))
    config = replace(trained, device="cpu", compile=False, start_rows=0, **changes)
    check(config)
    protocol = build.check_names(config)
    build.check_machine(config)
    build.use_threads(config)
    network = load_network(saved, config, protocol, folder)
    about = {
        "preset": preset,
        "game": config.game,
        "protocol": config.protocol,
        "frames": int(saved.meta["frames"]),
        "epsilon": config.eval_epsilon,
        "train_seed": trained.seed,
        "eval_seed": config.seed,
        "parameters": sum(p.numel() for p in network.parameters()),
        "network_sha256": saved.meta["files"][NETWORK]["sha256"],
    }
    return Agent(folder, config, protocol, network, about)


def load_network(saved: Checkpoint, config: Config, protocol: Protocol, folder: Path) -> QNetwork:
    """The trained network, on the CPU. UsageError if the weights or the action set do not fit."""
    games = build.make_envs(config, protocol, build.EVAL_ENVS, num_envs=1)
    num_actions = games.num_actions
    games.close()
    trained = saved.meta.get("num_actions")
    if trained != num_actions:
        raise UsageError(
            f"--protocol {protocol.name}: {num_actions} actions in {config.game}, "
            f"but {folder} was trained with {trained}"
        )
    check_weights(config, num_actions, saved.weights, str(folder))
    network = build.make_network(config, num_actions)
    network.load_state_dict(saved.weights)
    return network


def record_name(episode: int) -> str:
    """The file of an episode's record, in its evaluation's folder."""
    return f"episode-{episode:03d}.json"


def write_evaluation(stem: Path, result: Evaluation, summary: dict[str, Any], about: dict[str, Any]) -> Path:
    """`stem`.json with scores and summary, and the episodes' records in the folder `stem`. OSError if it cannot."""
    stem.mkdir(parents=True, exist_ok=True)
    for i, record in enumerate(result.records):
        record.save(stem / record_name(i))
    path = stem.with_name(stem.name + ".json")
    write_json(path, {**about, **summary, "scores": result.scores})
    return path


def write_videos(result: Evaluation, which: str, folder: Path, title: str) -> Iterator[Path]:
    """Films of the best, the median or all episodes, from their records."""
    middle, best = middle_and_best(result.scores)
    chosen = {"best": [best], "median": [middle], "all": ranked(result.scores), "none": []}[which]
    for i in chosen:
        score = result.scores[i]
        path = folder / f"{title.replace(' ', '-')}-{which}-{i:03d}-score-{score:g}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(
            replay_colour(result.records[i], every_frame=True), path, caption=f"{title.rsplit(' ', 1)[0]}  {score:g}"
        )
        yield path
