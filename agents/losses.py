"""Targets and losses: pure functions of tensors [T, B, ...], one equation each.

Row t holds s_t, a_t and r_{t+1}. Two numbers of the row mark an episode that ends between t and
t+1. `discount` is 0 where it terminated: there is no bootstrap. `trace` is 0 where a time limit
truncated it: s_{t+1} was never stored, so the targets of earlier rows bootstrap from v(s_t), and
`loss_mask` excludes row t.
"""

import torch
from torch import Tensor


def n_step_target(reward: Tensor, discount: Tensor, trace: Tensor, value: Tensor, n: int) -> Tensor:
    """G_t = r_{t+1} + gamma_{t+1} ((1 - lambda_{t+1}) v_{t+1} + lambda_{t+1} G_{t+1}).

    The recursion starts with G_{t+n} = v_{t+n} (Sutton 1988; R2D2 eq. 1, where lambda is 1 except
    in truncated rows). value [T + n, B, N] is v(s_t); reward, discount and trace are
    [T + n, B, 1]. Returns [T, B, N].
    """
    steps, target = len(value) - n, value[n:]
    for k in reversed(range(n)):
        now, after = slice(k, k + steps), slice(k + 1, k + 1 + steps)
        target = reward[now] + discount[now] * torch.lerp(value[after], target, trace[after])
    return target


def lambda_target(reward: Tensor, discount: Tensor, trace: Tensor, value: Tensor, n: int) -> Tensor:
    """Q(lambda): the recursion of `n_step_target`, from the last row back; the same shapes.

    Peng & Williams 1994; PQN, Gallici et al. 2024, section 4. The n rows after the T serve the
    targets of the last rows only.
    """
    target, targets = value[-1], []
    rows = zip(reward[:-1], discount[:-1], value[1:], trace[1:], strict=True)
    for reward_t, discount_t, value_tp1, trace_tp1 in reversed([*rows]):
        target = reward_t + discount_t * torch.lerp(value_tp1, target, trace_tp1)
        targets.append(target)
    return torch.stack(targets[::-1])[: len(value) - n]


def at_action(z: Tensor, action: Tensor) -> Tensor:
    """z(s_t, a_t) [T, B, N], from z [T, B, A, N] and action [T, B]."""
    return z.take_along_dim(action[..., None, None], dim=2).squeeze(2)


def double_q_value(q_select: Tensor, z: Tensor) -> Tensor:
    """v(s) = z(s, argmax_a q_select(s, a)) [T, B, N] (van Hasselt et al. 2016, eq. 4).

    q_select [T, B, A] and z [T, B, A, N], of two networks or of one.
    """
    return at_action(z, q_select.argmax(-1))


def loss_mask(truncated: Tensor) -> Tensor:
    """0 for truncated rows, 1 for all others: [T, B] bool -> float."""
    return (~truncated).float()


def squared(td_error: Tensor) -> Tensor:
    """0.5 delta^2."""
    return 0.5 * td_error.square()


def huber(td_error: Tensor) -> Tensor:
    """0.5 delta^2 up to |delta| = 1, then |delta| - 0.5 (Mnih et al. 2015, Methods)."""
    size = td_error.abs()
    return torch.where(size <= 1.0, 0.5 * size.square(), size - 0.5)


LOSSES = {"squared": squared, "huber": huber}


def quantile_huber(td_error: Tensor) -> Tensor:
    """sum_i mean_j |tau_i - 1{delta_ij < 0}| huber(delta_ij): QR-DQN, eq. 10 with kappa = 1.

    Dabney et al. 2018; tau_i is the middle of the i-th of N equal parts of [0, 1]. td_error
    [..., N, N'] of N predicted quantiles and N' target samples. Returns [...].
    """
    n = td_error.shape[-2]
    tau = (torch.arange(n, dtype=td_error.dtype, device=td_error.device)[:, None] + 0.5) / n
    return ((tau - (td_error.detach() < 0).to(tau.dtype)).abs() * huber(td_error)).mean(-1).sum(-1)


RESCALING = 1e-3  # the epsilon of h


def rescale(x: Tensor) -> Tensor:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x (Pohlen et al. 2018; R2D2 section 2.3)."""
    return x.sign() * ((x.abs() + 1).sqrt() - 1) + RESCALING * x


def unscale(x: Tensor) -> Tensor:
    """The inverse of `rescale` (Pohlen et al. 2018, proposition A.2)."""
    root = (1 + 4 * RESCALING * (x.abs() + 1 + RESCALING)).sqrt()
    return x.sign() * (((root - 1) / (2 * RESCALING)).square() - 1)


def sequence_priority(td_error: Tensor, mask: Tensor, eta: float) -> Tensor:
    """p = eta max_t |delta_t| + (1 - eta) mean_t |delta_t|: [T, B] -> [B] (R2D2 section 2.3).

    Maximum and mean are over the rows where mask [T, B] is 1.
    """
    size = td_error.abs() * mask
    return eta * size.amax(0) + (1 - eta) * size.sum(0) / mask.sum(0).clamp(min=1)
