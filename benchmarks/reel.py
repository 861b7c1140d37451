"""Real frames to fill replays with: played once, kept as a file, shown again and again.

A million rows take minutes to play. So about 100,000 are played, kept, and appended in their order,
over and over, until the replay is full; where the reel begins again, all lanes start an episode.
The player acts at random.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from agents.replay import Replay
from agents.rows import Rows
from benchmarks.common import ROOT, SCRATCH
from envs.protocols import PROTOCOLS
from experiment import build
from experiment.settings.config import Config

import torch  # isort: skip  (after agents, which sets OpenMP)

ENVS = Config().num_envs
STEPS = 102_400 // ENVS
ENDS = [("terminated", "?"), ("truncated", "?")]
COLUMNS = np.dtype([("is_first", "?"), ("action", "u1"), ("reward", "f4"), *ENDS])


def play(game: str, path: Path) -> None:
    """Make a reel: the frames, and the other columns beside them."""
    rng, config = np.random.default_rng(1), Config(game=game, num_envs=ENVS)
    envs = build.make_envs(config, PROTOCOLS[config.protocol])
    frame, is_first = envs.reset(), np.ones(ENVS, bool)
    columns = np.zeros((STEPS, ENVS), COLUMNS)
    with path.with_suffix(".part").open("wb") as file:
        for row in columns:
            row["action"] = rng.integers(envs.num_actions, size=ENVS)
            row["is_first"] = is_first
            envs.send(row["action"])
            file.write(frame.tobytes())
            step = envs.recv()
            for name in ("reward", "terminated", "truncated"):
                row[name] = getattr(step, name)
            frame, is_first = step.frame, step.is_first
    np.save(path.with_suffix(".npy"), columns)
    path.with_suffix(".part").rename(path)
    envs.close()


def reel(game: str) -> Path:
    """The file of the game's frames; played now, in a process of its own, if it is not there."""
    path = SCRATCH / f"{game}-random-{ENVS}.frames"
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
