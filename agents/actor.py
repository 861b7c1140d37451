"""Acting: from one row of every env to one action of every env.

The actor carries the core state from one row to the next.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from agents.exploration import epsilon_greedy
from agents.networks import QNetwork
from agents.rows import Inputs
from agents.workers import cut, map_parts

PART_LANES = 16  # most envs in one forward pass on the CPU, for any number of threads


class Actor:
    """Plays `num_envs` games with one network. Training and evaluation use the same class.

    `autocast` sets the precision of the forward pass. `rng` serves exploration alone.
    """

    def __init__(
        self,
        network: QNetwork,
        num_envs: int,
        rng: np.random.Generator,
        autocast: Callable[[], torch.autocast],
        frame_shape: tuple[int, int] = (84, 84),
    ) -> None:
        self.network, self.rng, self._autocast = network, rng, autocast
        depth = network.settings.frame_stack
        self.core_state = network.initial_state(num_envs)  # [N, S], before the next row
        self._frames = np.zeros((depth, num_envs, *frame_shape), np.uint8)
        self._is_first = np.zeros((depth, num_envs), bool)
        self._action = np.zeros(num_envs, np.int64)

    def act(
        self,
        frame: np.ndarray,
        is_first: np.ndarray,
        prev_reward: np.ndarray,
        epsilon: np.ndarray,
        playing: np.ndarray | None = None,
    ) -> np.ndarray:
        """Actions [N] int64 for the next row of every env.

        frame [N, H, W] uint8, is_first [N] bool, prev_reward [N] float32, epsilon [N]. The network
        computes only the lanes in `playing` [N] bool (None: all); in the others Q is 0 and the core
        state does not change. The draws from `rng` do not depend on `playing`.
        """
        self._frames = np.concatenate([self._frames[1:], frame[None]])
        self._is_first = np.concatenate([self._is_first[1:], is_first[None]])
        lanes = np.arange(len(frame)) if playing is None else np.flatnonzero(playing)  # [n]
        rows = self._frames, self._is_first, self._action[None], prev_reward[None]
        device = self.core_state.device
        inputs = Inputs(*(torch.from_numpy(x.take(lanes, axis=1)) for x in rows)).to(device)
        index = torch.from_numpy(lanes).to(device)
        before = self.core_state[index]  # [n, S]
        count = -(-len(lanes) // PART_LANES) if device.type == "cpu" else 1
        parts = [(inputs.lanes(part), before[part]) for part in cut(len(lanes), count)]
        q_lanes, states = zip(*map_parts(self._forward, parts), strict=True)
        self.core_state = self.core_state.index_copy(0, index, torch.cat(states))
        self.q = np.zeros((len(frame), self.network.num_actions), np.float32)  # [N, A]
        self.q[lanes] = torch.cat(q_lanes).cpu().numpy()
        self._action = epsilon_greedy(self.q, epsilon, self.rng)
        return self._action

    @torch.no_grad()
    def _forward(self, part: tuple[Inputs, Tensor]) -> tuple[Tensor, Tensor]:
        """Q [N, A] and the next states [N, S], from one row of N envs and their core states."""
        with self._autocast():
            q, state = self.network(*part)  # [1, N, A]
        return q[0].float(), state

    def state(self) -> dict[str, Tensor]:
        """All of the actor except the generator and the network, by name."""
        return {
            "core_state": self.core_state,
            "frames": torch.from_numpy(self._frames),
            "is_first": torch.from_numpy(self._is_first),
            "action": torch.from_numpy(self._action),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore from a result of `state`."""
        for name, own in self.state().items():
            own.copy_(state[name])  # writes into the arrays, which share the tensors' memory
