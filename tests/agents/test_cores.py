from functools import partial

import pytest
import torch
from torch import sigmoid

from agents.cores import CORES, Lstm1997

T, B, D, H = 9, 4, 5, 6
# Lane 0 is never reset, 1 at its start, 2 in the middle and at once again, 3 at the end; two lanes
# share row 4.
IS_FIRST = torch.zeros(T, B, dtype=torch.bool)
IS_FIRST[[0, 4, 5, 4, 8], [1, 2, 2, 3, 3]] = True
assert_close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12, equal_nan=True)


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(name):
    """A core in fp64, and states [B, S] for it."""
    core = CORES[name](D, H).double()
    return core, normal(B, core.state_size, seed=2)


@pytest.mark.parametrize("name", CORES)
def test_the_state_stays_in_single_precision_under_autocast(name) -> None:
    core = CORES[name](D, H)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = core(normal(T, B, D).bfloat16(), torch.zeros(B, core.state_size), IS_FIRST)
    assert y.shape == (T, B, core.output_size)
    assert state.dtype == torch.float32


# The equations of one step: weights, x, state -> y, the next state, the openings of the gates.


def parts(w, x, h, gates):
    """Input and recurrent part of each gate, in torch's order of weights."""
    of_x = x @ w["cell.weight_ih_l0"].T + w["cell.bias_ih_l0"]
    of_h = h @ w["cell.weight_hh_l0"].T + w["cell.bias_hh_l0"]
    return zip(of_x.chunk(gates, -1), of_h.chunk(gates, -1), strict=True)


def identity(w, x, state):
    assert not w
    return x, state, {}


def rnn(w, x, h):
    h = sum(*parts(w, x, h, 1)).tanh()
    return h, h, {}


def gru(w, x, h):
    (r_x, r_h), (z_x, z_h), (n_x, n_h) = parts(w, x, h, 3)
    r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
    h = (1 - z) * (n_x + r * n_h).tanh() + z * h  # the reset gate after the product
    return h, h, {"reset": r, "keep": z}


def lstm(w, x, state):
    h, c = state.chunk(2, -1)
    i, f, g, o = map(sum, parts(w, x, h, 4))
    i, f, o = sigmoid(i), sigmoid(f), sigmoid(o)
    c = f * c + i * g.tanh()
    h = o * c.tanh()
    return h, torch.cat([h, c], -1), {"input": i, "forget": f, "output": o}


def lstm1997(w, x, state):
    """Hochreiter & Schmidhuber (1997), written from the paper's equations."""
    y, s = state.chunk(2, -1)
    net = [x @ w["weight_x"][k].T + y @ w["weight_y"][k].T + w["bias"][k] for k in range(3)]
    y_in, y_out = sigmoid(net[0]), sigmoid(net[2])
    s = 1.0 * s + y_in * (4 * sigmoid(net[1]) - 2)  # g
    y = y_out * (2 * sigmoid(s) - 1)  # h
    return y, torch.cat([y, s], -1), {"input": y_in, "output": y_out}


@pytest.mark.parametrize("name", CORES)
@torch.no_grad()
def test_unrolls_steps_and_gates_are_the_equations_and_start_anew_after_a_reset(name) -> None:
    (core, state), x = make(name), normal(T, B, D)
    state[1] = x[:4, 2:] = torch.nan  # what came before a reset does not matter
    w, (y, last), one = dict(core.named_parameters()), core(x, state, IS_FIRST), state
    for t in range(T):
        y_one, one = core(x[t : t + 1], one, IS_FIRST[t : t + 1])
        state = torch.where(IS_FIRST[t, :, None], 0, state)
        opened = core.gates(x[t], state)
        expected, state, gates = globals()[name](w, x[t], state)
        assert_close((y[t], y_one[0], opened), (expected, expected, gates))
    assert_close((last, one), (state, state))
    assert state.isfinite().all()


@pytest.mark.parametrize("name", CORES)
def test_gradients_equal_finite_differences_with_resets_inside(name) -> None:
    (core, state), x = make(name), normal(T, B, D)
    inputs = x.requires_grad_(), state.requires_grad_(), *core.parameters()  # changed in place
    assert torch.autograd.gradcheck(lambda x, state, *_: core(x, state, IS_FIRST), inputs)


def test_a_new_rnn_is_orthogonal_and_a_new_lstm_remembers() -> None:
    w = make("rnn")[0].get_parameter("cell.weight_hh_l0")
    torch.testing.assert_close(w @ w.T, torch.eye(H, dtype=torch.float64), rtol=0, atol=1e-6)
    i, f, g, o = sum(make("lstm")[0].get_parameter(f"cell.bias_{k}h_l0") for k in "ih").split(H)
    assert (f == 1).all()
    assert (torch.cat([i, g, o]) != 1).all()


def test_with_a_closed_input_gate_the_carousel_keeps_its_content_and_its_gradient() -> None:
    core = Lstm1997(D, H)  # gates that see their bias alone: the input closed, the output open
    with torch.no_grad():
        core.weight_x.zero_()
        core.weight_y.zero_()
        core.bias[0], core.bias[1], core.bias[2] = -200.0, 1.0, 99.0
    s = torch.tensor([[5.0, -3.0, 0.25, 1e-3, 40.0, -0.5]])
    state = torch.cat([torch.zeros(1, H), s], dim=-1).requires_grad_()
    y, last = core(99 * normal(1000, 1, D).float(), state, torch.zeros(1000, 1, dtype=torch.bool))
    assert torch.equal(last[:, H:], s)
    torch.testing.assert_close(y[-1], torch.tanh(s / 2))  # h(s) = 2 sigma(s) - 1 = tanh(s / 2)
    (gradient,) = torch.autograd.grad(last[:, H:].sum(), state)
    assert gradient[0, H:].tolist() == [1.0] * H
