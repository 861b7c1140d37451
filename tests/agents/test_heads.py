import math

import pytest
import torch

from agents.heads import HEADS, Head, HlGaussHead, MeanHead, QrHead

L, B, A, D = 7, 3, 4, 6


def make(kind: type[Head], hidden: int = 0, dueling: bool = False, loss: str = "squared") -> Head:
    return kind(D, A, hidden, dueling, norm=True, loss=loss)


def x() -> torch.Tensor:
    return torch.randn(L, B, D, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("hidden", [0, 5])
def test_a_dueling_head_is_value_plus_advantages_that_average_0(name: str, hidden: int) -> None:
    head = make(HEADS[name], hidden, dueling=True)
    out = head(x())
    assert out.shape == (L, B, A, head.outputs)
    assert head.value is not None
    torch.testing.assert_close(out.mean(2), head.value(x()))
    advantage = head.advantage(x()).unflatten(-1, (A, head.outputs))
    torch.testing.assert_close(out - out[:, :, :1], advantage - advantage[:, :, :1])


def test_the_mean_head_has_the_loss_of_its_setting() -> None:
    out, target = torch.tensor([[[1.0], [1.0]]]), torch.tensor([[[1.5], [4.0]]])
    for loss, expected in (
        ("squared", [0.5 * 0.5**2, 0.5 * 3**2]),
        ("huber", [0.5 * 0.5**2, 3 - 0.5]),
    ):
        head = make(MeanHead, loss=loss)
        assert head.samples(out) is out
        assert head.loss(out, target)[0].tolist() == pytest.approx(expected)


def test_the_gradient_of_a_quantile_vanishes_where_its_share_of_the_targets_lies_below() -> None:
    # Errors far beyond 1: the gradient counts targets.
    target = torch.arange(64.0)[None, None] * 100
    # 2 i + 1 targets lie below quantile i
    out = (100 * (2 * torch.arange(32.0) + 0.5))[None, None].requires_grad_()
    make(QrHead).loss(out, target).sum().backward()
    assert out.grad is not None
    # below: 1 - tau_i each; above: -tau_i each; tau_i = (2 i + 1) / 64 and 2 i + 1 of 64 below
    torch.testing.assert_close(out.grad, torch.zeros_like(out), rtol=0, atol=1e-6)


def test_hl_gauss_gives_the_mean_of_its_histogram() -> None:
    out = torch.full((1, 1, 51), -99.0)
    out[..., [0, 50]] = torch.tensor([math.log(1 / 4), math.log(3 / 4)])
    outermost = 10 - 10 / 51  # the middle of the last bin
    assert make(HlGaussHead).samples(out).item() == pytest.approx(
        (3 / 4 - 1 / 4) * outermost, rel=1e-5
    )


@pytest.mark.parametrize(("target", "mean"), [(0.3, 0.3), (-7.0, -7.0), (99.0, 9.76)])
def test_hl_gauss_is_least_where_its_mean_is_the_target_within_the_range(
    target: float, mean: float
) -> None:
    head, out = make(HlGaussHead), torch.zeros(1, 1, 51, requires_grad=True)
    optimizer = torch.optim.Adam([out], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        head.loss(out, torch.full((1, 1, 1), target)).sum().backward()
        optimizer.step()
    assert head.samples(out).item() == pytest.approx(mean, abs=0.06)


def test_q_is_computed_in_single_precision_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        out = make(MeanHead, hidden=5, dueling=True)(x())
    assert out.dtype == torch.float32
    assert not torch.equal(out, out.bfloat16().float())
