"""What a notebook needs: load an agent, play, look inside, train, and read metrics."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

import train as program
from envs.episodes import EpisodeRecord, replay_colour
from experiment.runs.session import open_run
from experiment.scores.agent import Agent, inputs_of, open_agent
from experiment.settings.config import override, preset
from experiment.store.metrics import read_rows

if TYPE_CHECKING:
    import pandas

load_agent = open_agent  # load_agent(folder, observe=None, **overrides): an agent of a run's folder, on the CPU


class Episode(NamedTuple):
    """One episode of T steps, as the agent lived it."""

    record: EpisodeRecord  # replayable; record.score is the true score
    frames: np.ndarray  # uint8 [T, H, W], what the agent saw
    actions: np.ndarray  # int64 [T]
    q: np.ndarray  # float32 [T, A]
    core_states: np.ndarray  # float32 [T, S], after each step; S = 0 without a core

    def render(self, every_frame: bool = False) -> Iterator[np.ndarray]:
        """The game in colour, uint8 [height, width, 3], T + 1 images; with every_frame all that the emulator drew."""
        return replay_colour(self.record, every_frame)


@torch.no_grad()
def play(agent: Agent) -> list[Episode]:
    """Whole episodes, as many as the agent's setting eval_episodes, with the share eval_epsilon of random actions."""
    episodes, network = [], agent.network
    depth = network.settings.frame_stack
    for record in agent.play().records:
        inputs, actions = inputs_of(record, depth)
        state, q, states = network.initial_state(1), [], []
        for t in range(record.steps):
            values, state = network(inputs.rows(t, t + 1), state)
            q.append(values[0, 0])
            states.append(state[0])
        frames = inputs.frames[depth - 1 :, 0].numpy()
        arrays = (torch.stack(q).float().numpy(), torch.stack(states).float().numpy())
        episodes.append(Episode(record, frames, actions.numpy(), *arrays))
    return episodes


def train(
    agent: str = "drqn", callback: Callable[[dict[str, Any]], object] = lambda row: None, **settings: Any
) -> Path:
    """Train as `train.py` does; settings are its flags with underscores. Returns the run's folder.

    `callback` gets each row of metrics, every log_frames frames; when it returns False, training stops, with a
    checkpoint.
    """
    with open_run(override(preset(agent), settings), quiet=True) as run:
        publish = run._publish

        def publish_and_call(row: dict[str, Any]) -> None:
            publish(row)
            if callback(row) is False:
                run.stop()

        run._publish = publish_and_call
        program.train(run)
        run.finish()
        return run.folder


def metrics(*folders: Path | str) -> "pandas.DataFrame":
    """The rows of metrics.jsonl of these runs, one under the other, with the run's name in the column `run`."""
    import pandas  # an extra

    rows = [{"run": Path(f).name} | row for f in folders for row in read_rows(Path(f) / "metrics.jsonl")[0]]
    return pandas.DataFrame(rows)
