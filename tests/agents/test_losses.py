import pytest
import torch
from torch import Tensor

from agents import losses


def column(*numbers: float) -> Tensor:
    """[T, 1] in fp64."""
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def targets(
    rewards: list[float],
    values: list[float],
    n: int,
    lambda_: float | None = None,
    terminated: int = -1,
    truncated: int = -1,
) -> list[float]:
    """Targets with discount 0.9: of n steps, or of Q(lambda). A row may end the episode.

    What an end, a cut or the next episode hides is a decoy: 99 or -7.
    """
    reward, value, rows = column(*rewards), column(*values), torch.arange(len(rewards))[:, None]
    discount, trace = 0.9 * (rows != terminated), (rows != truncated).double()
    if lambda_ is None:
        return losses.n_step_target(reward, discount, trace, value, n)[:, 0].tolist()
    return losses.lambda_target(reward, discount, lambda_ * trace, value, n)[:, 0].tolist()


def test_an_n_step_target_sums_n_rewards_and_the_value_n_rows_on() -> None:
    reward, value = [1, 2, 3, 4, 99], [-7, 5, 6, 10, 20]
    one = [1 + 0.9 * 5, 2 + 0.9 * 6, 3 + 0.9 * 10, 4 + 0.9 * 20]
    three = [1 + 0.9 * 2 + 0.9**2 * 3 + 0.9**3 * 10, 2 + 0.9 * 3 + 0.9**2 * 4 + 0.9**3 * 20]
    assert targets(reward, value, 1) == pytest.approx(one)
    assert targets(reward, value, 3) == pytest.approx(three)


def test_termination_stops_n_step_rewards_and_bootstraps() -> None:
    # Row 1 ends the episode; row 2 starts the next: nothing of it reaches rows 0 and 1.
    target = targets([1, 2, 3, 99, 99], [-7, -7, -7, 5, 6], 2, terminated=1)
    assert target == pytest.approx([1 + 0.9 * 2, 2, 3 + 0.9 * 99 + 0.81 * 6])


def test_rows_before_a_truncation_bootstrap_from_the_row_before_the_cut() -> None:
    # Row 2 is cut: the row after it is another episode's, so v(s_2) is the last value that can be
    # used.
    target = targets([1, 2, -7, 99, 99, 99], [-7, -7, 30, 99, 99, 99], 3, truncated=2)
    assert target[:2] == pytest.approx([1 + 0.9 * 2 + 0.9**2 * 30, 2 + 0.9 * 30])


def test_q_lambda_by_hand() -> None:
    reward, value = [1, 2, 3, 99], [-7, 10, 20, 30]
    g2 = 3 + 0.9 * 30
    g1 = 2 + 0.9 * (0.4 * 20 + 0.6 * g2)
    g0 = 1 + 0.9 * (0.4 * 10 + 0.6 * g1)
    assert targets(reward, value, 1, 0.6) == pytest.approx([g0, g1, g2])
    assert targets(reward, value, 3, 0.6) == pytest.approx([g0])


def test_q_lambda_stops_at_a_termination_and_bootstraps_before_a_truncation() -> None:
    terminated = targets([1, 2, 99, 99], [-7, 10, 99, 99], 1, 0.6, terminated=1)
    assert terminated[:2] == pytest.approx([1 + 0.9 * (0.4 * 10 + 0.6 * 2), 2])
    truncated = targets([1, 2, -7, 99, 99], [-7, 10, 30, 99, 99], 1, 0.6, truncated=2)
    g1 = 2 + 0.9 * 30  # both the value and the return that would follow are v(s_2)
    assert truncated[:2] == pytest.approx([1 + 0.9 * (0.4 * 10 + 0.6 * g1), g1])


def test_double_q_takes_the_value_of_the_action_the_other_network_selects() -> None:
    select = torch.tensor([[[1.0, 3.0, 2.0]], [[5.0, 0.0, 0.0]]])  # argmax 1, 0
    value = torch.tensor([[[-7.0, 4.0, 99.0]], [[6.0, 99.0, -7.0]]])
    assert losses.double_q_value(select, value[..., None])[..., 0].tolist() == [[4.0], [6.0]]


def test_huber_is_half_the_square_within_1_and_linear_beyond() -> None:
    expected = [3 - 0.5, 0.5, 0, 0.5 * 0.25, 4 - 0.5]
    assert losses.huber(column(-3, -1, 0, 0.5, 4))[:, 0].tolist() == expected


def test_rescale_by_hand_and_unscale_is_its_inverse() -> None:
    # sqrt(8 + 1) - 1 = 2, sqrt(99 + 1) - 1 = 9
    expected = [0, 2 + 0.008, -9 - 0.099]
    assert losses.rescale(column(0, 8, -99))[:, 0].tolist() == pytest.approx(expected)
    x = torch.logspace(-6, 4, 101, dtype=torch.float64) * torch.tensor([[-1], [1]])
    torch.testing.assert_close(losses.unscale(losses.rescale(x)), x, rtol=1e-10, atol=1e-10)
    single = losses.unscale(losses.rescale(x.float()))
    torch.testing.assert_close(single, x.float(), rtol=1e-2, atol=1e-3)


def test_a_sequences_priority_is_eta_max_and_the_rest_mean_over_unmasked_rows() -> None:
    td_error = torch.tensor([[1.0, -3.0], [-4.0, 99.0], [99.0, 2.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    expected = [0.9 * 4 + 0.1 * (1 + 4) / 2, 0.9 * 3 + 0.1 * (3 + 2) / 2]
    assert losses.sequence_priority(td_error, mask, 0.9).tolist() == pytest.approx(expected)


def test_the_quantile_loss_weighs_errors_by_the_quantile_they_miss() -> None:
    # Quantiles 1 and 3 at fractions 1/4 and 3/4, targets 2 and 8: delta_ij = target_j - quantile_i.
    delta = torch.tensor([[[[2 - 1.0, 8 - 1.0], [2 - 3.0, 8 - 3.0]]]])
    first = (0.25 * 0.5 + 0.25 * (7 - 0.5)) / 2
    second = ((1 - 0.75) * 0.5 + 0.75 * (5 - 0.5)) / 2
    assert losses.quantile_huber(delta).item() == pytest.approx(first + second)
