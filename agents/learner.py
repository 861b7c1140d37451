"""One gradient step of (double, recurrent) Q-learning on a batch of sequences."""

import copy
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from agents import losses
from agents.fields import FORBID, Count, OneOf, Positive, Share, Whole
from agents.networks import QNetwork
from agents.optimizers import OPTIMIZERS
from agents.rows import Sequence
from agents.workers import cut, map_parts, start


@dataclass(frozen=True, config=FORBID)
class LearnerSettings:
    """One update: batch, targets and optimiser."""

    batch_size: Count = 4
    """Sequences an update."""
    parts: Annotated[int, Field(ge=1, le=64)] = 1
    """Parts of a batch that threads compute in parallel. Their gradients are summed in order, so
    that results do not depend on the number of threads. Where two cores are free, 2 saves a third
    of the time of an update of 256 rows, and nothing of one of 64 rows."""
    burn_in: Whole = 0
    """Rows at the start of a sequence that only refresh the core state."""
    unroll: Count = 16
    """Rows of a sequence that are trained."""
    n_step: Count = 1
    """Rows after the unroll, which its last targets need. With --trace-lambda None also the number
    of steps in an n-step return."""
    trace_lambda: Share | None = 0.65
    """Q(lambda) targets with this lambda. None: n-step targets."""
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Discount a step (4 frames)."""
    double: bool = True
    """The online network selects, the target network evaluates (double Q-learning)."""
    target_period: Whole = 0
    """Updates between copies to the target network. 0: no target network; the acting network
    evaluates the next action."""
    value_rescaling: bool = False
    """Train on h(x) = sign(x) (sqrt(|x| + 1) - 1) + 0.001 x in place of clipped rewards."""
    reward_clip: Positive | None = 1.0
    """Rewards are clipped to +- this number for learning. None: the game's own points."""
    optimizer: Annotated[str, OneOf(OPTIMIZERS)] = "adam"
    """adam, radam, rmsprop (centred) or adadelta."""
    learning_rate: Positive = 5e-4
    """Step size of the optimiser."""
    learning_rate_updates: Whole = 32_000
    """Updates after which the learning rate falls as 1 / updates. 0: it never falls."""
    optimizer_epsilon: Positive = 1e-5
    """Added to the denominator of the step."""
    max_grad_norm: Positive | None = 10.0
    """Gradients with a larger norm are scaled down to this norm. None: never."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """A moving average of the weights acts, is scored and, without --target-period, evaluates the
    next action; an update retains this share of it. 0: no average; the online network does all
    that."""
    priority_eta: Share = 0.9
    """Sequence priority: eta max |td error| + (1 - eta) mean |td error|."""


class Update(NamedTuple):
    """The results of an update."""

    metrics: dict[str, Tensor]  # scalars on the device: to read one waits for the device
    priority: Tensor  # [B]


STATISTICS_WEIGHT = 0.002  # of a batch in the running statistics of pixels; not tuned


class NonFiniteError(RuntimeError):
    """A loss, a weight or the optimiser's state is no longer finite."""


class Learner:
    """The online, the target and the acting network, and the optimiser."""

    def __init__(
        self,
        network: QNetwork,
        settings: LearnerSettings,
        autocast: Callable[[], torch.autocast],
        device: torch.device | str = "cpu",
    ) -> None:
        self.online = network.to(device)
        self.device = next(network.parameters()).device  # with its number: cuda:0, not cuda
        self.settings = settings
        self._autocast = autocast
        self.optimizer = OPTIMIZERS[settings.optimizer](
            network.parameters(), lr=settings.learning_rate, eps=settings.optimizer_epsilon
        )
        self.acting = copy.deepcopy(network).requires_grad_(False) if settings.average else network
        # Without --target-period the target network is the acting network.
        self.target = (
            copy.deepcopy(network).requires_grad_(False) if settings.target_period else self.acting
        )
        self.updates = 0

    def update(self, batch: Sequence) -> Update:
        """Burn in, unroll and take one step of the optimiser.

        Rows of the burn-in contribute no loss, no gradient and no priority. A non-finite value
        passes on into the metrics and the weights; `check_finite` detects it.
        """
        s = self.settings
        batch = batch.to(self.device)
        mask = losses.loss_mask(batch.truncated[s.burn_in : s.burn_in + s.unroll])  # [T, B]
        trained = mask.sum().clamp(min=1)  # rows
        weight = mask * batch.weight / trained  # [T, B], of each row in the loss
        self.online.update_statistics(batch.inputs, max(1 / (self.updates + 1), STATISTICS_WEIGHT))
        for network in self._networks.values():  # all networks standardize alike
            for buffer, newest in zip(network.buffers(), self.online.buffers(), strict=True):
                buffer.copy_(newest)
        count = s.parts if self.device.type == "cpu" else 1
        parts = [(batch.lanes(lanes), weight[:, lanes]) for lanes in cut(mask.shape[1], count)]
        gradients, rows_of_parts = zip(*map_parts(self._part, parts), strict=True)
        for parameter, *of_parts in zip(self.online.parameters(), *gradients, strict=True):
            parameter.grad = reduce(Tensor.add_, of_parts)  # in the order of the parts
        grad_norm = nn.utils.clip_grad_norm_(
            self.online.parameters(), s.max_grad_norm or float("inf"), foreach=True
        )
        if s.learning_rate_updates:
            share = s.learning_rate_updates / max(s.learning_rate_updates, self.updates)
            self.optimizer.param_groups[0]["lr"] = s.learning_rate * share
        self.optimizer.step()
        self.updates += 1
        if s.target_period and self.updates % s.target_period == 0:
            self.target.load_state_dict(self.online.state_dict())
        if s.average:
            # Less at first, since all weights are new.
            retained = min(s.average, self.updates / (self.updates + 10))
            pairs = zip(self.acting.parameters(), self.online.parameters(), strict=True)
            for average, newest in pairs:
                average.lerp_(newest.detach(), 1 - retained)

        row_loss, td_error, q, q_max = torch.cat(rows_of_parts, dim=-1)  # [T, B] each
        metrics = {
            "loss": (row_loss * weight).sum(),
            "td_error": (td_error.abs() * mask).sum() / trained,
            "grad_norm": grad_norm,
            "q_mean": q.mean(),
            "q_max": q_max.max(),
        }
        return Update(metrics, losses.sequence_priority(td_error, mask, s.priority_eta))

    def _part(self, part: tuple[Sequence, Tensor]) -> tuple[list[Tensor], Tensor]:
        """The gradient of `loss` for sequences and their rows' weights, and its second result."""
        loss, rows = self.loss(*part)
        parameters = [*self.online.parameters()]
        return [*map(_in_layout_of, parameters, torch.autograd.grad(loss, parameters))], rows

    def loss(self, batch: Sequence, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted loss, and rows [4, T, B]: their loss, TD error, Q and highest Q.

        weight [T, B]: of each row in the loss.
        """
        s = self.settings
        begin, stop = s.burn_in, s.burn_in + s.unroll
        action = batch.action[begin:stop]  # [T, B]
        with self._autocast():
            batch = batch._replace(inputs=self.online.prepare(batch.inputs))  # for every network
            evaluation = self._start_evaluation(batch)
            with torch.no_grad():
                state = self._burn_in(self.online, batch, s.burn_in)  # [B, S]
            # [T, B, A, K] and [B, S]
            out, state = self.online.outputs(batch.inputs.rows(begin, stop), state)
            with torch.no_grad():
                z = self.online.head.samples(out.detach())  # [T, B, A, N]
                bootstrap = self._bootstrap(batch, z, state, evaluation)
                target = regression_target(s, batch, *bootstrap)  # [T, B, N]
        row_loss = self.online.head.loss(losses.at_action(out, action), target)  # [T, B]
        q = losses.at_action(z, action).mean(-1)  # [T, B]
        rows = [row_loss.detach(), target.mean(-1) - q, q, z.mean(-1).amax(-1)]
        return (row_loss * weight).sum(), torch.stack(rows)

    def _burn_in(self, network: QNetwork, batch: Sequence, rows: int) -> Tensor:
        """The network's own core state [B, S] after the first rows (R2D2 section 3)."""
        if rows == 0 or network.state_size == 0:
            return batch.core_state
        return network.outputs(batch.inputs.rows(0, rows), batch.core_state)[1]

    def _z_from(self, network: QNetwork, batch: Sequence, row: int, state: Tensor) -> Tensor:
        """z [_, B, A, N] by the network, from this row to the last one."""
        s = self.settings
        inputs = batch.inputs.rows(row, s.burn_in + s.unroll + s.n_step)
        return network.head.samples(network.outputs(inputs, state)[0])

    def _start_evaluation(self, batch: Sequence) -> Callable[[], Tensor] | None:
        """Start the pass of the target network; None if the online network evaluates.

        A call of the result gives z [T + n - 1, B, A, N] from the second unrolled row on: no target
        reads the first one's. On the CPU a free thread computes it during the online network's
        pass.
        """
        if self.target is self.online:
            return None

        def evaluate() -> Tensor:
            row = self.settings.burn_in + 1
            with torch.no_grad(), self._autocast():  # both hold for one thread
                state = self._burn_in(self.target, batch, row)
                return self._z_from(self.target, batch, row, state)

        return start(evaluate) if self.device.type == "cpu" else evaluate

    def _bootstrap(
        self,
        batch: Sequence,
        z: Tensor,
        state: Tensor,
        evaluation: Callable[[], Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Two z [T + n, B, A, N]: the first selects the next action, the second evaluates it.

        They cover the unrolled rows and the n rows after them. `z` [T, B, A, N] is that of the
        unrolled rows by the online network, `state` [B, S] its core state after them.
        """
        s = self.settings
        if evaluation and not s.double:
            values = torch.cat([z[:1], evaluation()])
            return values, values
        online = torch.cat([z, self._z_from(self.online, batch, s.burn_in + s.unroll, state)])
        return online, torch.cat([z[:1], evaluation()]) if evaluation else online

    def check_finite(self) -> None:
        """NonFiniteError if a weight or the optimiser's state is no longer finite."""
        for name, tensor in self.state().items():
            if not torch.isfinite(tensor).all():
                raise NonFiniteError(f"update {self.updates}: {name}")

    def param_norm(self) -> Tensor:
        """The Euclidean norm of the vector of all weights."""
        return nn.utils.get_total_norm(p.detach() for p in self.online.parameters())

    @property
    def _networks(self) -> dict[str, QNetwork]:
        """Each network once, by its role: if it has several, the last one below."""
        role = {self.target: "target", self.acting: "acting", self.online: "online"}
        return {role[network]: network for network in role}

    def state(self) -> dict[str, Tensor]:
        """The weights of all networks, the optimiser's state and the counter, by name."""
        state = {
            f"{role}.{k}": v
            for role, network in self._networks.items()
            for k, v in network.state_dict().items()
        }
        for i, slots in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in slots.items()}
        return state | {"updates": torch.tensor(self.updates)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore from a result of `state`. RuntimeError or KeyError if names or shapes differ."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

        for role, network in self._networks.items():
            network.load_state_dict(part(f"{role}."))
        for i, parameter in enumerate(self.online.parameters()):
            if slots := part(f"optimizer.{i}."):
                # Fused optimisers need the moments in the memory layout of their parameter, and
                # the number of steps on its device; others count on the host.
                place = parameter.device if self.optimizer.defaults.get("fused") else "cpu"
                self.optimizer.state[parameter] = {
                    k: torch.empty_like(parameter).copy_(v) if v.ndim else v.to(place, copy=True)
                    for k, v in slots.items()
                }
        self.updates = int(state["updates"])


def regression_target(
    s: LearnerSettings, batch: Sequence, selects: Tensor, values: Tensor
) -> Tensor:
    """Targets [T, B, N] in the network's value scale.

    `selects` selects the next action, `values` evaluates it: z [T + n, B, A, N] each, of the
    unrolled rows and the n rows after them.
    """
    reward, terminated, truncated = (x[s.burn_in :, :, None] for x in batch[2:5])  # [T + n, B, 1]
    if s.reward_clip is not None:
        reward = reward.clamp(-s.reward_clip, s.reward_clip)
    values = losses.unscale(values) if s.value_rescaling else values
    value = losses.double_q_value(selects.mean(-1), values)  # [T + n, B, N]
    discount, trace = s.discount * ~terminated, (~truncated).to(value.dtype)
    if s.trace_lambda is None:
        target = losses.n_step_target(reward, discount, trace, value, s.n_step)
    else:
        target = losses.lambda_target(reward, discount, s.trace_lambda * trace, value, s.n_step)
    return losses.rescale(target) if s.value_rescaling else target


def first_priority(settings: LearnerSettings, batch: Sequence, q: Tensor) -> Tensor:
    """First priorities [B] of sequences, from their actor's Q-values [L, B, A].

    Horgan et al. 2018, section 3; R2D2 section 2.3.
    """
    s, z = settings, q[settings.burn_in :, :, :, None]  # [T + n, B, A, 1]
    rows = slice(s.burn_in, s.burn_in + s.unroll)
    target = regression_target(s, batch, z, z)  # [T, B, 1]
    td_error = target - losses.at_action(z[: s.unroll], batch.action[rows])  # [T, B, 1]
    return losses.sequence_priority(
        td_error[..., 0], losses.loss_mask(batch.truncated[rows]), s.priority_eta
    )


def _in_layout_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory layout of its parameter, as fused optimisers need it."""
    same = gradient.stride() == parameter.stride()
    return gradient if same else torch.empty_like(parameter).copy_(gradient)
