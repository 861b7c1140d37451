"""Cores: the one module in which a recurrent policy differs from a feed-forward one.

A core maps x [T, B, D] and a state [B, S] to y [T, B, D'] and the next state. The state is one
tensor, so that replay, actor and checkpoint treat every core alike; a core without memory has
S = 0. A row with `is_first` starts from a state of zeros.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Core(nn.Module):
    """Base of the cores. Its `unroll` runs those cells of torch whose state is one tensor."""

    cell: nn.RNNBase

    def __init__(self, input_size: int, output_size: int, state_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size, self.state_size = input_size, output_size, state_size

    def forward(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, B, D], state [B, S], is_first [T, B] on the host -> y [T, B, D'], state [B, S].

        One fused call computes the rows up to the next reset of any lane, since a Python loop over
        T is several times slower.
        """
        starts = is_first.any(dim=1).nonzero().flatten().tolist()
        outputs = []
        for start, stop in pairwise(sorted({0, *starts, x.shape[0]})):
            reset = is_first[start, :, None].to(state.device, non_blocking=True)  # [B, 1]
            y, state = self.unroll(x[start:stop], state.masked_fill(reset, 0.0))
            outputs.append(y)
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0], state

    def unroll(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, B, D], state [B, S] -> y [T, B, D'], state [B, S], for rows without a reset."""
        y, h = self.cell(x, state[None].to(x.dtype))
        return y, h[0].to(state.dtype)

    def gates(self, x: Tensor, state: Tensor) -> dict[str, Tensor]:
        """Activations of the gates, 0 to 1, [..., H] each, by name: x [..., D], state [..., S]."""
        return {}


class Identity(Core):
    """No memory: y = x."""

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__(input_size, output_size=input_size, state_size=0)

    def forward(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        return x, state


class Rnn(Core):
    """Elman (1990): h_t = tanh(W x_t + U h_{t-1} + b).

    U starts orthogonal, so that signals neither grow nor shrink. All other weights start uniform
    within 1 / sqrt(H), as in torch.
    """

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__(input_size, output_size=size, state_size=size)
        self.cell = nn.RNN(input_size, size)
        nn.init.orthogonal_(cast(Tensor, self.cell.weight_hh_l0))


class Gru(Core):
    """Cho et al. (2014) with the reset gate after the recurrent product, as in torch and cuDNN.

    Weights start uniform within 1 / sqrt(H), as in torch.
    """

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__(input_size, output_size=size, state_size=size)
        self.cell = nn.GRU(input_size, size)

    def gates(self, x: Tensor, state: Tensor) -> dict[str, Tensor]:
        reset, keep, _ = _gate_inputs(self.cell, x, state).chunk(3, dim=-1)
        return {"reset": reset.sigmoid(), "keep": keep.sigmoid()}


class Lstm(Core):
    """LSTM with a forget gate (Gers et al. 2000). State: h and c side by side, S = 2 H.

    The forget bias starts at 1, so that a new network remembers (Jozefowicz et al. 2015). All other
    weights start uniform within 1 / sqrt(H), as in torch.
    """

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__(input_size, output_size=size, state_size=2 * size)
        self.cell = nn.LSTM(input_size, size)
        with torch.no_grad():  # torch adds two biases, gates in the order i, f, g, o
            cast(Tensor, self.cell.bias_ih_l0)[size : 2 * size] = 1.0
            cast(Tensor, self.cell.bias_hh_l0)[size : 2 * size] = 0.0

    def unroll(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, c = state[None].to(x.dtype).chunk(2, dim=-1)
        y, (h, c) = self.cell(x, (h.contiguous(), c.contiguous()))
        return y, torch.cat([h[0], c[0]], dim=-1).to(state.dtype)

    def gates(self, x: Tensor, state: Tensor) -> dict[str, Tensor]:
        i, f, _, o = _gate_inputs(self.cell, x, state[..., : self.output_size]).chunk(4, dim=-1)
        return {"input": i.sigmoid(), "forget": f.sigmoid(), "output": o.sigmoid()}


class Lstm1997(Core):
    """Hochreiter & Schmidhuber (1997), section 4 and appendix A: no forget gate, no peepholes.

        i_t = sigma(W_i x_t + U_i y_{t-1} + b_i)         o_t likewise
        s_t = 1.0 s_{t-1} + i_t g(W_c x_t + U_c y_{t-1} + b_c)     g(z) = 4 sigma(z) - 2
        y_t = o_t h(s_t)                                           h(z) = 2 sigma(z) - 1

    The self-connection of weight 1.0 is the constant error carousel. Since g(z) = 2 tanh(z / 2) and
    h(z) = tanh(z / 2), a fused LSTM computes this core: its cell holds s / 2, its forget gate is
    always 1 (sigma(40) is 1 in floating point), and its cell input is halved. Gradients also flow
    through the gates (full backpropagation through time), where the paper cuts them. State: y and s
    side by side, S = 2 H. Weights start uniform within 1 / sqrt(H).
    """

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__(input_size, output_size=size, state_size=2 * size)
        bound = size**-0.5
        # The first dimension of each is in the order i, c, o.
        self.weight_x = nn.Parameter(torch.empty(3, size, input_size).uniform_(-bound, bound))
        self.weight_y = nn.Parameter(torch.empty(3, size, size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(3, size).uniform_(-bound, bound))

    def unroll(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        # [3, H, ...] -> [4 H, ...] in torch's order i, f, g, o, with a forget gate that is open.
        weights = [
            torch.cat([w[0], torch.full_like(w[0], forget), w[1] / 2, w[2]])
            for w, forget in ((self.weight_x, 0.0), (self.weight_y, 0.0), (self.bias, 40.0))
        ]
        weights.append(torch.zeros_like(weights[-1]))  # the second bias of torch
        y, s = state[None].to(x.dtype).chunk(2, dim=-1)
        before = y.contiguous(), (s / 2).contiguous()
        # The arguments after the weights: with biases, 1 layer, no dropout, not training, not
        # bidirectional, not batch first.
        out, y, s = torch.lstm(x, before, weights, True, 1, 0.0, False, False, False)
        return out, torch.cat([y[0], 2 * s[0]], dim=-1).to(state.dtype)

    def gates(self, x: Tensor, state: Tensor) -> dict[str, Tensor]:
        i, _, o = (
            F.linear(x, w, b) + F.linear(state[..., : self.output_size], u)
            for w, u, b in zip(self.weight_x, self.weight_y, self.bias, strict=True)
        )
        return {"input": i.sigmoid(), "output": o.sigmoid()}


def _gate_inputs(cell: nn.RNNBase, x: Tensor, h: Tensor) -> Tensor:
    """W x + U h + both biases of a cell of torch, all gates side by side."""
    w_x, w_h, b_x, b_h = cell.all_weights[0]
    return F.linear(x, w_x, b_x) + F.linear(h, w_h, b_h)


CORES: dict[str, Callable[[int, int], Core]] = {
    "identity": Identity,
    "rnn": Rnn,
    "lstm1997": Lstm1997,
    "lstm": Lstm,
    "gru": Gru,
}


def has_state(name: str) -> bool:
    """Whether the core of this name has a state."""
    return CORES[name] is not Identity
