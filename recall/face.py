"""The functions for notebooks: load an agent, play, train, and read metrics."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import train as program
from experiment.runs.session import open_run
from experiment.scores.agent import Agent, open_agent
from experiment.scores.trace import Trace, trace
from experiment.settings.config import override, preset
from experiment.store.metrics import read_rows

if TYPE_CHECKING:
    import pandas

load_agent = open_agent  # load_agent(folder, eval_episodes=1, observe="flicker:0.5")


def play(agent: Agent) -> list[Trace]:
    """Play whole episodes: eval_episodes of them, with eval_epsilon as the share of random actions.

    Both are settings of the agent. Each episode comes with the agent's inputs, values and states.
    """
    return [trace(agent.network, agent.config, record) for record in agent.play().records]


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
