"""Score for the same time on the same cores: our agents and the peers', in turn, scored alike.

python -m benchmarks score [--game breakout] [--minutes 30] [--seeds 2] [--sides SIDE ...]

The sides are dqn, drqn, sb3-dqn and sb3-qrdqn. Each has the whole machine for so many minutes of
wall-clock, its start included. Then its greedy policy, with 1 % random actions, plays whole
episodes under the protocol v5 (sticky actions), through our own evaluation: the peers' weights are
put into our network, whose values are then theirs. benchmarks/peer_score.py tells the peers'
settings.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
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
from experiment.scores.evaluation import evaluate
from experiment.settings.config import Config, preset
from experiment.store.files import write_json

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
    never = ["--eval-frames", "0", "--track", "none"]
    for name in ("--frames", "--checkpoint-frames"):
        never += [name, str(10**12)]
    place = ["--runs-dir", str(folder.parent), "--name", folder.name, "--seed", str(seed)]
    command = [sys.executable, "train.py", side, "--game", game, *place, *never]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    if process.wait():
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")


def run_side(
    side: str, game: str, minutes: float, seed: int, episodes: int, folder: Path
) -> dict[str, Any]:
    """Train one side and score it."""
    begun, scoring = time.monotonic(), EVALUATION | {"eval_episodes": episodes}
    if side in PEERS:
        words = [side.removeprefix("sb3-"), game, str(60 * minutes), str(seed), str(folder)]
        subprocess.run([PEER, "-m", "benchmarks.peer_score", *words], cwd=ROOT, check=True)
        saved = torch.load(folder, weights_only=True)
        config = replace(preset("dqn"), game=game, seed=seed, **NATURE, **scoring)
        build.check_config(config)
        protocol = PROTOCOLS[config.protocol]
        frames, updates = 4 * saved["steps"], saved["updates"]
        network = adopt(saved["weights"], config, len(machine(game).actions(protocol)))
    else:
        _train_ours(side, game, 60 * minutes, seed, folder)
        agent = open_agent(folder, **scoring)
        config, protocol, network = agent.config, agent.protocol, agent.network
        frames, updates = agent.about["frames"], None
    trained = time.monotonic() - begun
    result = evaluate(network, config, protocol)
    score = result.summary(game)["mean"]
    length = f"{frames:,} frames in {trained / 60:.1f} minutes"
    console.print(f"{side}  seed {seed}  {length}  score {score:.1f}")
    about = {"side": side, "seed": seed, "frames": frames, "updates": updates}
    return {**about, "seconds": round(trained, 1), "score": score, "scores": result.scores}


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
    settings = {"game": game, "minutes": minutes, "episodes": options.episodes, **EVALUATION}
    path = options.json or ROOT / "benchmarks" / f"score-{game}.json"
    new = {**describe_machine(), **settings, "runs": []}
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else new
    if other := [f"{name} {record[name]}" for name in settings if record[name] != settings[name]]:
        parser.error(f"--json {path}: its runs have {', '.join(other)}; choose another file")
    runs = record["runs"]
    present = {(run["seed"], run["side"]) for run in runs}
    for seed, side in [(s + 1, side) for s in range(options.seeds) for side in options.sides]:
        if (seed, side) in present:
            continue
        with TemporaryDirectory() as temporary:
            place = (options.runs_dir or Path(temporary)) / f"{side}-{game}-s{seed}"
            place.parent.mkdir(parents=True, exist_ok=True)
            runs.append(run_side(side, game, minutes, seed, options.episodes, place))
        write_json(path, record)  # after each run: the same command goes on from it
    for side in options.sides:
        scores = [run["score"] for run in runs if run["side"] == side]
        listed = ", ".join(f"{score:.1f}" for score in scores)
        mean = f"mean {sum(scores) / len(scores):.1f} ({listed})"
        console.print(f"{side}: {mean}; random {random_score(game)}")
    return 0
