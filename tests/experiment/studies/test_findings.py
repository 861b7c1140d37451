"""Findings follow from the intervals; measures over games are those of Agarwal et al. 2021."""

import json
from typing import Any

import numpy as np
import pytest

from experiment.studies import findings as module
from experiment.studies.findings import Finding, across_games, make_findings
from experiment.studies.study import Result
from tests.small import ROOT

FILE = json.loads((ROOT / "studies/what-memory-buys/results/dqn-breakout-s1.json").read_text())
BASE = {k: v for k, v in FILE.items() if k in Result.__dataclass_fields__}
T1 = 12.706  # standard errors: Student's t with 1 degree of freedom


def result(
    agent: str = "dqn", game: str = "pong", seed: int = 1, mean: float = 0.0, **changes: Any
) -> Result:
    own = dict(agent=agent, game=game, seed=seed, mean=mean, scores=[mean, mean])
    return Result(**BASE | own | changes)


def finding(*values: float, seeds: int = 0) -> Finding:
    nan, mean = float("nan"), float(np.mean(values))
    about = "dqn", "pong", "full", "v5", seeds or len(values)
    return Finding(*about, mean, nan, nan, values, False, {}, ())


def test_over_seeds_the_interval_is_over_the_means_of_runs() -> None:
    runs = [result(seed=i, mean=m, interval_95=(-7.0, -6.0)) for i, m in ((1, 1.0), (2, 3.0))]
    (row,) = make_findings(runs)
    # A standard error is sqrt(2) / sqrt(2) = 1.
    assert (row.mean, row.low, row.high) == pytest.approx((2.0, 2.0 - T1, 2.0 + T1), abs=1e-3)
    (single,) = make_findings(runs[:1])
    assert (single.low, single.high, single.values) == (-7.0, -6.0, (1.0, 1.0))


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (finding(11.0, 12.0, 13.0), finding(1.0, 2.0, 3.0), "higher (+"),
        (finding(1.0, 2.0, 3.0), finding(11.0, 12.0, 13.0), "lower (-"),
        (finding(1.0, 2.0, 3.0), finding(-40.0, 15.0, 70.0), "not shown"),
        # A few seeds of the same score say nothing about the spread.
        (finding(*[-20.0] * 3), finding(*[-21.0] * 3), "not shown"),
        (finding(*[-20.0] * 5), finding(*[-21.0] * 5), "higher (+1.0 to +1.0)"),
        (finding(*[-20.0] * 9, seeds=1), finding(*[-21.0] * 9, seeds=1), "higher (+1.0 to +1.0)"),
        # An interval over seeds is not compared with one over episodes.
        (finding(1.0, 2.0), finding(*[9.0] * 30, seeds=1), "not shown"),
    ],
)
def test_a_verdict_needs_an_interval_of_the_difference_that_excludes_0(one, other, words) -> None:
    assert module.verdict(one, other).startswith(words)


def test_the_table_compares_with_every_agent_and_with_the_known_levels(monkeypatch) -> None:
    monkeypatch.setattr(module, "HELD_BUTTONS", {"pong": {"score": -21.0}})
    means = {"dqn": -25.0, "drqn": 10.0}
    runs = [result(agent, seed=s, mean=m + s) for agent, m in means.items() for s in (0, 1, 2)]
    header, *rows = module.table(make_findings(runs))
    dqn, drqn = (dict(zip(header, row, strict=True)) for row in rows)
    assert drqn["against dqn"].startswith("higher (+3")
    assert dqn["against drqn"].startswith("lower (-3")
    assert dqn["against dqn"] == "-"
    assert drqn["held button"] == "-21.0: higher (+29.5 to +34.5)"
    assert drqn["random"] == "-20.7: higher (+29.2 to +34.2)"
    assert drqn["human"] == "14.6: lower (-6.1 to -1.1)"  # 11 +- 2.5
    assert drqn["normalised"] == f"{(11 + 20.7) / (14.6 + 20.7):.2f}"
    (flat,) = make_findings([result(seed=s, mean=5.0) for s in (0, 1, 2)])
    assert module.against_level(flat, "held button") == "-21.0: not shown"
    (other,) = make_findings([result(protocol="dqn-2015")])  # the button was measured under v5
    assert other.levels.keys() == {"random", "human"}


def test_across_games_an_agent_that_always_wins_does_so_with_probability_1() -> None:
    runs = [
        result(agent, game, seed, score + seed)
        for seed in (1, 2)
        for game in ("pong", "breakout", "venture")
        for agent, score in (("dqn", 0.0), ("drqn", 10.0))
    ]
    measures = across_games(runs, "full", expected=len(runs))
    # Normalised: (10 + s + 20.7) / 35.3 in Pong, (10 + s - 1.7) / 28.8 in Breakout, (10 + s) /
    # 1187.5 in Venture. IQM: of six the middle four, so all but Venture's lower one and Pong's
    # upper one.
    middle = [12 / 1187.5, (11 - 1.7) / 28.8, (12 - 1.7) / 28.8, (11 + 20.7) / 35.3]
    assert measures["iqm"]["drqn"][0] == pytest.approx(np.mean(middle))
    assert measures["improvement"] == [["drqn", "dqn", 1.0, 1.0, 1.0]]
    assert "2 seeds" in measures["note"]
    two = [run for run in runs if run.game != "venture"]
    for some, expected, why in (
        (runs[:6], 6, "one seed"),
        (runs[:-1], 12, "not all runs are finished"),
        (two, 8, "needs 3 games"),
    ):
        assert why in across_games(some, "full", expected)["note"]


def test_settings_and_budgets_that_differ_are_listed() -> None:
    one = dict(core="identity", discount=0.9, game="pong")
    runs = [result("dqn", settings=one, samples=1_000)]
    runs.append(result("drqn", settings=one | dict(core="lstm", game="breakout"), samples=2_000))
    assert module.differing_settings(runs) == [
        ["setting", "dqn", "drqn"],
        ["core", "identity", "lstm"],
    ]
    rows = {name: values for name, *values in module.budgets(runs)}
    assert rows["trained samples (not equal)"] == ["1,000", "2,000"]
    assert len(set(rows["frames"])) == 1


def test_the_mean_curve_is_over_the_frames_that_all_runs_evaluated() -> None:
    one, two, three = (n * 10**6 for n in (1, 2, 3))
    curves = [
        [(one, 1.0, 0.0, 2.0), (two, 3.0, 2.0, 4.0)],
        [(two, 5.0, 4.0, 6.0), (three, 9.0, 8.0, 10.0)],
    ]
    runs = [result(seed=i, curve=curve) for i, curve in enumerate(curves)]
    (point,) = module.curve_means(runs, "million frames")
    assert point == pytest.approx([2, 4.0, 4.0 - T1, 4.0 + T1], abs=1e-3)  # standard error 1
    single = module.curve_means(runs[:1], "million frames")
    assert single.tolist() == [[1, 1.0, 0.0, 2.0], [2, 3.0, 2.0, 4.0]]
