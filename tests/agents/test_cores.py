import numpy as np
import pytest
import torch
from torch import Tensor

from agents.cores import CORES, Core, Lstm1997

RECURRENT = ["rnn", "lstm1997", "lstm", "gru"]
T, B, D, H = 9, 4, 5, 6
# Lane 0 is never reset, 1 at its start, 2 in the middle and at once again, 3 at the end; two lanes
# share row 4.
IS_FIRST = torch.zeros(T, B, dtype=torch.bool)
IS_FIRST[[0, 4, 5, 4, 8], [1, 2, 2, 3, 3]] = True


def make(name: str, inputs: int = D, size: int = H) -> Core:
    """A core in fp64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CORES[name](inputs, size).double()


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("name", CORES)
def test_an_unroll_equals_single_steps_with_resets_inside(name: str) -> None:
    core = make(name)
    x, state = normal(T, B, D), normal(B, core.state_size, seed=2)
    whole, last = core(x, state, IS_FIRST)
    for t in range(T):
        y, state = core(x[t : t + 1], state, IS_FIRST[t : t + 1])
        torch.testing.assert_close(y[0], whole[t], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("start", [0, 4, T - 1])
def test_what_follows_is_first_does_not_depend_on_what_came_before(name: str, start: int) -> None:
    """Not even on NaN; a reset leads to the initial state."""
    core = make(name)
    x, state = normal(T, B, D), normal(B, core.state_size, seed=2)
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[start, :2] = True  # lanes 2 and 3 run on
    y, last = core(x, state, is_first)
    decoys = x.clone()
    decoys[:start, :2] = torch.nan
    state[:2] = torch.nan
    y_decoys, last_decoys = core(decoys, state, is_first)
    assert torch.equal(y_decoys[start:], y[start:])
    assert torch.equal(last_decoys, last)
    fresh, _ = core(
        x[start:], core.initial_state(B).double(), torch.zeros(T - start, B, dtype=torch.bool)
    )
    torch.testing.assert_close(y[start:, :2], fresh[:, :2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CORES)
def test_a_core_has_its_sizes_and_keeps_its_state_in_single_precision_under_autocast(
    name: str,
) -> None:
    core = CORES[name](D, H)
    assert (
        core.state_size
        == {"identity": 0, "rnn": H, "gru": H, "lstm": 2 * H, "lstm1997": 2 * H}[name]
    )
    assert core.output_size == (D if name == "identity" else H)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = core(normal(T, B, D).bfloat16(), core.initial_state(B), IS_FIRST)
    assert y.shape == (T, B, core.output_size)
    assert state.dtype == torch.float32


def test_identity_passes_x_through() -> None:
    core, x = make("identity"), normal(T, B, D)
    assert torch.equal(core(x, core.initial_state(B), IS_FIRST)[0], x)
    assert not list(core.parameters())


Weights = dict[str, np.ndarray]
Step = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]  # y, next state, openings of the gates


def parts(w: Weights, x: np.ndarray, h: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Input and recurrent part of the k-th gate, in torch's order of weights."""
    rows = slice(k * H, (k + 1) * H)
    return (
        x @ w["cell.weight_ih_l0"][rows].T + w["cell.bias_ih_l0"][rows],
        h @ w["cell.weight_hh_l0"][rows].T + w["cell.bias_hh_l0"][rows],
    )


def rnn(w: Weights, x: np.ndarray, h: np.ndarray) -> Step:
    h = np.tanh(sum(parts(w, x, h, 0)))
    return h, h, {}


def gru(w: Weights, x: np.ndarray, h: np.ndarray) -> Step:
    (r_x, r_h), (z_x, z_h), (n_x, n_h) = (parts(w, x, h, k) for k in range(3))
    r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
    h = (1 - z) * np.tanh(n_x + r * n_h) + z * h  # the reset gate after the product
    return h, h, {"reset": r, "keep": z}


def lstm(w: Weights, x: np.ndarray, state: np.ndarray) -> Step:
    h, c = np.split(state, 2, axis=-1)
    i, f, g, o = (sum(parts(w, x, h, k)) for k in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return (
        h,
        np.concatenate([h, c], axis=-1),
        {"input": sigmoid(i), "forget": sigmoid(f), "output": sigmoid(o)},
    )


def lstm1997(w: Weights, x: np.ndarray, state: np.ndarray) -> Step:
    """Hochreiter & Schmidhuber (1997), written from the paper's equations."""
    y, s = np.split(state, 2, axis=-1)
    net = [x @ w["weight_x"][k].T + y @ w["weight_y"][k].T + w["bias"][k] for k in range(3)]
    y_in, y_out = sigmoid(net[0]), sigmoid(net[2])
    s = 1.0 * s + y_in * (4 * sigmoid(net[1]) - 2)  # g
    y = y_out * (2 * sigmoid(s) - 1)  # h
    return y, np.concatenate([y, s], axis=-1), {"input": y_in, "output": y_out}


@pytest.mark.parametrize("name", RECURRENT)
def test_a_core_and_its_gates_are_their_equations(name: str) -> None:
    core, equations = make(name), globals()[name]
    x, state = normal(T, B, D), normal(B, core.state_size, seed=2)
    w = {k: p.detach().numpy() for k, p in core.named_parameters()}
    y, last = core(x, state, torch.zeros(T, B, dtype=torch.bool))
    met = state.numpy()
    for t in range(T):
        opened = core.gates(x[t], torch.from_numpy(met))
        expected, met, gates = equations(w, x[t].numpy(), met)
        np.testing.assert_allclose(y[t].detach(), expected, rtol=1e-12, atol=1e-12)
        assert opened.keys() == gates.keys()
        for gate, opening in gates.items():
            np.testing.assert_allclose(opened[gate].detach(), opening, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(last.detach(), met, rtol=1e-12, atol=1e-12)


def test_a_new_rnn_is_orthogonal_and_a_new_lstm_remembers() -> None:
    w = make("rnn").get_parameter("cell.weight_hh_l0")
    torch.testing.assert_close(w @ w.T, torch.eye(H, dtype=torch.float64), rtol=0, atol=1e-6)
    core = make("lstm")
    bias = core.get_parameter("cell.bias_ih_l0") + core.get_parameter("cell.bias_hh_l0")
    assert (bias == 1).tolist() == [H <= i < 2 * H for i in range(4 * H)]  # the forget gate's alone


def test_with_a_closed_input_gate_the_carousel_keeps_its_content_and_its_gradient() -> None:
    """A cell whose gates see their bias alone: the input gate is closed, the output gate open."""
    core = Lstm1997(D, H)
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


@pytest.mark.parametrize("name", RECURRENT)
def test_gradients_equal_finite_differences_with_resets_inside(name: str) -> None:
    core = make(name, inputs=2, size=3)
    x, state = normal(5, 3, 2).requires_grad_(), normal(3, core.state_size, seed=2).requires_grad_()
    is_first = torch.zeros(5, 3, dtype=torch.bool)
    is_first[[2, 3], [1, 2]] = True
    names, weights = zip(*core.named_parameters(), strict=True)

    def run(x: Tensor, state: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(
            core, dict(zip(names, weights, strict=True)), (x, state, is_first)
        )

    assert torch.autograd.gradcheck(run, (x, state, *weights))
