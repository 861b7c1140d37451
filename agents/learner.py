"""One gradient step of (double, recurrent) Q-learning on a batch of sequences."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agents import losses
from agents.networks import QNetwork
from agents.types import Sequence, to_device


@dataclass(frozen=True)
class LearnerConfig:
    """What the update needs to know; lengths in rows."""

    burn_in: int
    unroll: int
    n_step: int
    discount: float
    trace_lambda: float | None  # None: n-step targets; else Q(lambda)
    double: bool
    value_rescaling: bool
    reward_clip: float | None
    loss: str
    optimizer: str
    learning_rate: float
    optimizer_epsilon: float
    max_grad_norm: float | None
    target_period: int  # updates between copies; 0: no target network
    priority_eta: float


class Update(NamedTuple):
    """What an update tells."""

    metrics: dict[str, float]
    priority: np.ndarray  # [B]


class NonFiniteError(RuntimeError):
    """Loss or gradient is no longer a number."""


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {  # torch's, fused where it can
    "adam": partial(torch.optim.Adam, fused=True),
    "radam": partial(torch.optim.RAdam, foreach=True),
    "rmsprop": partial(torch.optim.RMSprop, alpha=0.95, centered=True, foreach=True),  # as in Mnih et al. 2015
    "adadelta": partial(torch.optim.Adadelta, rho=0.95, foreach=True),  # as in Hausknecht & Stone 2015
}


class Learner:
    """Holds the online and the target network and the optimiser."""

    def __init__(
        self,
        online: QNetwork,
        config: LearnerConfig,
        autocast: Callable[[], torch.autocast],
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.online = online.to(self.device)
        self.config = config
        self._autocast = autocast
        # Without a target network the online one bootstraps from itself.
        self.target = copy.deepcopy(online).requires_grad_(False) if config.target_period else online
        self.optimizer = OPTIMIZERS[config.optimizer](
            online.parameters(), lr=config.learning_rate, eps=config.optimizer_epsilon
        )
        self.updates = 0

    def update(self, batch: Sequence) -> Update:
        """Burn in, unroll, take one step. Rows of the burn-in give no loss, no gradient and no priority."""
        c = self.config
        batch = to_device(batch, self.device)
        mask = losses.loss_mask(batch.truncated[c.burn_in : c.burn_in + c.unroll])  # [T, B]
        with self._autocast():
            with torch.no_grad():
                state = self._burn_in(self.online, batch, c.burn_in)
            rows = batch.inputs.rows(c.burn_in, c.burn_in + c.unroll)
            q, state = self.online(rows, state)  # [T, B, A]
            with torch.no_grad():
                value = self._values(batch, q.detach(), state.detach())  # [T + n, B]
        target = self._target(batch, value)  # [T, B]
        action = batch.action[c.burn_in : c.burn_in + c.unroll]
        chosen = q.gather(-1, action[..., None]).squeeze(-1)  # [T, B]
        td_error = target - chosen
        loss = (losses.LOSSES[c.loss](td_error) * mask * batch.weight).sum() / mask.sum().clamp(min=1)

        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.online.parameters(), c.max_grad_norm or float("inf"), foreach=True)
        metrics = {"loss": loss.item(), "grad_norm": norm.item(), "q_mean": chosen.detach().mean().item()}
        if not all(np.isfinite(list(metrics.values()))):
            raise NonFiniteError(f"update {self.updates}: {metrics}")
        self.optimizer.step()
        self.updates += 1
        if c.target_period and self.updates % c.target_period == 0:
            self.target.load_state_dict(self.online.state_dict())
        priority = losses.sequence_priority(td_error.detach(), mask, c.priority_eta)
        return Update(metrics, priority.cpu().numpy())

    def _burn_in(self, network: QNetwork, batch: Sequence, rows: int) -> Tensor:
        """The network's own core state [B, S] after the first rows (R2D2 section 3)."""
        if rows == 0 or network.state_size == 0:
            return batch.core_state
        return network(batch.inputs.rows(0, rows), batch.core_state)[1]

    def _values(self, batch: Sequence, q: Tensor, state: Tensor) -> Tensor:
        """v(s_t) for the unrolled rows and the n after them [T + n, B]. q, state: the online pass so far."""
        c = self.config
        start, stop = c.burn_in + 1, c.burn_in + c.unroll + c.n_step
        tail = batch.inputs.rows(c.burn_in + c.unroll, stop)
        online = torch.cat([q, self.online(tail, state)[0]])  # [T + n, B, A]
        value = online
        if self.target is not self.online:  # no target looks at v of the first row: the target network is spared it
            rest = self.target(batch.inputs.rows(start, stop), self._burn_in(self.target, batch, start))[0]
            value = torch.cat([online[:1], rest])
        return losses.double_q_value(online if c.double else value, value)

    def _target(self, batch: Sequence, value: Tensor) -> Tensor:
        """The regression targets [T, B]: clipped rewards, n-step or Q(lambda), in the network's value scale."""
        c = self.config
        reward = batch.reward[c.burn_in :]
        if c.reward_clip is not None:
            reward = reward.clamp(-c.reward_clip, c.reward_clip)
        ends = batch.terminated[c.burn_in :], batch.truncated[c.burn_in :]
        if c.value_rescaling:
            value = losses.unscale(value)
        if c.trace_lambda is None:
            target = losses.n_step_target(reward, *ends, value, c.discount, c.n_step)
        else:
            target = losses.q_lambda_target(reward, *ends, value, c.discount, c.trace_lambda, c.n_step)
        return losses.rescale(target) if c.value_rescaling else target

    def state(self) -> dict[str, Tensor]:
        """Weights, target weights, optimiser and counter, flat, by name."""
        state = {f"online.{k}": v for k, v in self.online.state_dict().items()}
        if self.target is not self.online:
            state |= {f"target.{k}": v for k, v in self.target.state_dict().items()}
        for i, slots in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in slots.items()}
        return state | {"updates": torch.tensor(self.updates)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave. ValueError if it does not fit this network."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

        try:
            self.online.load_state_dict(part("online."))
            if self.target is not self.online:
                self.target.load_state_dict(part("target."))
        except RuntimeError as error:
            raise ValueError(f"weights do not fit the network: {str(error).splitlines()[0]}") from None
        self.optimizer.state.clear()
        for i, parameter in enumerate(self.online.parameters()):
            slots = {}
            for key, value in part(f"optimizer.{i}.").items():
                # The moments take their parameter's memory layout: fused optimisers walk both in step.
                slots[key] = torch.empty_like(parameter).copy_(value) if value.ndim else value.clone()
            if slots:
                self.optimizer.state[parameter] = slots
        self.updates = int(state["updates"])
