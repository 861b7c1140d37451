"""Our equations against rlax's, on random inputs in double precision: `make agreement`.

Not a part of the suite: JAX starts threads, and the suite forks.
"""

import jax
import numpy as np
import pytest
import rlax
import torch
from torch import Tensor

from agents import losses
from agents.heads import HlGaussHead, MeanHead

jax.config.update("jax_enable_x64", True)
jnp = jax.numpy

T, B, A, N, GAMMA = 9, 6, 4, 8, 0.97
SEEDS = range(5)


def close(ours: Tensor, theirs: object) -> None:
    np.testing.assert_allclose(ours.numpy(), np.asarray(theirs), rtol=1e-6, atol=1e-9)


def lanes(function: object, *columns: Tensor) -> np.ndarray:
    """rlax knows one lane [T, ...]: the same over lanes [T, B, ...]."""
    return np.asarray(
        jax.vmap(function, in_axes=1, out_axes=1)(*(jnp.asarray(x.numpy()) for x in columns))
    )


class Batch:
    """Random rewards, values and ends: a termination is a discount of 0, a truncation a lambda of
    0."""

    def __init__(self, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        self.reward, self.value = torch.randn(2, T, B, generator=g, dtype=torch.float64)
        self.terminated = torch.rand(T, B, generator=g) < 0.15
        self.truncated = (torch.rand(T, B, generator=g) < 0.15) & ~self.terminated
        self.discount, self.trace = GAMMA * (~self.terminated).double(), (~self.truncated).double()
        self.z, self.z_next = torch.randn(2, T, B, A, N, generator=g, dtype=torch.float64)
        self.action = torch.randint(A, (T, B), generator=g)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [1, 3, 5])
def test_n_step_targets(seed: int, n: int) -> None:
    b = Batch(seed)
    ours = losses.n_step_target(b.reward, b.discount, b.trace, b.value, n)
    theirs = lanes(
        lambda r, d, v, k: rlax.n_step_bootstrapped_returns(r, d, v, n, k),
        b.reward[:-1],
        b.discount[:-1],
        b.value[1:],
        b.trace[1:],
    )
    close(ours, theirs[: T - n])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("trace", [0.0, 0.65, 1.0])
def test_q_lambda_targets(seed: int, trace: float) -> None:
    b = Batch(seed)
    ours = losses.lambda_target(b.reward, b.discount, trace * b.trace, b.value, 1)
    close(
        ours,
        lanes(
            rlax.lambda_returns, b.reward[:-1], b.discount[:-1], b.value[1:], trace * b.trace[1:]
        ),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_double_q_td_errors(seed: int) -> None:
    b = Batch(seed)
    q, select, value = b.z[..., :1], b.z_next[..., 0], b.z_next[..., 1:2]
    v = losses.double_q_value(select, value)[..., 0]
    target = losses.n_step_target(b.reward, b.discount, torch.ones_like(b.trace), v, 1)
    ours = target - losses.at_action(q, b.action)[:-1, :, 0]
    theirs = jax.vmap(jax.vmap(rlax.double_q_learning))(
        *(
            jnp.asarray(x.numpy())
            for x in (
                q[:-1, ..., 0],
                b.action[:-1],
                b.reward[:-1],
                b.discount[:-1],
                value[1:, ..., 0],
                select[1:],
            )
        )
    )
    close(ours, theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_huber_and_value_rescaling_and_its_inverse(seed: int) -> None:
    x = 50 * torch.randn(100, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    close(losses.huber(x), rlax.huber_loss(jnp.asarray(x.numpy())))
    close(losses.rescale(x), rlax.signed_hyperbolic(jnp.asarray(x.numpy())))
    close(losses.unscale(x), rlax.signed_parabolic(jnp.asarray(x.numpy())))


@pytest.mark.parametrize("seed", SEEDS)
def test_transformed_n_step_targets(seed: int) -> None:
    b = Batch(seed)
    target = losses.n_step_target(b.reward, b.discount, b.trace, losses.unscale(b.value), 5)
    theirs = lanes(
        lambda r, d, v, k: rlax.signed_hyperbolic(
            rlax.n_step_bootstrapped_returns(r, d, rlax.signed_parabolic(v), 5, k)
        ),
        b.reward[:-1],
        b.discount[:-1],
        b.value[1:],
        b.trace[1:],
    )
    close(losses.rescale(target), theirs[: T - 5])


@pytest.mark.parametrize("seed", SEEDS)
def test_quantile_losses_of_double_qr_dqn(seed: int) -> None:
    b, tau = Batch(seed), (jnp.arange(N) + 0.5) / N
    value = losses.double_q_value(b.z_next.mean(-1), b.z_next)  # [T, B, N]
    rows = (b.reward[..., None], b.discount[..., None], torch.ones_like(b.trace)[..., None])
    target = losses.n_step_target(*rows, value, 1)
    ours = losses.quantile_huber(
        target[..., None, :] - losses.at_action(b.z, b.action)[:-1][..., None]
    )
    theirs = jax.vmap(
        jax.vmap(lambda z, *x: rlax.quantile_q_learning(z, tau, *x, huber_param=1.0))
    )(
        *(
            jnp.asarray(x.numpy())
            for x in (
                b.z[:-1].transpose(-1, -2),
                b.action[:-1],
                b.reward[:-1],
                b.discount[:-1],
                b.z_next[1:].transpose(-1, -2),
                b.z_next[1:].transpose(-1, -2),
            )
        )
    )
    close(ours, theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_hl_gauss_is_the_cross_entropy_of_a_normal_histogram(seed: int) -> None:
    head = HlGaussHead(1, 1, hidden=0, dueling=False, norm=False, loss="squared")
    g = torch.Generator().manual_seed(seed)
    out, mean = (
        torch.randn(T, B, 51, generator=g, dtype=torch.float64),
        12 * torch.randn(T, B, 1, generator=g).double(),
    )
    edges, width = jnp.linspace(-10, 10, 52), 0.75 * 20 / 51
    share = jnp.diff(
        jax.scipy.stats.norm.cdf(edges, jnp.clip(jnp.asarray(mean.numpy()), -10, 10), width)
    )
    labels = share / share.sum(-1, keepdims=True)
    close(head.loss(out, mean), rlax.categorical_cross_entropy(labels, jnp.asarray(out.numpy())))


def test_the_dueling_head_is_its_equation() -> None:
    """Wang et al. 2016, equation 9; rlax has none."""
    head = MeanHead(6, A, hidden=0, dueling=True, norm=False, loss="squared").double()
    x = torch.randn(T, B, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert head.value is not None
    v, a = (stream(x).detach().numpy() for stream in (head.value, head.advantage))
    close(head(x).detach()[..., 0], v + a - a.mean(-1, keepdims=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_sequence_priorities_are_r2d2s(seed: int) -> None:
    """Kapturowski et al. 2019, section 2.3; rlax has none."""
    td = Batch(seed).value
    theirs = 0.9 * np.abs(td.numpy()).max(0) + 0.1 * np.abs(td.numpy()).mean(0)
    close(losses.sequence_priority(td, torch.ones_like(td), 0.9), theirs)
