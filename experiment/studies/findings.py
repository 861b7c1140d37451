"""The findings of a study: one table of scores, intervals and verdicts, and measures over games.

Scores are true game scores under one protocol. With one seed the interval is over its evaluation
episodes; with more it is over the mean scores of the runs, since the episodes of one run have no
information about other seeds (Henderson et al. 2018).
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from envs.games import human_normalised, human_score, random_score
from experiment.runs.console import duration, text
from experiment.scores.intervals import (
    difference_interval,
    interquartile_mean,
    mean_interval,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)
from experiment.studies.study import Result

T = TypeVar("T")
FEW_GAMES = 3  # the least for an interquartile mean
MANY_AGENTS = 4  # the most that are all compared with each other; more: with the first one only
# A row of a table: name, function from a result to its value, function from the value to text.
Row = tuple[str, Callable[[Result], Any], Callable[[Any], str]]
BUDGETS: tuple[Row, ...] = (
    ("parameters", attrgetter("parameters"), "{:,}".format),
    ("frames", attrgetter("frames"), "{:,}".format),
    ("trained samples", attrgetter("samples"), "{:,}".format),
    ("samples a step", attrgetter("samples_per_step"), "{:g}".format),
    ("training time", attrgetter("training_seconds"), duration),
    ("core-hours", attrgetter("core_hours"), "{:.2f}".format),
)
EQUAL = ("frames", "trained samples", "samples a step")  # in a fair comparison
FEW_SEEDS = 5  # with fewer, bootstrap intervals are too narrow
# The scores of random play, of the best action held at every step, and of a human.
LEVELS = ("random", "held button", "human")
# Game -> action and score, from python -m benchmarks.one_action.
HELD_BUTTONS = json.loads(Path(__file__).with_name("held_buttons.json").read_text("utf-8"))


@dataclass(frozen=True)
class Finding:
    """The score of one agent on one game and screen."""

    agent: str
    game: str
    screen: str
    protocol: str
    seeds: int
    mean: float
    low: float  # 95 % interval of the mean; NaN: not known
    high: float
    values: tuple[float, ...]  # in the interval: mean scores of runs, or scores of episodes
    untrained: bool  # a run made no update, or its number of updates is not known
    levels: dict[str, float]  # the known ones of LEVELS
    runs: tuple[Result, ...]


def grouped(items: Iterable[T], *names: str) -> dict[Any, list[T]]:
    """The items by the values of these attributes, in the order of the first item of each."""
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(attrgetter(*names)(item), []).append(item)
    return groups


def known_levels(game: str, protocol: str) -> dict[str, float]:
    """The scores of LEVELS that are known; the button was measured under v5."""
    button = HELD_BUTTONS.get(game, {}).get("score") if protocol == "v5" else None
    levels = zip(LEVELS, (random_score(game), button, human_score(game)), strict=True)
    return {name: score for name, score in levels if score is not None}


def make_findings(results: Sequence[Result]) -> list[Finding]:
    """A finding for each game, screen and agent over its seeds: full screens, then the others.

    Games and agents are in the order of the results.
    """
    findings = []
    for (game, screen, agent), runs in grouped(results, "game", "screen", "agent").items():
        first, means = runs[0], tuple(run.mean for run in runs)
        values = means if len(runs) > 1 else first.scores
        interval = mean_interval(means) if len(runs) > 1 else first.interval_95
        low, high = (float("nan") if bound is None else bound for bound in interval)
        findings.append(
            Finding(
                agent=agent,
                game=game,
                screen=screen,
                protocol=first.protocol,
                seeds=len(runs),
                mean=float(np.mean(means)),
                low=low,
                high=high,
                values=values,
                untrained=not all(run.samples for run in runs),
                levels=known_levels(game, first.protocol),
                runs=tuple(runs),
            )
        )
    return sorted(findings, key=lambda finding: finding.screen != "full")


def verdict(one: Finding, other: Finding) -> str:
    """higher, lower or not shown, with the 95 % interval of the difference of the means (Welch)."""
    low, high = difference_interval(one.values, other.values)
    alike = (one.seeds > 1) == (other.seeds > 1)
    return _shown(low, high, min(one.seeds, other.seeds)) if alike else "not shown"


def _shown(low: float, high: float, seeds: int) -> str:
    """higher or lower, with the interval; not shown if it has 0, is NaN, or is empty.

    A few seeds of one score, as of an agent that holds one button, do not show the spread.
    """
    flat = low == high and 1 < seeds < FEW_SEEDS
    sign = "" if flat else "higher" if low > 0 else "lower" if high < 0 else ""
    return f"{sign} ({low:+.1f} to {high:+.1f})" if sign else "not shown"


def against_level(finding: Finding, name: str) -> str:
    """The level, and the interval of the mean's difference from it; - if the level is not known."""
    if (level := finding.levels.get(name)) is None:
        return "-"
    return f"{level:.1f}: {_shown(finding.low - level, finding.high - level, finding.seeds)}"


def table(findings: Sequence[Finding]) -> list[list[str]]:
    """The findings as rows of text, header first, with a column for each agent to compare with."""
    agents = [*grouped(findings, "agent")]
    others = [] if len(agents) == 1 else agents if len(agents) <= MANY_AGENTS else agents[:1]
    rows = [
        [
            "game",
            "screen",
            "agent",
            "seeds",
            "score (95 % interval)",
            *(f"against {agent}" for agent in others),
            *LEVELS,
            "normalised",
        ]
    ]
    for one in findings:
        verdicts = {
            other.agent: verdict(one, other)
            for other in findings
            if (other.game, other.screen) == (one.game, one.screen) and other is not one
        }
        normalised = human_normalised(one.game, one.mean)
        rows.append(
            [
                one.game,
                one.screen,
                one.agent,
                str(one.seeds),
                with_interval(one.mean, one.low, one.high) + ", UNTRAINED" * one.untrained,
                *(verdicts.get(agent, "-") for agent in others),
                *(against_level(one, name) for name in LEVELS),
                "-" if normalised is None else f"{normalised:.2f}",
            ]
        )
    return rows


def with_interval(value: float, low: float | None, high: float | None, digits: int = 1) -> str:
    """12.3 (10.1 to 14.5); the value alone if there is no interval (None or NaN)."""
    exists = low is not None and not math.isnan(low)
    interval = f" ({low:.{digits}f} to {high:.{digits}f})" if exists else ""
    return f"{value:.{digits}f}{interval}"


def across_games(results: Sequence[Result], screen: str, expected: int) -> dict[str, Any]:
    """Measures over all games of one screen (Agarwal et al. 2021); all `expected` runs are needed.

    improvement: [agent, other, value, low, high] of each pair; iqm: agent -> [value, low, high];
    profile: agent -> [3, levels]. iqm and profile are of human-normalised scores, so of the games
    with a human score. note: the missing measures, and why.
    """
    agents, games, seeds = ([*grouped(results, key)] for key in ("agent", "game", "seed"))
    why = (
        "one seed says nothing about other seeds" if len(seeds) < 2 else "not all runs are finished"
    )
    measures: dict[str, Any] = {
        "screen": screen,
        "improvement": [],
        "iqm": {},
        "profile": {},
        "levels": [],
        "note": f"No measure over games: {why}.",
    }
    if len(seeds) < 2 or len(results) < expected:
        return measures
    rng, scores = np.random.default_rng(0), {(r.agent, r.game, r.seed): r.mean for r in results}
    tables = {  # [seeds, games]
        agent: np.array([[scores[agent, game, seed] for game in games] for seed in seeds])
        for agent in agents
    }
    measures["improvement"] = [
        [agent, other, *_bounded(probability_of_improvement, rng, tables[agent], tables[other])]
        for other, agent in combinations(agents, 2)
    ]
    note = f"With {len(seeds)} seeds these intervals are too narrow." * (len(seeds) < FEW_SEEDS)
    known = [game for game in games if human_score(game) is not None]
    if len(known) < FEW_GAMES:
        few = f"An interquartile mean needs {FEW_GAMES} games with a human score."
        return measures | {"note": f"{note} {few}".strip()}
    normalised = np.array(  # [agents, seeds, games]
        [
            [
                [human_normalised(game, scores[agent, game, seed]) for game in known]
                for seed in seeds
            ]
            for agent in agents
        ]
    )
    levels = np.linspace(min(0.0, normalised.min()), normalised.max(), 51)
    profile = partial(performance_profile, levels=levels)
    for agent, table in zip(agents, normalised, strict=True):
        measures["iqm"][agent] = _bounded(interquartile_mean, rng, table, resamples=50_000)
        measures["profile"][agent] = _bounded(profile, rng, table)
    return measures | {"levels": levels.tolist(), "note": note}


def _bounded(
    statistic: Callable[..., Any],
    rng: np.random.Generator,
    *tables: np.ndarray,
    resamples: int = 2_000,
) -> list[Any]:
    """[value, low, high] of the statistic of these scores [seeds, games], as lists."""
    bounds = stratified_bootstrap(*tables, statistic=statistic, rng=rng, resamples=resamples)
    return [np.asarray(value).tolist() for value in (statistic(*tables), *bounds)]


def differing_settings(results: Sequence[Result]) -> list[list[str]]:
    """The settings in which the agents' first results differ, as rows of text, header first."""
    first = {agent: runs[0].settings for agent, runs in grouped(results, "agent").items()}
    rows = [
        [name, *(str(settings.get(name, "-")) for settings in first.values())]
        for name in dict.fromkeys(name for settings in first.values() for name in settings)
        if name not in ("game", "seed")
    ]
    return [["setting", *first], *(row for row in rows if len({*row[1:]}) > 1)]


def budgets(results: Sequence[Result]) -> list[list[str]]:
    """The budget of each agent, as rows of text, header first."""
    rows = _ranges("for each run", results, BUDGETS)
    return [
        [name + " (not equal)" * (name in EQUAL and len({*cells}) > 1), *cells]
        for name, *cells in rows
    ]


def last_metrics(results: Sequence[Result]) -> list[list[str]]:
    """Every metric in the last row of each agent's training, as rows of text, header first."""
    names = dict.fromkeys(name for result in results for name in result.metrics)
    rows = ((name, lambda run, name=name: run.metrics.get(name), text) for name in names)
    return _ranges("last row of", results, rows)


def _ranges(title: str, results: Sequence[Result], rows: Iterable[Row]) -> list[list[str]]:
    """A column of `smallest to largest` for each agent, header first."""
    of_agent = grouped(results, "agent")
    return [
        [title, *of_agent],
        *(
            [name, *(_range([value(run) for run in runs], show) for runs in of_agent.values())]
            for name, value, show in rows
        ),
    ]


def _range(values: Sequence[Any], show: Callable[[Any], str]) -> str:
    """`smallest to largest` of the known values; one if they are equal, - if none is known."""
    known = [value for value in values if value is not None]
    ends = [show(min(known)), show(max(known))] if known else ["-"]
    return " to ".join(dict.fromkeys(ends))


def curve_means(runs: Sequence[Result], x: str) -> np.ndarray:
    """Rows of x (million frames or core-hours), mean, low, high of one agent's runs: [points, 4].

    The points are at the frames that all runs evaluated; there are none if a run does not know x.
    The interval of a single run is over the episodes of the evaluation.
    """
    curves = [
        {p[0]: (at, *p[1:]) for at, p in zip(run.curve_x[x], run.curve, strict=False)}
        for run in runs
    ]
    if len(runs) == 1:
        return np.array([*curves[0].values()], float).reshape(-1, 4)
    means = []
    for frames in sorted(set.intersection(*map(set, curves))):
        at, scores = np.array([curve[frames][:2] for curve in curves], float).T  # [runs]
        means.append([at.mean(), scores.mean(), *mean_interval(scores)])
    return np.array(means, float).reshape(-1, 4)
