"""Our equations against rlax's, on random inputs in double precision: `make agreement`.

Not a part of the suite: JAX starts threads, and the suite forks.
"""

import jax
import numpy as np
import pytest
import rlax
import torch

from agents import losses
from agents.heads import HlGaussHead

jax.config.update("jax_enable_x64", True)
jnp = jax.numpy

T, B, A, N, GAMMA = 9, 6, 4, 8, 0.97


def close(ours, theirs):
    np.testing.assert_allclose(ours.numpy(), np.asarray(theirs), rtol=1e-6, atol=1e-9)


def lanes(function, *columns):
    """rlax knows one lane [T, ...]: the same over lanes [T, B, ...]."""
    columns = [jnp.asarray(x.numpy()) for x in columns]
    return np.asarray(jax.vmap(function, in_axes=1, out_axes=1)(*columns))


def rows(function, *columns):
    """rlax knows one row: the same over [T, B, ...]."""
    return jax.vmap(jax.vmap(function))(*(jnp.asarray(x.numpy()) for x in columns))


class Batch:
    """Random rewards, values and ends: a termination is a discount of 0, a truncation a lambda of
    0."""

    def __init__(self, seed):
        g = torch.Generator().manual_seed(seed)
        self.reward, self.value = torch.randn(2, T, B, generator=g, dtype=torch.float64)
        self.terminated = torch.rand(T, B, generator=g) < 0.15
        self.truncated = (torch.rand(T, B, generator=g) < 0.15) & ~self.terminated
        self.discount, self.trace = GAMMA * (~self.terminated).double(), (~self.truncated).double()
        self.z, self.z_next = torch.randn(2, T, B, A, N, generator=g, dtype=torch.float64)
        self.action = torch.randint(A, (T, B), generator=g)
        self.steps = self.reward[:-1], self.discount[:-1]


@pytest.fixture(params=range(5))
def seed(request):
    return request.param


@pytest.fixture
def b(seed):
    return Batch(seed)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_n_step_targets(b, n) -> None:
    ours = losses.n_step_target(b.reward, b.discount, b.trace, b.value, n)
    columns = *b.steps, b.value[1:], b.trace[1:]
    theirs = lanes(lambda r, d, v, k: rlax.n_step_bootstrapped_returns(r, d, v, n, k), *columns)
    close(ours, theirs[: T - n])


@pytest.mark.parametrize("trace", [0.0, 0.65, 1.0])
def test_q_lambda_targets(b, trace) -> None:
    ours = losses.lambda_target(b.reward, b.discount, trace * b.trace, b.value, 1)
    close(ours, lanes(rlax.lambda_returns, *b.steps, b.value[1:], trace * b.trace[1:]))


def test_double_q_td_errors(b) -> None:
    q, select, value = b.z[..., :1], b.z_next[..., 0], b.z_next[..., 1:2]
    v = losses.double_q_value(select, value)[..., 0]
    target = losses.n_step_target(b.reward, b.discount, torch.ones_like(b.trace), v, 1)
    ours = target - losses.at_action(q, b.action)[:-1, :, 0]
    now, after = (q[:-1, ..., 0], b.action[:-1]), (value[1:, ..., 0], select[1:])
    close(ours, rows(rlax.double_q_learning, *now, *b.steps, *after))


def test_huber_and_value_rescaling_and_its_inverse(seed) -> None:
    x = 50 * torch.randn(100, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    theirs = rlax.huber_loss, rlax.signed_hyperbolic, rlax.signed_parabolic
    for own, their in zip((losses.huber, losses.rescale, losses.unscale), theirs, strict=True):
        close(own(x), their(jnp.asarray(x.numpy())))


def test_transformed_n_step_targets(b) -> None:
    def returns(r, d, v, k):
        target = rlax.n_step_bootstrapped_returns(r, d, rlax.signed_parabolic(v), 5, k)
        return rlax.signed_hyperbolic(target)

    target = losses.n_step_target(b.reward, b.discount, b.trace, losses.unscale(b.value), 5)
    theirs = lanes(returns, *b.steps, b.value[1:], b.trace[1:])
    close(losses.rescale(target), theirs[: T - 5])


def test_quantile_losses_of_double_qr_dqn(b) -> None:
    tau = (jnp.arange(N) + 0.5) / N
    value = losses.double_q_value(b.z_next.mean(-1), b.z_next)  # [T, B, N]
    columns = (x[..., None] for x in (b.reward, b.discount, torch.ones_like(b.trace)))
    target = losses.n_step_target(*columns, value, 1)
    played = losses.at_action(b.z, b.action)[:-1]
    ours = losses.quantile_huber(target[..., None, :] - played[..., None])
    now, after = b.z[:-1].transpose(-1, -2), b.z_next[1:].transpose(-1, -2)
    columns = now, b.action[:-1], *b.steps, after, after
    close(ours, rows(lambda z, *rest: rlax.quantile_q_learning(z, tau, *rest, 1.0), *columns))


def test_hl_gauss_is_the_cross_entropy_of_a_normal_histogram(seed) -> None:
    head, g = HlGaussHead(1, 1, 0, False, False, "squared"), torch.Generator().manual_seed(seed)
    out = torch.randn(T, B, 51, generator=g, dtype=torch.float64)
    mean = 12 * torch.randn(T, B, 1, generator=g).double()
    edges, width = jnp.linspace(-10, 10, 52), 0.75 * 20 / 51
    at = jnp.clip(jnp.asarray(mean.numpy()), -10, 10)
    share = jnp.diff(jax.scipy.stats.norm.cdf(edges, at, width))
    labels = share / share.sum(-1, keepdims=True)
    close(head.loss(out, mean), rlax.categorical_cross_entropy(labels, jnp.asarray(out.numpy())))
