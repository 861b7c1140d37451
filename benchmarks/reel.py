"""Real frames to fill replays with: played once, kept as a file, shown again and again.

A million rows take minutes to play. So about 100,000 are played, kept, and appended in their order,
over and over, until the replay is full; where the reel begins again, all lanes start an episode.
The player acts at random, or with a trained policy: RECALL_REEL_RUNS="runs/NAME ..." in the
environment, each for its own game.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from agents.replay import Replay
from agents.rows import Rows
from benchmarks.common import ROOT, SCRATCH
from envs.protocols import PROTOCOLS
from experiment import build
from experiment.scores.agent import load_network
from experiment.settings import config as settings
from experiment.settings.config import Config
from experiment.store.checkpoint import load_latest

import torch  # isort: skip  (after agents, which sets OpenMP)

ENVS = settings.preset("drqn").num_envs
STEPS = 102_400 // ENVS
ENDS = [("terminated", "?"), ("truncated", "?")]
COLUMNS = np.dtype([("is_first", "?"), ("action", "u1"), ("reward", "f4"), *ENDS])


def player(game: str) -> Path | None:
    """The run whose policy plays this game; None: at random."""
    runs = map(Path, os.environ.get("RECALL_REEL_RUNS", "").split())
    return next((run for run in runs if settings.load(run / "config.yaml").game == game), None)


def play(game: str, path: Path) -> None:
    """Make a reel: the frames, and the other columns beside them."""
    run, rng = player(game), np.random.default_rng(1)
    config = settings.load(run / "config.yaml") if run else Config(game=game)
    config = replace(config, num_envs=ENVS)
    protocol = PROTOCOLS[config.protocol]
    envs = build.make_envs(config, protocol)
    actor = None
    if run:
        saved = load_latest(run, training=False, report=print)
        network = load_network(saved, config, protocol, run)
        actor = build.make_actor(config, network, ENVS, rng)
    epsilon = np.full(ENVS, 0.05)
    frame, is_first, reward = envs.reset(), np.ones(ENVS, bool), np.zeros(ENVS, np.float32)
    columns = np.zeros((STEPS, ENVS), COLUMNS)
    with path.with_suffix(".part").open("wb") as file:
        for row in columns:
            at_random = rng.integers(envs.num_actions, size=ENVS)
            row["action"] = actor.act(frame, is_first, reward, epsilon) if actor else at_random
            row["is_first"] = is_first
            envs.send(row["action"])
            file.write(frame.tobytes())
            step = envs.recv()
            for name in ("reward", "terminated", "truncated"):
                row[name] = getattr(step, name)
            frame, is_first, reward = step.frame, step.is_first, step.reward
    np.save(path.with_suffix(".npy"), columns)
    path.with_suffix(".part").rename(path)
    envs.close()


def reel(game: str) -> Path:
    """The file of the game's frames; played now, in a process of its own, if it is not there."""
    run = player(game)
    path = SCRATCH / f"{game}-{run.name if run else 'random'}-{ENVS}.frames"
    if not path.exists():
        SCRATCH.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.reel", game, str(path)]
        subprocess.run(command, cwd=ROOT, check=True)
    return path


def filled(config: Config, path: Path) -> Replay:
    """A replay of `config` with all its rows from a reel."""
    with torch.device("meta"):
        state_size = build.make_network(config, 4).state_size
    replay = build.make_replay(config, state_size)
    fill(replay, path, config.replay_rows, state_size)
    return replay


def fill(replay: Replay, path: Path, rows: int, state_size: int) -> None:
    """Append at least `rows` rows from a reel. Holds one step's frames at a time."""
    columns = np.load(path.with_suffix(".npy"))
    states = np.random.default_rng(1).standard_normal((ENVS, state_size), np.float32)
    frames = np.empty((ENVS, 84, 84), np.uint8)
    with path.open("rb", buffering=0) as file:
        for step in range(-(-rows // ENVS)):
            row = columns[step % STEPS]
            if step % STEPS == 0:
                file.seek(0)
            file.readinto(frames.data)
            parts = (
                row["is_first"],
                row["action"],
                row["reward"],
                row["terminated"],
                row["truncated"],
            )
            replay.append(Rows(frames, *parts, states))


if __name__ == "__main__":
    play(sys.argv[1], Path(sys.argv[2]))
