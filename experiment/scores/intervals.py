"""Statistics of a few runs.

The measures and their intervals follow Agarwal et al. 2021, "Deep Reinforcement Learning at the
Edge of the Statistical Precipice" (arXiv:2108.13264). The tests compare them with rliable, the
library of the paper's authors.

`scores` is `[runs, games]`, normalised for measures over several games; `[runs]` is one game. The
measures also accept leading axes, `[..., runs, games]`, and return `[...]`: so a bootstrap is one
call for many resamples. Random generators are arguments, never global.
"""

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]

CHUNK = 1_000  # resamples at once, to bound a bootstrap's memory


def _table(scores: ArrayLike) -> Array:
    """Scores as floats `[..., runs, games]`. ValueError on no scores, NaN or infinity."""
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim == 0 or table.size == 0 or not np.isfinite(table).all():
        raise ValueError(
            f"scores of shape {table.shape}: expected finite numbers [runs] or [runs, games]"
        )
    return table[:, None] if table.ndim == 1 else table


# --- one list of scores ---------------------------------------------------------------------------


def standard_error(scores: ArrayLike) -> float:
    """Standard deviation (n - 1) of `scores` [n] over the root of n; NaN for one score."""
    values = _table(scores).ravel()
    return float(np.std(values, ddof=1) / np.sqrt(values.size)) if values.size > 1 else float("nan")


def mean_interval(scores: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval (low, high) of the mean of `scores` [n]; (NaN, NaN) for one score."""
    values = _table(scores).ravel()
    half = stats.t.ppf((1 + level) / 2, max(values.size - 1, 1)) * standard_error(values)
    return float(values.mean() - half), float(values.mean() + half)


def difference_interval(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Welch's t interval (low, high) of mean(x) - mean(y), for scores x [n] and y [m].

    The spreads may differ. (NaN, NaN) if x or y is a single score.
    """
    with warnings.catch_warnings(action="ignore"):  # scipy's, for one score or equal scores
        test = stats.ttest_ind(_table(x).ravel(), _table(y).ravel(), equal_var=False)
        low, high = test.confidence_interval(level)  # type: ignore[attr-defined]
    return float(low), float(high)


# --- runs x games ---------------------------------------------------------------------------------


def interquartile_mean(scores: ArrayLike) -> Array:
    """IQM: the mean of the middle half of all runs of all games (Agarwal et al. 2021, section 4.3).

    `scores` [..., runs, games] -> [...].

    The IQM is as robust to a few lucky games as the median, and its interval is smaller.
    """
    table = _table(scores)
    return np.asarray(stats.trim_mean(table.reshape(*table.shape[:-2], -1), 0.25, axis=-1))


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> Array:
    """Share of pairs in which a run of X beats one of Y on the same game; a tie counts half.

    `x` [..., runs_x, games], `y` [..., runs_y, games] -> [...], the mean over games: of each game
    the Mann-Whitney U over the number of pairs. The games of `x` and `y` are the same.
    """
    # They broadcast to [..., runs_x, runs_y, games].
    pair_x, pair_y = _table(x)[..., :, None, :], _table(y)[..., None, :, :]
    pairs = (-3, -2, -1)
    return (pair_x > pair_y).mean(axis=pairs) + (pair_x == pair_y).mean(axis=pairs) / 2


def performance_profile(scores: ArrayLike, levels: ArrayLike) -> Array:
    """Share of the runs of all games with a score above each of `levels` [K]: [..., K].

    Performance profile of Agarwal et al. 2021, section 4.2: a curve above another at all levels
    belongs to the better agent.
    """
    table = _table(scores)
    flat = table.reshape(*table.shape[:-2], 1, -1)  # [..., 1, runs * games]
    return (flat > np.asarray(levels, np.float64)[:, None]).mean(axis=-1)


# --- their intervals ------------------------------------------------------------------------------


def stratified_bootstrap(
    *scores: ArrayLike,
    statistic: Callable[..., Array],
    rng: np.random.Generator,
    resamples: int = 50_000,
    level: float = 0.95,
) -> tuple[Array, Array]:
    """Percentile interval (low, high) of a measure above of one or two tables [runs, games].

    `resamples` is a multiple of CHUNK. Each resample draws runs for each game and table, and keeps
    the games: the interval covers other seeds on the same games (Agarwal et al. 2021, section 4.1).
    With two or three runs of one game it is too narrow.
    """
    tables, values = [_table(table) for table in scores], []
    for _ in range(resamples // CHUNK):
        runs = [rng.integers(len(table), size=(CHUNK, *table.shape)) for table in tables]
        samples = [t[r, np.arange(t.shape[1])] for t, r in zip(tables, runs, strict=True)]
        values.append(statistic(*samples))
    low, high = np.quantile(np.concatenate(values), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
