"""The findings of a study: one table of scores, intervals and verdicts, and measures over games.

Scores are true game scores by one protocol. With one seed the interval is over its evaluation
episodes; with more it is over the mean scores of the runs, since episodes of one run say nothing
about other seeds (Henderson et al. 2018).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from typing import Any

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

FEW_GAMES = 3  # below it a measure over games says less than the score of each game
MANY_AGENTS = 4  # above it agents are compared with the first one only
# Name, attribute of a result, its text.
BUDGETS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("parameters", "parameters", "{:,}".format),
    ("frames", "frames", "{:,}".format),
    ("trained samples", "samples", "{:,}".format),
    ("samples a step", "samples_per_step", "{:g}".format),
    ("training time", "training_seconds", duration),
    ("core-hours", "core_hours", "{:.2f}".format),
)
EQUAL = ("frames", "trained samples", "samples a step")  # in a fair comparison
FEW_SEEDS = 5  # below it bootstrap intervals are too narrow
LEVELS = ("random", "held button", "human")  # random play, the best button held down, a human
# python -m benchmarks.one_action
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
    # What the interval is over: mean scores of runs, or scores of episodes.
    values: tuple[float, ...]
    untrained: bool  # a run made no update, or its number of updates is not known
    levels: dict[str, float]  # scores to compare with, of LEVELS those that are known
    runs: tuple[Result, ...]


def make_findings(results: Sequence[Result]) -> list[Finding]:
    """A finding for each game, screen and agent, over its seeds: games and screens in the order of
    the results."""
    findings = []
    for game, screen, agent in dict.fromkeys((r.game, r.screen, r.agent) for r in results):
        runs = [r for r in results if (r.game, r.screen, r.agent) == (game, screen, agent)]
        protocol, means = runs[0].protocol, tuple(run.mean for run in runs)
        held = HELD_BUTTONS.get(game, {}).get("score") if protocol == "v5" else None
        levels = zip(LEVELS, (random_score(game), held, human_score(game)), strict=True)
        values, interval = (
            (means, mean_interval(means))
            if len(runs) > 1
            else (runs[0].scores, runs[0].interval_95)
        )
        finding = Finding(
            agent,
            game,
            screen,
            protocol,
            len(runs),
            float(np.mean(means)),
            *(float("nan") if bound is None else bound for bound in interval),
            values=values,
            untrained=not all(run.samples for run in runs),
            levels={name: score for name, score in levels if score is not None},
            runs=tuple(runs),
        )
        findings.append(finding)
    return sorted(findings, key=lambda finding: finding.screen != "full")


def verdict(one: Finding, other: Finding) -> str:
    """higher, lower or not shown, with the 95 % interval of the difference of the means (Welch)."""
    low, high = difference_interval(one.values, other.values)
    # A few seeds of the same score, as of agents that hold one button, say nothing about the
    # spread.
    flat = low == high and 1 < min(one.seeds, other.seeds) < FEW_SEEDS
    if flat or (one.seeds > 1) != (other.seeds > 1) or not (low > 0 or high < 0):
        return "not shown"
    return f"{'higher' if low > 0 else 'lower'} ({low:+.1f} to {high:+.1f})"


def against_level(finding: Finding, name: str) -> str:
    """higher, lower or not shown: the interval of the mean against a level; - if it is not
    known."""
    if name not in finding.levels:
        return "-"
    level = finding.levels[name]
    word = "higher" if finding.low > level else "lower" if finding.high < level else "not shown"
    return f"{level:.1f}: {word}"


def table(findings: Sequence[Finding]) -> list[list[str]]:
    """The findings as text, header first: one row for each finding, one column for each agent to
    compare with."""
    agents = list(dict.fromkeys(finding.agent for finding in findings))
    others = [] if len(agents) == 1 else agents if len(agents) <= MANY_AGENTS else agents[:1]
    against = [f"against {agent}" for agent in others]
    rows = [
        [
            "game",
            "screen",
            "agent",
            "seeds",
            "score (95 % interval)",
            *against,
            *LEVELS,
            "normalised",
        ]
    ]
    for one in findings:
        same = {
            f.agent: f
            for f in findings
            if (f.game, f.screen) == (one.game, one.screen) and f.agent != one.agent
        }
        score = with_interval(one.mean, one.low, one.high) + ", UNTRAINED" * one.untrained
        pairs = [verdict(one, same[agent]) if agent in same else "-" for agent in others]
        levels = [against_level(one, name) for name in LEVELS]
        normalised = human_normalised(one.game, one.mean)
        last = "-" if normalised is None else f"{normalised:.2f}"
        rows.append([one.game, one.screen, one.agent, str(one.seeds), score, *pairs, *levels, last])
    return rows


def with_interval(value: float, low: float, high: float, digits: int = 1) -> str:
    """12.3 (10.1 to 14.5); without the brackets if the interval is NaN."""
    interval = f" ({low:.{digits}f} to {high:.{digits}f})" if low == low else ""
    return f"{value:.{digits}f}{interval}"


def across_games(results: Sequence[Result], screen: str, expected: int) -> dict[str, Any]:
    """Measures over all games of one screen, of which `expected` runs are asked for (Agarwal et al.
    2021).

    improvement [agent, other, value, low, high]; iqm agent -> [value, low, high] and profile agent
    -> [3, levels], of human-normalised scores, so of the games that have a human score. `note` says
    what is left out and why.
    """
    measures: dict[str, Any] = {
        "screen": screen,
        "improvement": [],
        "iqm": {},
        "profile": {},
        "levels": [],
        "note": "",
    }
    agents, games, seeds = (
        list(dict.fromkeys(getattr(r, key) for r in results)) for key in ("agent", "game", "seed")
    )
    if len(seeds) < 2 or len(results) < expected:
        why = (
            "one seed says nothing about other seeds"
            if len(seeds) < 2
            else "not all runs are finished"
        )
        return measures | {"note": f"No measure over games: {why}."}
    rng, scores = np.random.default_rng(0), {(r.agent, r.game, r.seed): r.mean for r in results}
    raw = {
        agent: np.array([[scores[agent, game, seed] for game in games] for seed in seeds])
        for agent in agents
    }
    for other, agent in combinations(agents, 2):
        pair = _bounded(probability_of_improvement, rng, raw[agent], raw[other])
        measures["improvement"].append([agent, other, *pair])
    known = [i for i, game in enumerate(games) if human_score(game) is not None]
    notes = [f"With {len(seeds)} seeds these intervals are too narrow."] * (len(seeds) < FEW_SEEDS)
    notes += [f"An interquartile mean needs {FEW_GAMES} games with a human score."] * (
        len(known) < FEW_GAMES
    )
    measures["note"] = " ".join(notes)
    if len(known) >= FEW_GAMES:
        # [games]
        low, high = np.array(
            [(random_score(games[i]), human_score(games[i])) for i in known], float
        ).T
        tables = {agent: (table[:, known] - low) / (high - low) for agent, table in raw.items()}
        levels = np.linspace(
            min(0.0, *(t.min() for t in tables.values())), max(t.max() for t in tables.values()), 51
        )
        measures["levels"] = levels.tolist()
        for agent, normalised in tables.items():
            measures["iqm"][agent] = _bounded(interquartile_mean, rng, normalised, resamples=50_000)
            measures["profile"][agent] = _bounded(
                partial(performance_profile, levels=levels), rng, normalised
            )
    return measures


def _bounded(
    statistic: Callable[..., Any],
    rng: np.random.Generator,
    *tables: np.ndarray,
    resamples: int = 2_000,
) -> list[Any]:
    """The statistic of these scores [seeds, games], and its interval."""
    bounds = stratified_bootstrap(*tables, statistic=statistic, rng=rng, resamples=resamples)
    return [np.asarray(value).tolist() for value in (statistic(*tables), *bounds)]


def differing_settings(results: Sequence[Result]) -> list[list[str]]:
    """The settings in which the agents differ, header first, of the first result of each agent."""
    first = {result.agent: result.settings for result in reversed(results)}
    agents = list(dict.fromkeys(result.agent for result in results))
    names = dict.fromkeys(name for agent in agents for name in first[agent])
    rows = [[name, *(str(first[agent].get(name, "-")) for agent in agents)] for name in names]
    return [
        ["setting", *agents],
        *(row for row in rows if len(set(row[1:])) > 1 and row[0] not in ("game", "seed")),
    ]


def budgets(results: Sequence[Result]) -> list[list[str]]:
    """The budget of each agent, header first."""
    rows = [["for each run", *dict.fromkeys(result.agent for result in results)]]
    for name, field, show in BUDGETS:
        cells = _ranges(results, attrgetter(field), show)
        unequal = name in EQUAL and len(set(cells)) > 1
        rows.append([name + " (not equal)" * unequal, *cells])
    return rows


def last_metrics(results: Sequence[Result]) -> list[list[str]]:
    """Every metric in the last row of training, for each agent, header first."""
    names = dict.fromkeys(name for result in results for name in result.metrics)
    rows = [
        [name, *_ranges(results, lambda run, name=name: run.metrics.get(name), text)]
        for name in names
    ]
    return [["last row of", *dict.fromkeys(result.agent for result in results)], *rows]


def _ranges(
    results: Sequence[Result], of: Callable[[Result], Any], show: Callable[[Any], str]
) -> list[str]:
    """For each agent the smallest and the largest value of its runs, where they differ; - if no run
    has one."""
    cells = []
    for agent in dict.fromkeys(result.agent for result in results):
        values = [value for run in results if run.agent == agent and (value := of(run)) is not None]
        cells.append(
            " to ".join(dict.fromkeys(show(f(values)) for f in (min, max))) if values else "-"
        )
    return cells


def curve_means(runs: Sequence[Result], x: str) -> np.ndarray:
    """[points, 4] x (million frames or core-hours), mean, low, high over the runs of one agent, at
    the frames that all of them evaluated.

    One run: the interval over the episodes of that evaluation. No points if a run does not know x.
    """
    curves = [
        {p[0]: (at, *p[1:]) for at, p in zip(run.curve_x[x], run.curve, strict=False)}
        for run in runs
    ]
    if len(runs) == 1:
        return np.array([*curves[0].values()], float).reshape(-1, 4)
    shared = sorted(set.intersection(*map(set, curves)))
    points = np.array([[curve[frames] for curve in curves] for frames in shared], float).reshape(
        -1, len(runs), 4
    )
    means = [(*point[:, :2].mean(axis=0), *mean_interval(point[:, 1])) for point in points]
    return np.array(means, float).reshape(-1, 4)
