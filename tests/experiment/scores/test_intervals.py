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
NAN = float("nan")


def mean(scores: Any) -> Any:
    """Over runs and games [..., runs, games]."""
    return np.mean(scores, axis=(-2, -1))


def profile(scores: Any) -> Any:
    return ours.performance_profile(scores, FIXTURES["levels"])


# Measure, tables, our resamples, and how far an end point may lie from rliable's, as a share of the
# width. Both are estimates: from 50,000 resamples the ends differ by about 0.4 % of the width (one
# standard deviation, if the resampled measure is normal); rliable's 5,000 are less exact. A profile
# has shares of 30 runs, and two estimates of an end may lie one step of 1/30 apart.
MEASURES = {
    "mean": (mean, [X], 50_000, 0.02),
    "iqm": (ours.interquartile_mean, [X], 50_000, 0.02),
    "probability_of_improvement": (ours.probability_of_improvement, [X, Y], 20_000, 0.05),
    "profile": (profile, [X], 20_000, None),
}


@pytest.mark.parametrize("name", MEASURES)
def test_measures_and_their_intervals_agree_with_rliable(name) -> None:
    statistic, tables, resamples, share = MEASURES[name]
    expected = np.array(FIXTURES["intervals"][name])
    far = share * (expected[1] - expected[0]) if share else 1 / 30 + 1e-9
    assert statistic(*tables) == pytest.approx(FIXTURES["points"][name], abs=1e-12)
    options = dict(statistic=statistic, rng=np.random.default_rng(1), resamples=resamples)
    interval = ours.stratified_bootstrap(*tables, **options)
    np.testing.assert_allclose(interval, expected, rtol=0, atol=far)


def test_a_tie_is_half_an_improvement() -> None:
    # Game 1: a tie and a win of 2 pairs; game 2: two wins.
    improvement = ours.probability_of_improvement([[1.0, 5.0], [2.0, 5.0]], [[1.0, 4.0]])
    assert improvement == ((0.5 + 1) / 2 + 1) / 2


def test_mean_interval_is_students() -> None:
    low, high = ours.mean_interval([1.0, 2.0, 6.0])
    error = math.sqrt((2**2 + 1**2 + 3**2) / 2) / math.sqrt(3)
    half = 4.302652729911275 * error
    assert ours.standard_error([1.0, 2.0, 6.0]) == pytest.approx(error)
    assert (low, high) == pytest.approx((3 - half, 3 + half))
    narrow = ours.mean_interval([1.0, 2.0, 6.0], level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_difference_interval_is_welchs() -> None:
    interval = ours.difference_interval([1.0, 2.0, 6.0], [10.0, 11.0])
    a, b = 7 / 3, 0.5 / 2  # squared standard errors: variances 7 and 0.5
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 1)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(a + b)
    assert interval == pytest.approx((3 - 10.5 - half, 3 - 10.5 + half))
    assert ours.difference_interval([2.0, 2.0], [-1.0, -1.0]) == (3.0, 3.0)


def test_one_score_says_nothing_of_the_spread() -> None:
    ends = *ours.difference_interval([3.0], [1.0, 2.0]), *ours.mean_interval([3.0])
    assert all(math.isnan(end) for end in (*ends, ours.standard_error([3.0])))


@pytest.mark.parametrize("scores", [[], [[]], 3.0, [1.0, NAN], [[float("inf")]]])
def test_missing_scores_are_no_result(scores) -> None:
    with pytest.raises(ValueError, match="scores"):
        ours.interquartile_mean(scores)
