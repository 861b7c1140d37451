"""Heads: from the core's output to the return of each action, and the loss that trains them.

A head computes K numbers for each action, `out` [..., A, K]. `samples` turns them into N samples of
the return [..., A, N], whose mean is Q.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents import losses


class LastLinear(nn.Linear):
    """A linear layer that always runs in single precision.

    Between 2 and 4 bf16 has steps of 0.016, which is about the difference between two actions.
    """

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def fully_connected(inputs: int, outputs: int, norm: bool) -> list[nn.Module]:
    """The modules of a layer with ReLU and, with `norm`, LayerNorm; none for 0 outputs."""
    if not outputs:
        return []
    return [nn.Linear(inputs, outputs), *[nn.LayerNorm(outputs)] * norm, nn.ReLU()]


class Head(nn.Module):
    """Q itself, trained with the TD loss of the settings: K = N = 1. The base of the other heads.

    One stream of layers, or two: out = v + a - mean of a over actions (dueling, Wang et al. 2016,
    eq. 9). With `hidden` each stream has its own fully connected layer.
    """

    outputs = 1  # K, numbers for each action

    def __init__(
        self, input_size: int, num_actions: int, hidden: int, dueling: bool, norm: bool, loss: str
    ) -> None:
        super().__init__()

        def stream(outputs: int) -> nn.Module:
            before = fully_connected(input_size, hidden, norm)
            last = LastLinear(hidden or input_size, outputs)
            return nn.Sequential(*before, last) if before else last

        self.shape, self.td_loss = (num_actions, self.outputs), losses.LOSSES[loss]
        self.advantage = stream(num_actions * self.outputs)
        self.value = stream(self.outputs) if dueling else None

    def forward(self, x: Tensor) -> Tensor:
        """x [L, B, D] -> out [L, B, A, K]."""
        a = self.advantage(x).unflatten(-1, self.shape)
        if self.value is None:
            return a
        return self.value(x)[..., None, :] + a - a.mean(-2, keepdim=True)

    def samples(self, out: Tensor) -> Tensor:
        """out [..., K] -> samples of the return [..., N]; in this class N = K and samples = out."""
        return out

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """Loss [T, B], from out [T, B, K] of the actions and target samples [T, B, N]."""
        return self.td_loss(target - out).squeeze(-1)


class QrHead(Head):
    """K = N = 32 quantiles of the return, at the middles of 32 equal parts of [0, 1].

    QR-DQN, Dabney et al. 2018.
    """

    outputs = 32

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        return losses.quantile_huber(target[..., None, :] - out[..., None])


class HlGaussHead(Head):
    """A histogram of Q with K = 51 bins from -10 to 10; N = 1.

    HL-Gauss, Farebrother et al. 2024, section 3.1: the target's mean, clipped to that range, is the
    mean of a normal density with a standard deviation of 0.75 bins; the loss is the cross-entropy
    of the density's share in each bin.
    """

    outputs, LIMIT, SIGMA = 51, 10.0, 0.75

    def _edges(self, out: Tensor) -> Tensor:
        return torch.linspace(
            -self.LIMIT, self.LIMIT, self.outputs + 1, dtype=out.dtype, device=out.device
        )

    def samples(self, out: Tensor) -> Tensor:
        edges = self._edges(out)
        return (out.softmax(-1) * (edges[1:] + edges[:-1]) / 2).sum(-1, keepdim=True)

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        mean = target.mean(-1, keepdim=True).clamp(-self.LIMIT, self.LIMIT)
        width = self.SIGMA * 2 * self.LIMIT / self.outputs
        below = torch.special.ndtr((self._edges(out) - mean) / width)  # [T, B, K + 1]
        share = below.diff(dim=-1) / (below[..., -1:] - below[..., :1])
        return -(share * F.log_softmax(out, dim=-1)).sum(-1)


HEADS: dict[str, type[Head]] = {"mean": Head, "qr": QrHead, "hl-gauss": HlGaussHead}


def has_td_loss(name: str) -> bool:
    """Whether the head of this name is trained with the TD loss of the settings."""
    return HEADS[name].loss is Head.loss
