"""Targets and losses: pure functions of tensors [T, B], one equation each.

Row t holds s_t, a_t, r_{t+1} and the two ways the step can end an episode: `terminated` (nothing follows: no
bootstrap) and `truncated` (a time limit: s_{t+1} was never stored, so the row itself is left out of the loss by
`loss_mask`, and what comes before it bootstraps from s_t).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _check(rank: int, *tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.ndim != rank:
            raise ValueError(f"expected a tensor of rank {rank}, got shape {tuple(tensor.shape)}")


def _check_targets(reward: Tensor, terminated: Tensor, truncated: Tensor, value: Tensor) -> None:
    if value.ndim not in (2, 3):
        raise ValueError(f"expected values [T, B] or [T, B, N], got shape {tuple(value.shape)}")
    _check(value.ndim, reward, terminated, truncated)


def n_step_target(
    reward: Tensor, terminated: Tensor, truncated: Tensor, value: Tensor, discount: float, n: int
) -> Tensor:
    """G_t = r_{t+1} + gamma r_{t+2} + ... + gamma^n v_{t+n}, cut at the episode's end (Sutton 1988; R2D2 eq. 1).

    All inputs [T + n, B]; value [T + n, B] is v(s_t). Returns [T, B]. With N samples of the return: value
    [T + n, B, N], the others [T + n, B, 1], returns [T, B, N].
    """
    _check_targets(reward, terminated, truncated, value)
    steps = value.shape[0] - n
    target = value[n:]
    for k in reversed(range(n)):
        rows = slice(k, k + steps)
        target = reward[rows] + torch.where(terminated[rows], 0, discount * target)
        if k > 0:
            target = torch.where(truncated[rows], value[rows], target)
    return target


def q_lambda_target(
    reward: Tensor, terminated: Tensor, truncated: Tensor, value: Tensor, discount: float, trace: float, n: int
) -> Tensor:
    """G_t = r_{t+1} + gamma ((1 - lambda) v_{t+1} + lambda G_{t+1}), from the last row back (Peng & Williams 1994;
    PQN, Gallici et al. 2024, section 4). The n rows after the T lend the last targets their look-ahead.

    Shapes as in `n_step_target`.
    """
    _check_targets(reward, terminated, truncated, value)
    target, targets = value[-1], []
    for t in reversed(range(value.shape[0] - 1)):
        mixed = (1 - trace) * value[t + 1] + trace * target
        target = reward[t] + torch.where(terminated[t], 0, discount * mixed)
        targets.append(target)
        target = torch.where(truncated[t], value[t], target)
    return torch.stack(targets[::-1])[: value.shape[0] - n]


def at_action(z: Tensor, action: Tensor) -> Tensor:
    """z(s_t, a_t): z [T, B, A, N], action [T, B] -> [T, B, N]."""
    _check(4, z)
    return z.take_along_dim(action[..., None, None], dim=2).squeeze(2)


def double_q_value(q_select: Tensor, z: Tensor) -> Tensor:
    """v(s) = z(s, argmax_a q_select(s, a)) (van Hasselt et al. 2016, eq. 4). q_select [T, B, A], z [T, B, A, N] of
    another network or the same -> [T, B, N]."""
    _check(3, q_select)
    return at_action(z, q_select.argmax(-1))


def munchausen_value(z: Tensor, temperature: float) -> Tensor:
    """v(s) = sum_a pi(a|s) (z(s, a) - tau log pi(a|s)), pi = softmax(q / tau) (Vieillard et al. 2020, eq. 2).

    z [T, B, A, N], q its mean over N. Returns [T, B, N].
    """
    _check(4, z)
    log_pi = F.log_softmax(z.mean(-1) / temperature, dim=-1)[..., None]  # [T, B, A, 1]
    return (log_pi.exp() * (z - temperature * log_pi)).sum(2)


def munchausen_reward(z: Tensor, action: Tensor, scale: float, temperature: float, floor: float) -> Tensor:
    """alpha [tau log pi(a_t|s_t)] cut to [l_0, 0], to be added to the reward (Vieillard et al. 2020, eq. 2).

    z [T, B, A, N], action [T, B]. Returns [T, B].
    """
    _check(4, z)
    log_pi = F.log_softmax(z.mean(-1) / temperature, dim=-1)  # [T, B, A]
    return scale * (temperature * log_pi.gather(-1, action[..., None]).squeeze(-1)).clamp(floor, 0.0)


def loss_mask(truncated: Tensor) -> Tensor:
    """1 for rows whose successor was stored, 0 for truncated ones. [T, B] bool -> float."""
    return (~truncated).float()


def squared(td_error: Tensor) -> Tensor:
    """0.5 delta^2."""
    return 0.5 * td_error.square()


def huber(td_error: Tensor) -> Tensor:
    """0.5 delta^2 within 1, |delta| - 0.5 beyond: the error clipping of Mnih et al. 2015, Methods."""
    size = td_error.abs()
    return torch.where(size <= 1.0, 0.5 * size.square(), size - 0.5)


LOSSES = {"squared": squared, "huber": huber}


def quantile_huber(td_error: Tensor, tau: Tensor) -> Tensor:
    """sum_i mean_j |tau_i - 1{delta_ij < 0}| huber(delta_ij) (Dabney et al. 2018, IQN, eq. 3, kappa = 1).

    td_error [T, B, N, N'] of N predicted quantiles against N' target samples, tau [T, B, N]. Returns [T, B].
    """
    _check(4, td_error)
    _check(3, tau)
    weight = (tau[..., None] - (td_error.detach() < 0).to(tau.dtype)).abs()
    return (weight * huber(td_error)).mean(-1).sum(-1)


def rescale(x: Tensor, epsilon: float = 1e-3) -> Tensor:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x (Pohlen et al. 2018; R2D2 section 2.3)."""
    return x.sign() * ((x.abs() + 1).sqrt() - 1) + epsilon * x


def unscale(x: Tensor, epsilon: float = 1e-3) -> Tensor:
    """The inverse of `rescale` (Pohlen et al. 2018, proposition A.2)."""
    root = (1 + 4 * epsilon * (x.abs() + 1 + epsilon)).sqrt()
    return x.sign() * (((root - 1) / (2 * epsilon)).square() - 1)


def sequence_priority(td_error: Tensor, mask: Tensor, eta: float) -> Tensor:
    """p = eta max_t |delta_t| + (1 - eta) mean_t |delta_t| over unmasked rows (R2D2 section 2.3). [T, B] -> [B]."""
    _check(2, td_error, mask)
    size = td_error.abs() * mask
    return eta * size.amax(0) + (1 - eta) * size.sum(0) / mask.sum(0).clamp(min=1)
