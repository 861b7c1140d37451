import pytest
import torch

from agents.heads import HEADS, Head, HlGaussHead

L, B, A, D = 7, 3, 4, 6
X = torch.randn(L, B, D, generator=torch.Generator().manual_seed(0))


def make(kind, hidden=0, dueling=False):
    return kind(D, A, hidden, dueling, norm=True, loss="squared")


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("hidden", [0, 5])
def test_a_dueling_head_is_value_plus_advantages_that_average_0(name, hidden) -> None:
    head = make(HEADS[name], hidden, dueling=True)
    advantage = head.advantage(X).unflatten(-1, (A, head.outputs))
    expected = head.value(X)[:, :, None] + advantage - advantage.mean(2, keepdim=True)
    torch.testing.assert_close(head(X), expected)


@pytest.mark.parametrize(("target", "mean"), [(0.3, 0.3), (-7.0, -7.0), (99.0, 9.76)])
def test_hl_gauss_is_least_where_its_mean_is_the_target_within_the_range(target, mean) -> None:
    head, out = make(HlGaussHead), torch.zeros(1, 1, 51, requires_grad=True)
    optimizer = torch.optim.Adam([out], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        head.loss(out, torch.full((1, 1, 1), target)).sum().backward()
        optimizer.step()
    assert head.samples(out).item() == pytest.approx(mean, abs=0.06)


def test_q_is_computed_in_single_precision_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        out = make(Head, hidden=5, dueling=True)(X)
    assert out.dtype == torch.float32
    assert not torch.equal(out, out.bfloat16().float())
