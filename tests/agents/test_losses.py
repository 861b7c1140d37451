import pytest
import torch
from torch import Tensor

from agents import losses

# Rows 0..4. Where an end, a cut or the next episode hides a number, that number is a decoy: 99 or -7.


def column(*numbers: float) -> Tensor:
    """[T, 1] in fp64."""
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def flags(length: int, *rows: int) -> Tensor:
    """[length, 1] bool, true at `rows`."""
    out = torch.zeros(length, 1, dtype=torch.bool)
    out[list(rows)] = True
    return out


def n_step(reward: Tensor, value: Tensor, n: int, **ends: Tensor) -> list[float]:
    return losses.n_step_target(reward, *discount_and_trace(reward, **ends), value, n)[:, 0].tolist()


def q_lambda(reward: Tensor, value: Tensor, lambda_: float, n: int, **ends: Tensor) -> list[float]:
    discount, trace = discount_and_trace(reward, **ends)
    return losses.lambda_target(reward, discount, lambda_ * trace, value, n)[:, 0].tolist()


def discount_and_trace(reward: Tensor, **ends: Tensor) -> tuple[Tensor, Tensor]:
    """Discount 0.9, 0 where the episode terminated; trace 1, 0 at truncated rows."""
    none = torch.zeros_like(reward, dtype=torch.bool)
    terminated, truncated = (ends.get(name, none) for name in ("terminated", "truncated"))
    return 0.9 * ~terminated, (~truncated).to(reward.dtype)


def test_a_1_step_target_is_the_reward_and_the_next_value() -> None:
    assert n_step(column(1, 2, 99), column(-7, 5, 6), 1) == pytest.approx([1 + 0.9 * 5, 2 + 0.9 * 6])


def test_an_n_step_target_sums_n_rewards_and_the_value_n_rows_on() -> None:
    reward, value = column(1, 2, 3, 4, 99), column(-7, -7, -7, 10, 20)
    assert n_step(reward, value, 3) == pytest.approx(
        [1 + 0.9 * 2 + 0.9**2 * 3 + 0.9**3 * 10, 2 + 0.9 * 3 + 0.9**2 * 4 + 0.9**3 * 20]
    )


def test_termination_stops_n_step_rewards_and_bootstraps() -> None:
    reward, value = column(1, 2, 3, 99, 99), column(-7, -7, -7, 5, 6)
    # Row 1 ends the episode; row 2 starts the next: nothing of it reaches rows 0 and 1.
    assert n_step(reward, value, 2, terminated=flags(5, 1)) == pytest.approx([1 + 0.9 * 2, 2, 3 + 0.9 * 99 + 0.81 * 6])


def test_rows_before_a_truncation_bootstrap_from_the_row_before_the_cut() -> None:
    reward, value = column(1, 2, -7, 99, 99, 99), column(-7, -7, 30, 99, 99, 99)
    # Row 2 is cut: the row after it is another episode's, so v(s_2) is the last value that can be used.
    target = n_step(reward, value, 3, truncated=flags(6, 2))
    assert target[:2] == pytest.approx([1 + 0.9 * 2 + 0.9**2 * 30, 2 + 0.9 * 30])


def test_a_truncated_row_is_masked_and_no_other() -> None:
    assert losses.loss_mask(flags(4, 2)).tolist() == [[1], [1], [0], [1]]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_n_step_target_sees_the_next_episode(n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    reward, value = torch.randn(2, 8, 1, generator=generator, dtype=torch.float64)
    after = torch.arange(8)[:, None] > 3
    for ends in ("terminated", "truncated"):
        end = {ends: flags(8, 3)}
        kept = n_step(reward, value, n, **end)
        decoyed = n_step(reward.masked_fill(after, 99.0), value.masked_fill(after, -7.0), n, **end)
        last = 4 if ends == "terminated" else 3  # the truncated row itself is masked
        assert kept[:last] == decoyed[:last]


def test_q_lambda_by_hand() -> None:
    reward, value = column(1, 2, 3, 99), column(-7, 10, 20, 30)
    g2 = 3 + 0.9 * 30
    g1 = 2 + 0.9 * (0.4 * 20 + 0.6 * g2)
    g0 = 1 + 0.9 * (0.4 * 10 + 0.6 * g1)
    assert q_lambda(reward, value, 0.6, 1) == pytest.approx([g0, g1, g2])
    assert q_lambda(reward, value, 0.6, 3) == pytest.approx([g0])


def test_q_lambda_stops_at_a_termination() -> None:
    reward, value = column(1, 2, 99, 99), column(-7, 10, 99, 99)
    target = q_lambda(reward, value, 0.6, 1, terminated=flags(4, 1))
    assert target[:2] == pytest.approx([1 + 0.9 * (0.4 * 10 + 0.6 * 2), 2])


def test_q_lambda_before_a_truncation_bootstraps_from_the_row_before_the_cut() -> None:
    reward, value = column(1, 2, -7, 99, 99), column(-7, 10, 30, 99, 99)
    target = q_lambda(reward, value, 0.6, 1, truncated=flags(5, 2))
    g1 = 2 + 0.9 * 30  # both the value and the return that would follow are v(s_2)
    assert target[:2] == pytest.approx([1 + 0.9 * (0.4 * 10 + 0.6 * g1), g1])


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_no_q_lambda_target_sees_the_next_episode(ends: str) -> None:
    generator = torch.Generator().manual_seed(1)
    reward, value = torch.randn(2, 8, 1, generator=generator, dtype=torch.float64)
    after, end = torch.arange(8)[:, None] > 3, {ends: flags(8, 3)}
    kept = q_lambda(reward, value, 0.65, 1, **end)
    decoyed = q_lambda(reward.masked_fill(after, 99.0), value.masked_fill(after, -7.0), 0.65, 1, **end)
    last = 4 if ends == "terminated" else 3
    assert kept[:last] == decoyed[:last]


def test_lambda_0_is_the_1_step_target() -> None:
    generator = torch.Generator().manual_seed(2)
    reward, value = torch.randn(2, 9, 4, generator=generator)
    terminated, truncated = torch.rand(2, 9, 4, generator=generator) < 0.2
    for ends in ({"terminated": terminated}, {"terminated": terminated, "truncated": truncated}):
        assert q_lambda(reward, value, 0.0, 1, **ends) == pytest.approx(n_step(reward, value, 1, **ends))


def test_lambda_1_without_an_end_is_the_longest_n_step_target() -> None:
    reward, value = column(1, 2, 3, 99), column(-7, -7, -7, 30)
    target = q_lambda(reward, value, 1.0, 1)
    assert target == pytest.approx([1 + 0.9 * 2 + 0.9**2 * 3 + 0.9**3 * 30, 2 + 0.9 * 3 + 0.9**2 * 30, 3 + 0.9 * 30])
    assert target[:1] == pytest.approx(n_step(reward, value, 3))


def test_lanes_do_not_mix() -> None:
    reward = torch.tensor([[1.0, 10.0], [2.0, 20.0], [99.0, 99.0]])
    value = torch.tensor([[-7.0, -7.0], [3.0, 30.0], [4.0, 40.0]])
    terminated = torch.tensor([[False, True], [False, False], [False, False]])
    discount, trace = discount_and_trace(reward, terminated=terminated)
    expected = torch.tensor([[1 + 0.9 * 3, 10], [2 + 0.9 * 4, 20 + 0.9 * 40]])
    torch.testing.assert_close(losses.n_step_target(reward, discount, trace, value, 1), expected)
    torch.testing.assert_close(losses.lambda_target(reward, discount, 0 * trace, value, 1), expected)


def test_double_q_takes_the_value_of_the_action_the_other_network_selects() -> None:
    select = torch.tensor([[[1.0, 3.0, 2.0]], [[5.0, 0.0, 0.0]]])  # argmax 1, 0
    value = torch.tensor([[[-7.0, 4.0, 99.0]], [[6.0, 99.0, -7.0]]])
    assert losses.double_q_value(select, value[..., None])[..., 0].tolist() == [[4.0], [6.0]]


def test_squared_is_half_the_square() -> None:
    assert losses.squared(column(-3, 0, 0.5))[:, 0].tolist() == [0.5 * 9, 0, 0.5 * 0.25]


def test_huber_is_half_the_square_within_1_and_linear_beyond() -> None:
    assert losses.huber(column(-3, -1, 0, 0.5, 4))[:, 0].tolist() == [3 - 0.5, 0.5, 0, 0.5 * 0.25, 4 - 0.5]


def test_the_gradient_of_huber_is_the_error_clipped_to_1() -> None:
    delta = column(-3, -0.25, 0.5, 4).requires_grad_()
    losses.huber(delta).sum().backward()
    assert delta.grad is not None
    assert delta.grad[:, 0].tolist() == [-1, -0.25, 0.5, 1]


def test_rescale_by_hand() -> None:
    # sqrt(8 + 1) - 1 = 2, sqrt(99 + 1) - 1 = 9
    assert losses.rescale(column(0, 8, -99))[:, 0].tolist() == pytest.approx([0, 2 + 0.008, -9 - 0.099])


def test_unscale_is_the_inverse_of_rescale() -> None:
    size = torch.logspace(-6, 4, 101, dtype=torch.float64)
    x = torch.cat([-size, torch.zeros(1, dtype=torch.float64), size])
    torch.testing.assert_close(losses.unscale(losses.rescale(x)), x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(losses.rescale(losses.unscale(x)), x, rtol=1e-10, atol=1e-10)


def test_unscale_keeps_its_digits_in_single_precision() -> None:
    x = torch.tensor([-400.0, -21.0, -1.0, 0.0, 0.1, 1.0, 21.0, 400.0])
    torch.testing.assert_close(losses.unscale(losses.rescale(x)), x, rtol=1e-3, atol=1e-3)


def test_priority_is_eta_max_and_the_rest_mean_over_unmasked_rows() -> None:
    td_error = torch.tensor([[1.0, -3.0], [-4.0, 99.0], [99.0, 2.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    expected = [0.9 * 4 + 0.1 * (1 + 4) / 2, 0.9 * 3 + 0.1 * (3 + 2) / 2]
    assert losses.sequence_priority(td_error, mask, 0.9).tolist() == pytest.approx(expected)


def test_the_priority_of_a_wholly_masked_sequence_is_0() -> None:
    assert losses.sequence_priority(column(99, -7), torch.zeros(2, 1), 0.9).tolist() == [0]


def test_the_quantile_loss_weighs_errors_by_the_quantile_they_miss() -> None:
    # Quantiles 1 and 3 at fractions 1/4 and 3/4, targets 2 and 8: delta_ij = target_j - quantile_i.
    delta = torch.tensor([[[[2 - 1.0, 8 - 1.0], [2 - 3.0, 8 - 3.0]]]])
    first = (0.25 * 0.5 + 0.25 * (7 - 0.5)) / 2
    second = ((1 - 0.75) * 0.5 + 0.75 * (5 - 0.5)) / 2
    assert losses.quantile_huber(delta).item() == pytest.approx(first + second)
