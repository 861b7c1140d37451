"""The arrays that travel between actor, replay and learner. Time first: [L, B, ...] is L rows of B
lanes."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Rows(NamedTuple):
    """One row of every lane: the screen at t, the action, and the reward and end that followed. All
    arrays [N, ...]."""

    frame: np.ndarray  # [N, H, W] uint8
    is_first: np.ndarray  # [N] bool, the row starts an episode
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
    """The network's input for L rows. The K - 1 rows of history before the first are there for
    frame stacks.

    A row's previous action and reward are zero where an episode starts; the network sees to that.
    """

    frames: Tensor  # [K-1+L, B, H, W] uint8, one image a row, as the agent saw it
    is_first: Tensor  # [K-1+L, B] bool, the row starts an episode; always on the host
    prev_action: Tensor  # [L, B] int64
    prev_reward: Tensor  # [L, B] float32, unclipped

    def rows(self, start: int, stop: int) -> "Inputs":
        """Rows start <= t < stop, with the history that their stacks need."""
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
        """The same on `device`, but for `is_first`: the host decides by it where a core starts
        anew."""
        frames, is_first, *rest = self
        return Inputs(
            frames.to(device, non_blocking=True),
            is_first,
            *(x.to(device, non_blocking=True) for x in rest),
        )


class Sequence(NamedTuple):
    """A batch of B stretches of L = burn_in + unroll + n_step consecutive rows of one lane each."""

    inputs: Inputs
    action: Tensor  # [L, B] int64, a_t
    reward: Tensor  # [L, B] float32, r_{t+1}, unclipped
    terminated: Tensor  # [L, B] bool, the episode ended (or, by protocol, a life) at t+1
    truncated: Tensor  # [L, B] bool, a time limit cut the episode at t+1
    core_state: Tensor  # [B, S] float32, the actor's state before the first row
    weight: Tensor  # [B] float32, importance weights (ones for uniform draws)
    origin: np.ndarray  # [B] int64, where the priorities go back to

    def lanes(self, cut: slice) -> "Sequence":
        """Some of the sequences."""
        rows = (x[:, cut] for x in self[1:5])
        return Sequence(
            self.inputs.lanes(cut), *rows, self.core_state[cut], self.weight[cut], self.origin[cut]
        )  # type: ignore[arg-type]

    def to(self, device: torch.device) -> "Sequence":
        """The same on `device`, where the next operations wait for it; nothing is copied on the
        CPU."""
        if device.type == "cpu":
            return self
        with torch.Stream(device) as copies:  # a stream of their own: earlier updates still run
            inputs, columns = (
                self.inputs.to(device),
                [x.to(device, non_blocking=True) for x in self[1:-1]],
            )
        compute = torch.accelerator.current_stream(device)
        compute.wait_stream(copies)
        for x in (*inputs, *columns):
            if x.device == device:
                x.record_stream(compute)  # its memory is not free before they have read it
        return Sequence(inputs, *columns, self.origin)  # type: ignore[call-arg]
