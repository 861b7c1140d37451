"""Score for the same time on the same cores: our agents and the peers', in turn, scored alike.

python -m benchmarks score [--game breakout] [--minutes 30] [--seeds 2] [--sides SIDE ...]

The sides are dqn, drqn, sb3-dqn and sb3-qrdqn. Each has all cores that this command may use for so
many minutes of wall-clock, its start included. Then its greedy policy, with 1 % random actions,
plays whole episodes under the protocol v5 (sticky actions), through our own evaluation: the peers'
weights are put into our network, whose values are then theirs. benchmarks/peer_score.py tells the
peers' settings. A stopped command goes on from its file of results, after the last side in it; with
--runs-dir it needs another folder.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from agents.networks import QNetwork
from benchmarks.common import ROOT, console, describe_machine
from envs.emulator import machine
from envs.games import random_score
from envs.protocols import PROTOCOLS
from experiment import build
from experiment.scores.agent import open_agent
from experiment.scores.evaluation import check_writable, evaluate
from experiment.settings.cli import exit_on_usage_error
from experiment.settings.config import Config, UsageError, override, preset
from experiment.settings.resources import cores
from experiment.store.files import refused, write_json
from experiment.studies.jobs import FOLLOW_PARENT

OURS, PEERS = ("dqn", "drqn"), ("sb3-dqn", "sb3-qrdqn")
PEER = str(ROOT / ".bench-venv" / "bin" / "python")
EVALUATION = {"protocol": "v5", "eval_epsilon": 0.01, "precision": "fp32"}
NATURE = {"torso": "nature", "hidden": 512, "core": "identity", "frame_stack": 4, "head": "mean"}
NATURE |= dict.fromkeys(("norm", "center", "standardize", "last_action_reward"), False)


def adopt(weights: list[Tensor], config: Config, num_actions: int) -> QNetwork:
    """Our network with the weights of stable-baselines3's.

    Three convolutions, a hidden layer and an output layer of num_actions values, or of quantiles
    for each action, whose mean is Q.
    """
    network = build.make_network(config, num_actions)
    *conv, hidden, hidden_bias, last, last_bias = weights
    # Ours reads channels last.
    hidden = hidden.unflatten(1, (64, 7, 7)).permute(0, 2, 3, 1).flatten(1)
    last, last_bias = (x.unflatten(0, (-1, num_actions)).mean(0) for x in (last, last_bias))
    others = [*conv, hidden, hidden_bias, last, last_bias]
    with torch.no_grad():
        for own, other in zip(network.parameters(), others, strict=True):
            own.copy_(other)
    return network


def _train_ours(side: str, game: str, seconds: float, seed: int, folder: Path) -> None:
    """train.py with the preset's own settings, stopped as by a user: it saves a checkpoint."""
    length = ["--eval-frames", "0", "--track", "none"]
    for name in ("--frames", "--checkpoint-frames"):
        length += [name, str(10**12)]
    place = ["--runs-dir", str(folder.parent), "--name", folder.name, "--seed", str(seed)]
    words = ["train.py", side, "--game", game, *place, *length]
    command = [sys.executable, "-c", FOLLOW_PARENT, str(os.getpid()), *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.terminate()
    if process.returncode:
        raise UsageError(f"{' '.join(words)}: ended with {process.returncode}")


def run_side(
    side: str, game: str, minutes: float, seed: int, episodes: int, folder: Path
) -> dict[str, Any]:
    """Train one side and score it."""
    start, scoring = time.monotonic(), EVALUATION | {"eval_episodes": episodes}
    if side in PEERS:
        words = [side.removeprefix("sb3-"), game, str(60 * minutes), str(seed), str(folder)]
        peer = subprocess.run([PEER, "-m", "benchmarks.peer_score", *words], cwd=ROOT, check=False)
        if peer.returncode:
            raise UsageError(f"{side}: ended with {peer.returncode}")
        saved = torch.load(folder, weights_only=True)
        config = replace(preset("dqn"), game=game, seed=seed, **NATURE, **scoring)
        protocol = PROTOCOLS[config.protocol]
        frames, updates = 4 * saved["steps"], saved["updates"]
        network = adopt(saved["weights"], config, len(machine(game).actions(protocol)))
    else:
        _train_ours(side, game, 60 * minutes, seed, folder)
        agent = open_agent(folder, **scoring)
        config, protocol, network = agent.config, agent.protocol, agent.network
        frames, updates = agent.about["frames"], None
    seconds = time.monotonic() - start
    result = evaluate(network, config, protocol)
    score = result.summary(game)["mean"]
    length = f"{frames:,} frames in {seconds / 60:.1f} minutes"
    console.print(f"{side}  seed {seed}  {length}  score {score:.1f}")
    about = {"side": side, "seed": seed, "frames": frames, "updates": updates}
    return {**about, "seconds": round(seconds, 1), "score": score, "scores": result.scores}


@exit_on_usage_error
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--game", default="breakout")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seeds", type=int, default=2)
    episodes = "whole episodes that score one run. Default: 30"
    parser.add_argument("--episodes", type=int, default=30, help=episodes)
    parser.add_argument("--sides", nargs="+", choices=(*OURS, *PEERS), default=[*OURS, *PEERS])
    result = "where the result goes. Default: benchmarks/score-GAME.json"
    parser.add_argument("--json", type=Path, help=result)
    keep = "keep the trained runs here; train.py --resume goes on with ours. Default: delete them"
    parser.add_argument("--runs-dir", type=Path, help=keep)
    options = parser.parse_args(argv)
    game, minutes = options.game, options.minutes
    settings: dict[str, Any] = {"game": game, "minutes": minutes, "cores": cores()}
    settings |= {"episodes": options.episodes, **EVALUATION}
    path = options.json or ROOT / "benchmarks" / f"score-{game}.json"
    if minutes <= 0 or options.seeds < 1:
        parser.error("--minutes and --seeds must be positive")
    build.check_config(override(preset("dqn"), {"game": game, "eval_episodes": options.episodes}))
    check_writable(path.parent, option="--json")
    if {*options.sides} & {*PEERS} and not Path(PEER).exists():
        raise UsageError(f"{PEER}: missing; `make .bench-venv/installed` makes it")
    runs = _runs(path, settings)
    names: dict[tuple[int, str], str] = {}
    for seed, side in [(s + 1, side) for s in range(options.seeds) for side in options.sides]:
        if any((run["seed"], run["side"]) == (seed, side) for run in runs):
            console.print(f"{side}  seed {seed}  is in {path}")
        else:
            names[seed, side] = f"{side}-{game}-s{seed}"
    if options.runs_dir:
        check_writable(options.runs_dir, option="--runs-dir")
        for name in names.values():
            if (options.runs_dir / name).exists():
                raise UsageError(
                    f"--runs-dir {options.runs_dir}: has {name}; choose another folder"
                )
    for (seed, side), name in names.items():
        with TemporaryDirectory() as temporary:
            place = (options.runs_dir or Path(temporary)) / name
            run = run_side(side, game, minutes, seed, options.episodes, place)
        runs = [*_runs(path, settings), describe_machine() | run]  # others write to it as well
        write_json(path, settings | {"runs": runs})
    for side in options.sides:
        scores = [run["score"] for run in runs if run["side"] == side]
        listed = ", ".join(f"{score:.1f}" for score in scores)
        mean = f"mean {sum(scores) / len(scores):.1f} ({listed})"
        console.print(f"{side}: {mean}; random {random_score(game)}")
    return 0


def _runs(path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs in a file of results; none without a file. UsageError if they had other settings."""
    if not path.exists():
        return []
    with refused(f"--json {path}", "read"):
        record = json.loads(path.read_text(encoding="utf-8"))
        other = [f"{name} {record[name]}" for name in settings if record[name] != settings[name]]
        if other:
            raise UsageError(
                f"--json {path}: its runs have {', '.join(other)}; choose another file"
            )
        return record["runs"]
