"""The arrays that actor, replay and learner exchange. [L, B, ...] is L rows of B lanes."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Rows(NamedTuple):
    """One row of every lane: the screen at t, the action, and its reward and end at t + 1."""

    frame: np.ndarray  # [N, H, W] uint8
    is_first: np.ndarray  # [N] bool, the row is the first of an episode
    action: np.ndarray  # [N] int, a_t
    reward: np.ndarray  # [N] float32, r_{t+1}, unclipped
    terminated: np.ndarray  # [N] bool
    truncated: np.ndarray  # [N] bool
    core_state: np.ndarray  # [N, S] float32, before this row

    @property
    def steps(self) -> int:
        """Rows of all lanes together."""
        return len(self.frame)


class Inputs(NamedTuple):
    """The network's input for L rows, with K - 1 rows of history for the frame stacks.

    The network sets the previous action and reward of an episode's first row to zero.
    """

    frames: Tensor  # [K-1+L, B, H, W] uint8, one image a row, as the agent saw it
    is_first: Tensor  # [K-1+L, B] bool, the row is the first of an episode; always on the host
    prev_action: Tensor  # [L, B] int64
    prev_reward: Tensor  # [L, B] float32, unclipped

    def rows(self, start: int, stop: int) -> "Inputs":
        """Rows start <= t < stop, with the history for their stacks."""
        history = self.frames.shape[0] - self.prev_action.shape[0]
        return Inputs(
            self.frames[start : stop + history],
            self.is_first[start : stop + history],
            self.prev_action[start:stop],
            self.prev_reward[start:stop],
        )

    def lanes(self, cut: slice) -> "Inputs":
        """Some of the lanes."""
        return Inputs(*(x[:, cut] for x in self))

    def to(self, device: torch.device) -> "Inputs":
        """A copy on `device`, except `is_first`: the host reads it to reset the core."""
        return Inputs(*(x if x is self.is_first else x.to(device, non_blocking=True) for x in self))


class Sequence(NamedTuple):
    """A batch of B stretches of L = burn_in + unroll + n_step consecutive rows of one lane each."""

    inputs: Inputs
    action: Tensor  # [L, B] int64, a_t
    reward: Tensor  # [L, B] float32, r_{t+1}, unclipped
    terminated: Tensor  # [L, B] bool, the episode (by protocol also a life) ended at t+1
    truncated: Tensor  # [L, B] bool, a time limit ended the episode at t+1
    core_state: Tensor  # [B, S] float32, the actor's state before the first row
    weight: Tensor  # [B] float32, importance weights (ones for uniform draws)
    origin: np.ndarray  # [B] int64, addresses of the sequences in the replay

    def lanes(self, cut: slice) -> "Sequence":
        """Some of the sequences."""
        rows, rest = (x[:, cut] for x in self[1:5]), (x[cut] for x in self[5:])
        return Sequence(self.inputs.lanes(cut), *rows, *rest)  # type: ignore[arg-type]

    def to(self, device: torch.device) -> "Sequence":
        """A copy on `device`, for which later operations there wait; on the CPU, the batch."""
        if device.type == "cpu":
            return self
        with torch.Stream(device) as copies:  # its own stream: earlier updates continue meanwhile
            inputs = self.inputs.to(device)
            columns = [x.to(device, non_blocking=True) for x in self[1:-1]]
        compute = torch.accelerator.current_stream(device)
        compute.wait_stream(copies)
        for x in (*inputs, *columns):
            if x.device == device:
                x.record_stream(compute)  # no reuse of its memory before these operations end
        return Sequence(inputs, *columns, self.origin)  # type: ignore[call-arg]
