import pytest
import torch

from agents import losses


def column(*numbers):
    """[T, 1] in fp64."""
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def targets(rewards, values, n, lambda_=None, terminated=-1, truncated=-1):
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
    # Row 1 ends the episode; row 2 starts the next: nothing of it reaches rows 0 and 1.
    ended = targets([1, 2, 3, 99, 99], [-7, -7, -7, 5, 6], 2, terminated=1)
    assert ended == pytest.approx([1 + 0.9 * 2, 2, 3 + 0.9 * 99 + 0.81 * 6])
    # Row 2 is cut: the row after it is another episode's, so v(s_2) is the last value of use.
    cut = targets([1, 2, -7, 99, 99, 99], [-7, -7, 30, 99, 99, 99], 3, truncated=2)
    assert cut[:2] == pytest.approx([1 + 0.9 * 2 + 0.9**2 * 30, 2 + 0.9 * 30])


def test_q_lambda_by_hand() -> None:
    reward, value = [1, 2, 3, 99], [-7, 10, 20, 30]
    g2 = 3 + 0.9 * 30
    g1 = 2 + 0.9 * (0.4 * 20 + 0.6 * g2)
    g0 = 1 + 0.9 * (0.4 * 10 + 0.6 * g1)
    assert targets(reward, value, 1, 0.6) == pytest.approx([g0, g1, g2])
    assert targets(reward, value, 3, 0.6) == pytest.approx([g0])
    ended = targets([1, 2, 99, 99], [-7, 10, 99, 99], 1, 0.6, terminated=1)
    assert ended[:2] == pytest.approx([1 + 0.9 * (0.4 * 10 + 0.6 * 2), 2])
    cut = targets([1, 2, -7, 99, 99], [-7, 10, 30, 99, 99], 1, 0.6, truncated=2)
    g1 = 2 + 0.9 * 30  # both the value and the return that would follow are v(s_2)
    assert cut[:2] == pytest.approx([1 + 0.9 * (0.4 * 10 + 0.6 * g1), g1])


def test_rescale_by_hand_and_unscale_is_its_inverse() -> None:
    # sqrt(8 + 1) - 1 = 2, sqrt(99 + 1) - 1 = 9
    assert losses.rescale(column(0, 8, -99))[:, 0].tolist() == pytest.approx([0, 2.008, -9.099])
    x = torch.logspace(-6, 4, 101, dtype=torch.float64) * torch.tensor([[-1], [1]])
    for kind, close in ((torch.float64, (1e-10, 1e-10)), (torch.float32, (1e-2, 1e-3))):
        back = losses.unscale(losses.rescale(x.to(kind)))
        torch.testing.assert_close(back, x.to(kind), rtol=close[0], atol=close[1])
