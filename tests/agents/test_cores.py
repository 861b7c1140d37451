import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.cores import CORES, Core, Identity, Lstm1997

RECURRENT = ["rnn", "lstm1997", "lstm", "gru"]
T, B, D, H = 9, 4, 5, 6
# Lane 0 is never reset, 1 at its start, 2 in the middle and at once again, 3 at the end; two lanes share row 4.
IS_FIRST = torch.zeros(T, B, dtype=torch.bool)
IS_FIRST[[0, 4, 5, 4, 8], [1, 2, 2, 3, 3]] = True


def make(name: str, inputs: int = D, size: int = H, seed: int = 0) -> Core:
    """A core in fp64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CORES[name](inputs, size).double()


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def parameters(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


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
def test_an_unroll_may_be_cut_anywhere(name: str) -> None:
    core = make(name)
    x, state = normal(T, B, D), normal(B, core.state_size, seed=2)
    whole, last = core(x, state, IS_FIRST)
    for cut in range(1, T):
        before, between = core(x[:cut], state, IS_FIRST[:cut])
        after, end = core(x[cut:], between, IS_FIRST[cut:])
        torch.testing.assert_close(torch.cat([before, after]), whole, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(end, last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("start", [0, 4, T - 1])
def test_what_follows_is_first_does_not_depend_on_what_came_before(name: str, start: int) -> None:
    core = make(name)
    x, state = normal(T, B, D), normal(B, core.state_size, seed=2)
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[start, :2] = True  # lanes 2 and 3 run on
    y, last = core(x, state, is_first)
    decoys = x.clone()
    decoys[:start, :2] = 99.0
    state[:2] = -7.0
    y_decoys, last_decoys = core(decoys, state, is_first)
    assert torch.equal(y_decoys[start:], y[start:])
    assert torch.equal(last_decoys, last)


@pytest.mark.parametrize("name", CORES)
def test_a_reset_is_the_initial_state(name: str) -> None:
    core = make(name)
    x, is_first = normal(T, B, D), torch.zeros(T, B, dtype=torch.bool)
    fresh, _ = core(x, core.initial_state(B).double(), is_first)
    is_first[0] = True
    reset, _ = core(x, torch.full((B, core.state_size), 99.0, dtype=torch.float64), is_first)
    assert torch.equal(reset, fresh)


@pytest.mark.parametrize("name", CORES)
def test_not_even_nan_gets_past_a_reset(name: str) -> None:
    core = make(name)
    x, is_first = normal(T, B, D), torch.ones(T, B, dtype=torch.bool)
    y, state = core(x, torch.full((B, core.state_size), torch.nan, dtype=torch.float64), is_first)
    assert y.isfinite().all()
    assert state.isfinite().all()


@pytest.mark.parametrize("name", RECURRENT)
def test_without_a_reset_the_past_matters_to_the_last_row(name: str) -> None:
    core = make(name)
    x, state = normal(T, B, D), normal(B, core.state_size, seed=2)
    is_first = torch.zeros(T, B, dtype=torch.bool)
    y, _ = core(x, state, is_first)
    x[0] += 1
    assert ((core(x, state, is_first)[0] - y)[-1].abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("name", CORES)
def test_the_initial_state_is_zeros_of_the_state_size(name: str) -> None:
    core = CORES[name](D, H)
    assert torch.equal(core.initial_state(3), torch.zeros(3, core.state_size))
    size = {"identity": 0, "rnn": H, "gru": H, "lstm": 2 * H, "lstm1997": 2 * H}[name]
    assert core.state_size == size
    assert core.output_size == (D if name == "identity" else H)


def test_identity_has_no_state_and_passes_x_through() -> None:
    core, x = Identity(D, H), normal(T, B, D)
    y, state = core(x, core.initial_state(B), IS_FIRST)
    assert torch.equal(y, x)
    assert state.shape == (B, 0)
    assert not list(core.parameters())


def test_rnn_is_elmans_equation() -> None:
    core = make("rnn")
    x, state = normal(T, B, D), normal(B, H, seed=2)
    w = parameters(core)
    h = state.numpy()
    y, last = core(x, state, torch.zeros(T, B, dtype=torch.bool))
    for t in range(T):
        h = np.tanh(
            x[t].numpy() @ w["cell.weight_ih_l0"].T + w["cell.bias_ih_l0"]
            + h @ w["cell.weight_hh_l0"].T + w["cell.bias_hh_l0"]
        )  # fmt: skip
        np.testing.assert_allclose(y[t].detach(), h, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(last.detach(), h, rtol=1e-12, atol=1e-12)


def test_the_recurrent_weights_of_a_new_rnn_are_orthogonal() -> None:
    w = make("rnn").get_parameter("cell.weight_hh_l0")
    torch.testing.assert_close(w @ w.T, torch.eye(H, dtype=torch.float64), rtol=0, atol=1e-6)


def test_gru_is_torchs_gru() -> None:
    core = make("gru")
    reference = nn.GRU(D, H).double()
    reference.load_state_dict({k.removeprefix("cell."): v for k, v in core.state_dict().items()})
    x, state = normal(T, B, D), normal(B, H, seed=2)
    y, last = core(x, state, torch.zeros(T, B, dtype=torch.bool))
    expected, h = reference(x, state[None])
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(last, h[0])


def gates(w: dict[str, np.ndarray], x: np.ndarray, h: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Input and recurrent part of the k-th gate, in torch's order of weights."""
    rows = slice(k * H, (k + 1) * H)
    return (
        x @ w["cell.weight_ih_l0"][rows].T + w["cell.bias_ih_l0"][rows],
        h @ w["cell.weight_hh_l0"][rows].T + w["cell.bias_hh_l0"][rows],
    )


def test_gru_is_its_equations_with_the_reset_after_the_product() -> None:
    core = make("gru")
    w, x, state = parameters(core), normal(T, B, D), normal(B, H, seed=2)
    h = state.numpy()
    y, _ = core(x, state, torch.zeros(T, B, dtype=torch.bool))
    for t in range(T):
        (r_x, r_h), (z_x, z_h), (n_x, n_h) = (gates(w, x[t].numpy(), h, k) for k in range(3))
        r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
        h = (1 - z) * np.tanh(n_x + r * n_h) + z * h
        np.testing.assert_allclose(y[t].detach(), h, rtol=1e-12, atol=1e-12)


def test_lstm_is_its_equations() -> None:
    core = make("lstm")
    w, x, state = parameters(core), normal(T, B, D), normal(B, 2 * H, seed=2)
    h, c = state[:, :H].numpy(), state[:, H:].numpy()
    y, last = core(x, state, torch.zeros(T, B, dtype=torch.bool))
    for t in range(T):
        i, f, g, o = (sum(gates(w, x[t].numpy(), h, k)) for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(y[t].detach(), h, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(last.detach(), np.concatenate([h, c], axis=-1), rtol=1e-12, atol=1e-12)


def test_lstm_is_torchs_lstm_with_h_and_c_side_by_side() -> None:
    core = make("lstm")
    reference = nn.LSTM(D, H).double()
    reference.load_state_dict({k.removeprefix("cell."): v for k, v in core.state_dict().items()})
    x, h, c = normal(T, B, D), normal(B, H, seed=2), normal(B, H, seed=3)
    y, last = core(x, torch.cat([h, c], dim=-1), torch.zeros(T, B, dtype=torch.bool))
    expected, (h, c) = reference(x, (h[None], c[None]))
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(last, torch.cat([h[0], c[0]], dim=-1))


def test_the_forget_bias_of_a_new_lstm_is_1_and_no_other_is_set() -> None:
    core = make("lstm")
    total = core.get_parameter("cell.bias_ih_l0") + core.get_parameter("cell.bias_hh_l0")
    assert total[H : 2 * H].tolist() == [1.0] * H
    assert not (total[:H] == 1).any()
    assert not (total[2 * H :] == 1).any()


def lstm1997(w: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, ...]:
    """One step of Hochreiter & Schmidhuber (1997), written from the paper's equations."""
    net = [x @ w["weight_x"][k].T + y @ w["weight_y"][k].T + w["bias"][k] for k in range(3)]
    y_in, net_c, y_out = sigmoid(net[0]), net[1], sigmoid(net[2])
    g = 4 * sigmoid(net_c) - 2
    s = 1.0 * s + y_in * g
    h = 2 * sigmoid(s) - 1
    return y_out * h, s


def test_lstm1997_is_the_papers_equations() -> None:
    core = make("lstm1997")
    x, state = normal(T, B, D), normal(B, 2 * H, seed=2)
    y, s = state[:, :H].numpy(), state[:, H:].numpy()
    out, last = core(x, state, torch.zeros(T, B, dtype=torch.bool))
    for t in range(T):
        y, s = lstm1997(parameters(core), x[t].numpy(), y, s)
        np.testing.assert_allclose(out[t].detach(), y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(last.detach(), np.concatenate([y, s], axis=-1), rtol=1e-12, atol=1e-12)


def closed(bias_in: float) -> Lstm1997:
    """A cell whose gates see their bias alone: input gate sigma(bias_in), output gate open."""
    core = Lstm1997(D, H)
    with torch.no_grad():
        core.weight_x.zero_()
        core.weight_y.zero_()
        core.bias[0], core.bias[1], core.bias[2] = bias_in, 1.0, 99.0
    return core


def test_the_carousel_keeps_its_content_over_1000_steps_while_the_input_gate_is_closed() -> None:
    s = torch.tensor([[5.0, -3.0, 0.25, 1e-3, 40.0, -0.5]])
    x, is_first = 99 * normal(1000, 1, D).float(), torch.zeros(1000, 1, dtype=torch.bool)
    y, last = closed(-200.0)(x, torch.cat([torch.zeros(1, H), s], dim=-1), is_first)
    assert torch.equal(last[:, H:], s)
    torch.testing.assert_close(y[-1], torch.tanh(s / 2))  # h(s) = 2 sigma(s) - 1 = tanh(s / 2)


def test_an_open_input_gate_adds_g_at_every_step() -> None:
    x, is_first = normal(10, 1, D).float(), torch.zeros(10, 1, dtype=torch.bool)
    _, last = closed(99.0)(x, torch.full((1, 2 * H), 3.0), is_first)
    g = 4 / (1 + np.exp(-1.0)) - 2
    torch.testing.assert_close(last[:, H:], torch.full((1, H), 3 + 10 * g))


def test_the_gradient_through_200_steps_of_the_carousel_is_1() -> None:
    state = torch.cat([torch.zeros(1, H), torch.linspace(-2, 2, H)[None]], dim=-1).requires_grad_()
    x, is_first = normal(200, 1, D).float(), torch.zeros(200, 1, dtype=torch.bool)
    _, last = closed(-200.0)(x, state, is_first)
    (gradient,) = torch.autograd.grad(last[:, H:].sum(), state)
    assert gradient[0, H:].tolist() == [1.0] * H


def test_the_gradient_through_200_steps_of_a_forget_gate_is_not() -> None:
    core = make("lstm")
    state = torch.zeros(1, 2 * H, dtype=torch.float64, requires_grad=True)
    _, last = core(torch.zeros(200, 1, D).double(), state, torch.zeros(200, 1, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(last[:, H:].sum(), state)
    assert gradient[0, H:].abs().max() < 1e-6


@pytest.mark.parametrize("name", RECURRENT)
def test_gradients_equal_finite_differences_with_resets_inside(name: str) -> None:
    core = make(name, inputs=2, size=3)
    x, state = normal(5, 3, 2).requires_grad_(), normal(3, core.state_size, seed=2).requires_grad_()
    is_first = torch.zeros(5, 3, dtype=torch.bool)
    is_first[[2, 3], [1, 2]] = True
    names, weights = zip(*core.named_parameters(), strict=True)

    def run(x: Tensor, state: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(core, dict(zip(names, weights, strict=True)), (x, state, is_first))

    assert torch.autograd.gradcheck(run, (x, state, *weights))


@pytest.mark.parametrize("name", RECURRENT)
def test_no_gradient_crosses_a_reset(name: str) -> None:
    core = make(name)
    x, state = normal(T, B, D).requires_grad_(), normal(B, core.state_size, seed=2).requires_grad_()
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[4, :2] = True
    y, _ = core(x, state, is_first)
    to_x, to_state = torch.autograd.grad(y[4:].sum(), (x, state))
    assert (to_x[:4, :2] == 0).all()
    assert (to_state[:2] == 0).all()
    assert (to_x[:4, 2:] != 0).any()
    assert (to_state[2:] != 0).any()


@pytest.mark.parametrize("name", CORES)
def test_the_state_stays_in_single_precision_under_autocast(name: str) -> None:
    core = CORES[name](D, H)
    with torch.autocast("cpu", torch.bfloat16):
        _, state = core(normal(T, B, D).bfloat16(), core.initial_state(B), IS_FIRST)
    assert state.dtype == torch.float32


@pytest.mark.parametrize("core", ["lstm", "lstm1997", "gru"])
def test_the_gates_are_those_of_the_step(core: str) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        cell = CORES[core](5, 7)
        x, state = torch.randn(1, 3, 5), torch.randn(3, cell.state_size)
        y, after = cell(x, state, torch.zeros(1, 3, dtype=torch.bool))
        gates = cell.gates(x[0], state)
        if core == "gru":  # h' = keep h + (1 - keep) n, with n = tanh(W x + b + reset (U h + b'))
            gru = cell.cell
            w, u, b, b_h = (p[14:] for p in (gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0))  # type: ignore[union-attr, index]
            n = torch.tanh(x[0] @ w.T + b + gates["reset"] * (state @ u.T + b_h))
            torch.testing.assert_close(after, gates["keep"] * state + (1 - gates["keep"]) * n)
        else:  # the output gate shows the cell: y = o tanh(c), or o tanh(s / 2)
            content = after[:, 7:] / (2 if core == "lstm1997" else 1)
            torch.testing.assert_close(y[0], gates["output"] * torch.tanh(content))
