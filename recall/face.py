"""The functions for notebooks: load an agent, play, train, and read metrics."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import train as program
from envs.episodes import EpisodeRecord, replay_colour
from experiment.runs.session import open_run
from experiment.scores.agent import Agent, open_agent
from experiment.scores.trace import trace
from experiment.settings.config import override, preset
from experiment.store.metrics import read_rows

if TYPE_CHECKING:
    import pandas

load_agent = open_agent  # load_agent(folder, eval_episodes=1, observe="flicker:0.5")


class Episode(NamedTuple):
    """One episode of T steps, with the agent's inputs, values and states."""

    record: EpisodeRecord  # record.score is the true score
    frames: np.ndarray  # uint8 [T, H, W], the agent's images
    actions: np.ndarray  # int64 [T]
    q: np.ndarray  # float32 [T, A]
    core_states: np.ndarray  # float32 [T, S], after each step; S = 0 without memory

    def render(self, every_frame: bool = False) -> Iterator[np.ndarray]:
        """T + 1 images in colour, uint8 [height, width, 3]; every_frame: all of the emulator's."""
        return replay_colour(self.record, every_frame)


def play(agent: Agent) -> list[Episode]:
    """Play whole episodes: eval_episodes of them, with eval_epsilon as the share of random actions.

    Both are settings of the agent.
    """
    records = agent.play().records
    traces = (trace(agent.network, agent.config, record) for record in records)
    return [
        Episode(record, t.frames, t.action, t.q, t.state)
        for record, t in zip(records, traces, strict=True)
    ]


def train(
    agent: str = "drqn",
    callback: Callable[[dict[str, Any]], object] = lambda row: None,
    **settings: Any,
) -> Path:
    """Train as `train.py` does; settings are its flags with underscores. Returns the run's folder.

    `callback` gets each row of metrics, every log_frames frames. When it returns False, training
    writes a checkpoint and stops.
    """
    with open_run(override(preset(agent), settings), quiet=True) as run:
        run.listeners.append(lambda row: callback(row) is False and run.stop())
        program.train(run)
        run.finish()
        return run.folder


def metrics(*folders: Path | str) -> "pandas.DataFrame":
    """The rows of metrics.jsonl of these runs; the column `run` holds the name of the run."""
    import pandas  # an extra

    return pandas.DataFrame(
        [
            {"run": Path(f).name} | row
            for f in folders
            for row in read_rows(Path(f) / "metrics.jsonl")[0]
        ]
    )
