"""Score a trained agent under a protocol, and make videos of its episodes.

python evaluate.py runs/NAME [--episodes 30] [--protocol P] [--observe flicker --hide-probability 0.5]
                             [--epsilon 0.001] [--seed S] [--video best|median|all|none]
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from experiment import setup
from experiment.checkpoint import load_latest
from experiment.cli import exit_on_usage_error, parse_evaluate
from experiment.config import UsageError, check, from_dict
from experiment.evaluation import evaluate, load_network, spread, write_evaluation, write_videos


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a trained agent: true game scores of whole episodes, the same number in every env."""

    episodes: int = 30
    """Whole episodes to play."""
    protocol: str = ""
    """v5, machado18 or dqn-2015. Default: the run's own."""
    game: str = ""
    """Only to be sure: refuse the checkpoint unless it was trained on this game."""
    observe: str = ""
    """full, flicker, blackout, delay, blinkered or noise. Default: what the agent was trained on."""
    hide_probability: float | None = None
    """With --observe flicker: probability that a frame is hidden."""
    observe_parameter: float | None = None
    """flicker: probability; blackout: frames hidden at a time; delay: steps; blinkered: share of the height seen;
    noise: standard deviation in grey levels."""
    epsilon: float = 0.001
    """Share of random actions."""
    seed: int = 1
    """Of the games and the random actions; the same seed gives the same episodes."""
    video: Literal["best", "median", "all", "none"] = "best"
    """Episodes to film, in colour, 60 pictures a second."""
    threads: int = 0
    """CPU threads. 0: all cores."""


@contextlib.contextmanager
def refused(place: Path, what: str) -> Iterator[None]:
    """UsageError in place of an OSError within."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{place}: cannot be {what} ({error.strerror})") from None


@exit_on_usage_error
def main(argv: list[str]) -> int:
    folder, wanted = parse_evaluate(argv, EvaluateConfig)
    saved = load_latest(folder, training=False, report=lambda text: print(text, file=sys.stderr))
    trained, preset = from_dict({**saved.meta.get("config", {}), "preset": saved.meta.get("preset")}, str(folder))
    if wanted.game and wanted.game != trained.game:
        raise UsageError(f"--game {wanted.game}: {folder} was trained on {trained.game}")
    for name, ok, allowed in (
        ("episodes", 1 <= wanted.episodes <= 10_000, "1 to 10000"),
        ("epsilon", 0 <= wanted.epsilon <= 1, "0 to 1"),
    ):
        if not ok:
            raise UsageError(f"--{name} {getattr(wanted, name)}: must be from {allowed}")
    changes: dict[str, Any] = {"device": "cpu", "compile": False}
    changes |= {"eval_episodes": wanted.episodes, "eval_epsilon": wanted.epsilon, "seed": wanted.seed}
    changes |= {"protocol": wanted.protocol or trained.protocol, "threads": wanted.threads, "start_rows": 0}
    if wanted.observe:
        changes |= {"observe": wanted.observe, "observe_parameter": None, "hide_probability": None}
    if wanted.hide_probability is not None or wanted.observe_parameter is not None:
        changes |= {
            "hide_probability": wanted.hide_probability,
            "observe_parameter": wanted.observe_parameter,
        }
    config = replace(trained, **changes)
    check(config)
    protocol = setup.check_names(config)
    setup.use_threads(config)
    network = load_network(saved, config, protocol, folder)
    for part in ("eval", "videos"):
        with refused(folder / part, "made"):
            (folder / part).mkdir(exist_ok=True)
    result = evaluate(network, config, protocol, config.eval_episodes, config.eval_epsilon, config.seed)
    summary = result.summary(config.game)

    seen = setup.observe(config)
    frames = int(saved.meta["frames"])
    label = f"{frames:012d}-{config.protocol}-{seen.kind}{seen.parameter:g}"
    label += f"-e{wanted.epsilon:g}-n{wanted.episodes}-s{wanted.seed}"
    about = {
        "preset": preset,
        "game": config.game,
        "protocol": config.protocol,
        "observe": [seen.kind, seen.parameter],
        "frames": frames,
        "epsilon": wanted.epsilon,
        "train_seed": trained.seed,
        "eval_seed": wanted.seed,
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    with refused(folder / "eval", "written"):
        path = write_evaluation(folder / "eval" / label, result, summary, about)
    print(f"{preset} on {config.game}, protocol {config.protocol}, observe {seen.kind} {seen.parameter:g},")
    print(f"trained for {frames:,} frames, {summary['episodes']} episodes, epsilon {wanted.epsilon:g}")
    error = "" if summary["standard_error"] is None else f", standard error {summary['standard_error']:.2f}"
    print(f"mean    {summary['mean']:.1f}   {spread(summary)}, median {summary['median']:.1f}{error}")
    if summary["human_normalised"] is not None:
        print(f"random  {summary['random_score']}   human {summary['human_score']}   "
              f"human-normalised {summary['human_normalised']:.3f}")  # fmt: skip
    print(f"scores  {path}")
    with refused(folder / "videos", "written"):
        for video in write_videos(result, wanted.video, folder / "videos", f"{preset} {config.game} {label}"):
            print(f"video   {video}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
