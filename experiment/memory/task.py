"""Training and scoring on the recall task (envs/recall.py), by the loop and evaluation of Atari."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import train as program
from agents.networks import QNetwork
from experiment import build
from experiment.runs.session import open_run
from experiment.scores.evaluation import evaluate
from experiment.settings.config import Config, preset

STEPS_AN_UPDATE = 8  # of each env


def settings(core: str, seed: int, updates: int, **changes: Any) -> Config:
    """The drqn preset, changed for a small task; the same for all cores.

    Epsilon falls over 70 % of the run. The last action is no input: an agent without memory could
    store the cue in its actions. Unrolls are longer than the longest episode, so that every episode
    is whole in some unroll.
    """
    chosen = {
        "game": "recall/Recall-v0",
        "frame_stack": 1,
        "torso": "flat",
        "standardize": False,
        "core_size": 32,
        "hidden": 0,
        "head": "mean",
        "average": 0.0,
        "last_action_reward": False,
        "num_envs": 32,
        "replay_rows": 65_536,
        "start_rows": 8_192,
        "epsilon_final": 0.05,
        "batch_size": 64,
        "unroll": 104,
        "discount": 0.9,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "threads": 1,
        "track": "none",
        "eval_frames": 0,
        "checkpoint_frames": 10**9,
        "core": core,
        "seed": seed,
    } | changes
    steps = STEPS_AN_UPDATE * chosen["num_envs"]  # of all envs
    frames = chosen["start_rows"] + updates * steps
    return replace(
        preset("drqn"),
        **chosen,
        frames=frames,
        epsilon_frames=int(0.7 * frames),
        samples_per_step=chosen["batch_size"] * chosen["unroll"] / steps,
    )


def train(config: Config) -> QNetwork:
    """A network trained by the loop of train.py in a temporary folder; stop: KeyboardInterrupt."""
    with (
        tempfile.TemporaryDirectory() as home,
        open_run(replace(config, runs_dir=Path(home)), quiet=True) as run,
    ):
        program.train(run)
    if run.stop_asked:
        raise KeyboardInterrupt
    return run.learner.acting


def success(config: Config, network: QNetwork, wait: int, episodes: int = 500) -> float:
    """The share of right answers after exactly `wait` steps, without exploration."""
    play = {"game": f"recall/Recall{wait}-v0", "eval_episodes": episodes, "eval_epsilon": 0.0}
    config = replace(config, **play)
    return float(np.mean(np.array(evaluate(network, config, build.rules(config)).scores) > 0))
