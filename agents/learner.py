"""One gradient step of (double, recurrent) Q-learning on a batch of sequences."""

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
from agents.rows import Sequence, to_device


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
    munchausen: bool = False
    seed: int = 0  # of the fractions that a quantile head is trained at


class Update(NamedTuple):
    """What an update tells."""

    metrics: dict[str, float]
    priority: np.ndarray  # [B]
    core_state: Tensor  # [B, S] the online network's, after the unroll


class NonFiniteError(RuntimeError):
    """Loss or gradient is no longer a number."""


FRACTIONS = 20  # the random stream of quantile fractions, beside those of build.STREAMS
MUNCHAUSEN = {"scale": 0.9, "temperature": 0.03, "floor": -1.0}  # Vieillard et al. 2020, appendix B.1

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
        unrolled = slice(c.burn_in, c.burn_in + c.unroll)
        mask = losses.loss_mask(batch.truncated[unrolled])  # [T, B]
        # A stream of its own for every update: there is no generator to save.
        rng = np.random.default_rng([c.seed, FRACTIONS, self.updates])
        tau = self.online.head.random_fractions(mask.shape, rng).to(self.device)  # [T, B, N]
        with self._autocast():
            with torch.no_grad():
                state = self._burn_in(self.online, batch, c.burn_in)
            z, state = self.online.returns(batch.inputs.rows(unrolled.start, unrolled.stop), state, tau)
            with torch.no_grad():
                z_next = self._bootstrap(batch, z.detach(), state.detach(), rng)  # [T + n, B, A, N'] twice
        target = self._target(batch, *z_next)  # [T, B, N']
        chosen = losses.at_action(z, batch.action[unrolled])  # [T, B, N]
        td_error = target[..., None, :] - chosen[..., None]  # [T, B, N, N']
        quantiles = self.online.head.samples > 1
        row_loss = losses.quantile_huber(td_error, tau) if quantiles else losses.LOSSES[c.loss](td_error)[..., 0, 0]
        loss = (row_loss * mask * batch.weight).sum() / mask.sum().clamp(min=1)

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
        priority = losses.sequence_priority(td_error.detach().mean((-1, -2)), mask, c.priority_eta)
        return Update(metrics, priority.cpu().numpy(), state.detach())

    def _burn_in(self, network: QNetwork, batch: Sequence, rows: int) -> Tensor:
        """The network's own core state [B, S] after the first rows (R2D2 section 3)."""
        if rows == 0 or network.state_size == 0:
            return batch.core_state
        return network(batch.inputs.rows(0, rows), batch.core_state)[1]

    def _bootstrap(self, batch: Sequence, z: Tensor, state: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Returns [T + n, B, A, N'] of the unrolled rows and the n after them: of the network that selects actions, and
        of the target network, which values them. z, state: the online pass so far."""
        c = self.config
        stop = c.burn_in + c.unroll + c.n_step
        online_selects = c.double and not c.munchausen
        online = z
        if online_selects or self.target is self.online:
            tail = batch.inputs.rows(c.burn_in + c.unroll, stop)
            tau = self.online.head.random_fractions(tail.prev_action.shape, rng)
            online = torch.cat([z, self.online.returns(tail, state, tau)[0]])
        if self.target is self.online:
            return online, online
        # Only Munchausen looks at the first row's target values: the others are spared it.
        start = c.burn_in if c.munchausen else c.burn_in + 1
        rows = batch.inputs.rows(start, stop)
        tau = self.target.head.random_fractions(rows.prev_action.shape, rng)
        valued = self.target.returns(rows, self._burn_in(self.target, batch, start), tau)[0]
        valued = torch.cat([z[: start - c.burn_in], valued])
        return online if online_selects else valued, valued

    def _target(self, batch: Sequence, z_select: Tensor, z: Tensor) -> Tensor:
        """The regression targets [T, B, N']: clipped rewards, n-step or Q(lambda), in the network's value scale."""
        c = self.config
        reward = batch.reward[c.burn_in :]
        if c.reward_clip is not None:
            reward = reward.clamp(-c.reward_clip, c.reward_clip)
        scaled = losses.unscale(z) if c.value_rescaling else z
        if c.munchausen:
            reward = reward + losses.munchausen_reward(scaled, batch.action[c.burn_in :], **MUNCHAUSEN)
            value = losses.munchausen_value(scaled, MUNCHAUSEN["temperature"])
        else:
            value = losses.double_q_value(z_select.mean(-1), scaled)  # [T + n, B, N']
        reward, terminated, truncated = (
            x[..., None] for x in (reward, batch.terminated[c.burn_in :], batch.truncated[c.burn_in :])
        )
        if c.trace_lambda is None:
            target = losses.n_step_target(reward, terminated, truncated, value, c.discount, c.n_step)
        else:
            target = losses.q_lambda_target(reward, terminated, truncated, value, c.discount, c.trace_lambda, c.n_step)
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
