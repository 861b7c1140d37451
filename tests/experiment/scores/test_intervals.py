import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiment.scores import intervals as ours

FIXTURES: dict[str, Any] = json.loads(Path(__file__).with_name("rliable_fixtures.json").read_text())
X, Y = np.array(FIXTURES["x"]), np.array(FIXTURES["y"])  # [5, 6] and [4, 6]


def mean(scores: Any) -> Any:
    """Over runs and games [..., runs, games]."""
    return np.mean(scores, axis=(-2, -1))


MEASURES = {"mean": mean, "iqm": ours.interquartile_mean}


# --- against rliable ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEASURES)
def test_measures_and_their_intervals_agree_with_rliable(name: str) -> None:
    assert MEASURES[name](X) == pytest.approx(FIXTURES["points"][name], abs=1e-9)
    # Both are estimates from 50,000 resamples. Their ends differ by about 0.4 % of the width (one
    # standard deviation, if the resampled measure is normal): 2 % is safe.
    interval = ours.stratified_bootstrap(X, statistic=MEASURES[name], rng=np.random.default_rng(1))
    expected = FIXTURES["intervals"][name]
    assert interval == pytest.approx(expected, abs=0.02 * (expected[1] - expected[0]))


def test_probability_of_improvement_agrees_with_rliable() -> None:
    points, intervals = (
        FIXTURES[kind]["probability_of_improvement"] for kind in ("points", "intervals")
    )
    assert ours.probability_of_improvement(X, Y) == pytest.approx(points, abs=1e-9)
    interval = ours.stratified_bootstrap(
        X,
        Y,
        statistic=ours.probability_of_improvement,
        rng=np.random.default_rng(1),
        resamples=20_000,
    )
    # rliable's end points come from 5,000 resamples: 5 % of the width.
    assert interval == pytest.approx(intervals, abs=0.05 * (intervals[1] - intervals[0]))


def test_a_performance_profile_agrees_with_rliable() -> None:
    def profile(scores: Any) -> Any:
        return ours.performance_profile(scores, FIXTURES["levels"])

    assert profile(X) == pytest.approx(FIXTURES["points"]["profile"], abs=1e-12)
    interval = ours.stratified_bootstrap(
        X, statistic=profile, rng=np.random.default_rng(1), resamples=20_000
    )
    # Shares of 30 runs: an end point is a multiple of 1/30, and two estimates may lie one step
    # apart.
    np.testing.assert_allclose(interval, FIXTURES["intervals"]["profile"], atol=1 / 30 + 1e-9)


# --- by hand --------------------------------------------------------------------------------------


def test_a_tie_is_half_an_improvement() -> None:
    x = [[1.0, 5.0], [2.0, 5.0]]
    y = [[1.0, 4.0]]
    # Game 1: a tie and a win of 2 pairs; game 2: two wins.
    assert ours.probability_of_improvement(x, y) == ((0.5 + 1) / 2 + 1) / 2


def test_mean_interval_is_students() -> None:
    low, high = ours.mean_interval([1.0, 2.0, 6.0])
    error = math.sqrt((2**2 + 1**2 + 3**2) / 2) / math.sqrt(3)
    assert ours.standard_error([1.0, 2.0, 6.0]) == pytest.approx(error)
    assert (low, high) == pytest.approx(
        (3 - 4.302652729911275 * error, 3 + 4.302652729911275 * error)
    )
    narrow = ours.mean_interval([1.0, 2.0, 6.0], level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_difference_interval_is_welchs() -> None:
    low, high = ours.difference_interval([1.0, 2.0, 6.0], [10.0, 11.0])
    a, b = 7 / 3, 0.5 / 2  # squared standard errors: variances 7 and 0.5
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 1)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(a + b)
    assert (low, high) == pytest.approx((3 - 10.5 - half, 3 - 10.5 + half))
    assert ours.difference_interval([2.0, 2.0], [-1.0, -1.0]) == (3.0, 3.0)


def test_one_score_says_nothing_of_the_spread() -> None:
    ends = (
        *ours.difference_interval([3.0], [1.0, 2.0]),
        *ours.mean_interval([3.0]),
        ours.standard_error([3.0]),
    )
    assert all(math.isnan(end) for end in ends)


@pytest.mark.parametrize("scores", [[], [[]], 3.0, [1.0, float("nan")], [[float("inf")]]])
def test_missing_scores_are_no_result(scores: Any) -> None:
    with pytest.raises(ValueError, match="scores"):
        ours.interquartile_mean(scores)


def test_the_same_generator_gives_the_same_interval() -> None:
    def interval() -> Any:
        return ours.stratified_bootstrap(
            X, statistic=mean, rng=np.random.default_rng(5), resamples=1_000
        )

    assert interval() == interval()
