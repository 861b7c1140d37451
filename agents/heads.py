"""Heads: from the core's output to samples of the return of each action, z [L, B, A, N]; their mean is Q.

The ordinary head knows the mean alone: N = 1. The last layer always runs in single precision: between 2 and 4 bf16 has
steps of 0.016, about what one action is better than another.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MeanHead(nn.Module):
    """Q itself: plain, or dueling q = v + a - mean(a) (Wang et al. 2016, eq. 9), N = 1.

    With `hidden` each of the one or two streams has a fully connected layer of its own.
    """

    samples = 1  # of the return, in acting

    def __init__(self, input_size: int, num_actions: int, hidden: int, dueling: bool, norm: bool) -> None:
        super().__init__()

        def stream(outputs: int) -> nn.Module:
            if not hidden:
                return nn.Linear(input_size, outputs)
            between = [nn.LayerNorm(hidden)] if norm else []
            return nn.Sequential(nn.Linear(input_size, hidden), *between, nn.ReLU(), nn.Linear(hidden, outputs))

        self.advantage = stream(num_actions)
        self.value = stream(1) if dueling else None

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        """x [L, B, D] -> [L, B, A, 1]; the fractions have no part in it."""
        return self._streams(x)[..., None]

    def _streams(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., A]"""
        a = _last_in_fp32(self.advantage, x)
        return a if self.value is None else _last_in_fp32(self.value, x) + a - a.mean(-1, keepdim=True)

    def even_fractions(self, shape: torch.Size) -> Tensor:
        """Fractions [*shape, N] for acting: the middles of N equal parts, where the paper draws them at random."""
        return ((torch.arange(self.samples) + 0.5) / self.samples).expand(*shape, self.samples)

    def random_fractions(self, shape: torch.Size, rng: np.random.Generator) -> Tensor:
        """Fractions [*shape, N] for learning. The mean needs none."""
        return self.even_fractions(shape)


def _last_in_fp32(stream: nn.Module, x: Tensor) -> Tensor:
    *first, last = stream.children() if isinstance(stream, nn.Sequential) else [stream]
    for layer in first:
        x = layer(x)
    with torch.autocast(x.device.type, enabled=False):
        return last(x.to(next(last.parameters()).dtype))


class QuantileHead(MeanHead):
    """Implicit quantile network (Dabney et al. 2018, eq. 4): z at fraction tau from x * phi(tau),

        phi_j(tau) = relu(sum_i cos(pi i tau) w_ij + b_j),   i = 0 .. 63,

    and the streams of the ordinary head after it. N is 8 in training and 32 in acting, as in the paper.
    """

    samples, LEARNING_SAMPLES, COSINES = 32, 8, 64

    def __init__(self, input_size: int, num_actions: int, hidden: int, dueling: bool, norm: bool) -> None:
        super().__init__(input_size, num_actions, hidden, dueling, norm)
        self.embedding = nn.Linear(self.COSINES, input_size)

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        """x [L, B, D], tau [L, B, N] -> [L, B, A, N]"""
        angle = math.pi * torch.arange(self.COSINES, device=x.device) * tau.to(x.device)[..., None]  # [L, B, N, 64]
        phi = F.relu(self.embedding(torch.cos(angle).to(self.embedding.weight.dtype)))  # [L, B, N, D]
        return self._streams(x[..., None, :] * phi).transpose(-1, -2)

    def random_fractions(self, shape: torch.Size, rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(rng.random((*shape, self.LEARNING_SAMPLES), dtype=np.float32))


HEADS: dict[str, type[MeanHead]] = {"mean": MeanHead, "iqn": QuantileHead}
