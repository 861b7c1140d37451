"""Statistics of a few runs.

The measures and their intervals follow Agarwal et al. 2021, "Deep Reinforcement Learning at the
Edge of the Statistical Precipice" (arXiv:2108.13264). The tests compare them with that paper's own
library, rliable.

`scores` is `[runs, games]`, normalised where games are put together; one game may be given as
`[runs]`. The measures also take leading axes, `[..., runs, games]`, and return `[...]`: so a
bootstrap is one call for many resamples. Generators are passed in, never global.
"""

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]

CHUNK = 1_000  # resamples at once, to bound a bootstrap's memory


def _table(scores: ArrayLike) -> Array:
    """Scores as floats `[..., runs, games]`. No scores, or NaN among them, is an error: it is no
    result."""
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim == 0 or table.size == 0:
        raise ValueError(
            f"scores have shape {table.shape}; expected [runs] or [runs, games], not empty"
        )
    if not np.isfinite(table).all():
        raise ValueError("scores hold NaN or infinity")
    return table[:, None] if table.ndim == 1 else table


# --- one list of scores ---------------------------------------------------------------------------


def standard_error(scores: ArrayLike) -> float:
    """Standard deviation (n - 1) over the root of n. NaN for one score: it says nothing of the
    spread."""
    values = _table(scores).ravel()
    return float(np.std(values, ddof=1) / np.sqrt(values.size)) if values.size > 1 else float("nan")


def mean_interval(scores: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of `scores` [n]. (NaN, NaN) for one score."""
    values = _table(scores).ravel()
    half = stats.t.ppf((1 + level) / 2, max(values.size - 1, 1)) * standard_error(values)
    return float(values.mean() - half), float(values.mean() + half)


def difference_interval(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Welch's t interval of mean(x) - mean(y), scores [n] and [m] with spreads of their own. (NaN,
    NaN) if one is a single score."""
    with warnings.catch_warnings(action="ignore"):  # scipy's, of one score or of equal ones
        compared = stats.ttest_ind(_table(x).ravel(), _table(y).ravel(), equal_var=False)
        low, high = compared.confidence_interval(level)  # type: ignore[attr-defined]
    return float(low), float(high)


# --- runs x games ---------------------------------------------------------------------------------


def interquartile_mean(scores: ArrayLike) -> Array:
    """IQM: the mean of the middle half of all runs of all games (Agarwal et al. 2021, section 4.3).

    As robust as the median to a few lucky games, with the smaller interval of a mean.
    """
    table = _table(scores)
    flat = table.reshape(*table.shape[:-2], -1)  # [..., runs * games]
    return np.asarray(stats.trim_mean(flat, 0.25, axis=-1))


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> Array:
    """How often a run of X beats a run of Y on the same game, ties half; the mean over games.

    `x` is [..., runs_x, games] and `y` [..., runs_y, games]. The Mann-Whitney U over the number of
    pairs.
    """
    table_x, table_y = _table(x), _table(y)
    if table_x.shape[-1] != table_y.shape[-1]:
        raise ValueError(
            f"X has {table_x.shape[-1]} games, Y {table_y.shape[-1]}: they must be the same games"
        )
    # [..., runs_x, runs_y, games]
    pair_x, pair_y = table_x[..., :, None, :], table_y[..., None, :, :]
    wins = (pair_x > pair_y).mean(axis=(-3, -2, -1))
    ties = (pair_x == pair_y).mean(axis=(-3, -2, -1))
    return wins + ties / 2


def performance_profile(scores: ArrayLike, levels: ArrayLike) -> Array:
    """The share of runs, of all games together, that score above each of `levels` [K]: [..., K].

    Higher everywhere is better; the area between two curves says where (Agarwal et al. 2021,
    section 4.2).
    """
    table = _table(scores)
    flat = table.reshape(*table.shape[:-2], 1, -1)  # [..., 1, runs * games]
    return (flat > np.asarray(levels, np.float64)[:, None]).mean(axis=-1)


# --- their intervals ------------------------------------------------------------------------------


def _resample(table: Array, resamples: int, rng: np.random.Generator) -> Array:
    """Draw runs with replacement, for each game by itself: [resamples, runs, games]."""
    runs, games = table.shape
    drawn = rng.integers(runs, size=(resamples, runs, games))
    return table[drawn, np.arange(games)]


def stratified_bootstrap(
    *scores: ArrayLike,
    statistic: Callable[..., Array],
    rng: np.random.Generator,
    resamples: int = 50_000,
    level: float = 0.95,
) -> tuple[Array, Array]:
    """Percentile interval (low, high) of `statistic`, one of the measures above, of one table or of
    two, from `resamples` in thousands.

    Runs are drawn anew for each game and each table, the games stay: the interval says what other
    seeds on the same games might have given (Agarwal et al. 2021, section 4.1). With two or three
    runs of one game it is too narrow.
    """
    tables = [_table(table) for table in scores]
    values = np.concatenate(
        [
            statistic(*(_resample(table, CHUNK, rng) for table in tables))
            for _ in range(resamples // CHUNK)
        ]
    )
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
