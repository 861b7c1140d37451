import numpy as np
import pytest

from agents.exploration import actor_epsilon, epsilon_greedy, linear_epsilon


def test_epsilon_falls_by_equal_parts_and_stays_or_is_a_ladder_from_0_4_to_0_4_to_the_8() -> None:
    for frame, expected in ((0, 1.0), (250, 1.0 - 0.25 * 0.9), (1000, 0.1), (99_999, 0.1)):
        fallen = linear_epsilon(frame, 2, start=1.0, final=0.1, frames=1000)
        assert fallen.tolist() == pytest.approx([expected] * 2)
    assert linear_epsilon(0, 1, start=99.0, final=0.05, frames=0).tolist() == pytest.approx([0.05])
    ladder = [0.4 ** (1 + 7 * i / 7) for i in range(8)]
    assert actor_epsilon(99, 8).tolist() == pytest.approx(ladder)
    assert actor_epsilon(0, 256)[100] == pytest.approx(0.4 ** (1 + 7 * 100 / 255))
    assert actor_epsilon(0, 1).tolist() == pytest.approx([0.4])


def test_actions_are_random_as_often_as_each_envs_epsilon_says_and_then_uniform() -> None:
    draws, q = 20_000, np.tile([0.0, 0, 1, 0, 0], (60_000, 1))
    taken = epsilon_greedy(q, np.repeat([0.0, 0.3, 1.0], draws), np.random.default_rng(0))
    shares = [np.bincount(of_env, minlength=5) / draws for of_env in taken.reshape(3, draws)]
    greedy = np.arange(5) == 2
    expected = [epsilon / 5 + (1 - epsilon) * greedy for epsilon in (0, 0.3, 1)]
    np.testing.assert_allclose(shares, expected, atol=4 * np.sqrt(0.25 / draws))
