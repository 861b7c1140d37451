"""The table of findings follows from the intervals; measures over games are those of Agarwal et al.
2021."""

import json
from typing import Any

import numpy as np
import pytest

from experiment.studies import findings as module
from experiment.studies.findings import (
    Finding,
    across_games,
    budgets,
    curve_means,
    differing_settings,
    make_findings,
    table,
    verdict,
)
from experiment.studies.study import Result
from tests.small import ROOT

BASE = json.loads((ROOT / "studies/what-memory-buys/results/dqn-breakout-s1.json").read_text())


def result(
    agent: str = "dqn", game: str = "pong", seed: int = 1, mean: float = 0.0, **changes: Any
) -> Result:
    fields = {k: v for k, v in BASE.items() if k in Result.__dataclass_fields__} | {
        "game": game,
        "seed": seed,
    }
    return Result(**(fields | {"agent": agent, "mean": mean, "scores": [mean, mean]} | changes))


def finding(agent: str, *values: float, seeds: int = 0) -> Finding:
    interval = (float("nan"), float("nan"))
    mean = float(np.mean(values))
    return Finding(
        agent, "pong", "full", "v5", seeds or len(values), mean, *interval, values, False, {}, ()
    )


def test_over_seeds_the_interval_is_over_the_means_of_runs() -> None:
    runs = [result(seed=i, mean=m, interval_95=(-7.0, -6.0)) for i, m in ((1, 1.0), (2, 3.0))]
    (row,) = make_findings(runs)
    # Student's t with 1 degree of freedom: 12.706 standard errors, and one is sqrt(2) / sqrt(2) =
    # 1.
    assert (row.mean, row.low, row.high) == pytest.approx(
        (2.0, 2.0 - 12.706, 2.0 + 12.706), abs=1e-3
    )
    (single,) = make_findings(runs[:1])
    assert (single.low, single.high, single.values) == (-7.0, -6.0, (1.0, 1.0))


def test_a_verdict_is_higher_or_lower_where_the_interval_of_the_difference_excludes_0() -> None:
    low, high = finding("dqn", 1.0, 2.0, 3.0), finding("drqn", 11.0, 12.0, 13.0)
    assert verdict(high, low).startswith("higher (+")
    assert verdict(low, high).startswith("lower (-")
    assert verdict(low, finding("drqn", -40.0, 15.0, 70.0)) == "not shown"
    # A few seeds of the same score say nothing about the spread.
    assert verdict(finding("a", *[-20.0] * 3), finding("b", *[-21.0] * 3)) == "not shown"
    assert (
        verdict(finding("a", *[-20.0] * 5), finding("b", *[-21.0] * 5)) == "higher (+1.0 to +1.0)"
    )
    one_seed = [
        finding(name, *[score] * 30, seeds=1) for name, score in (("a", -20.0), ("b", -21.0))
    ]
    assert verdict(*one_seed) == "higher (+1.0 to +1.0)"
    # An interval over seeds is not compared with one over episodes.
    assert verdict(finding("a", 1.0, 2.0), finding("b", *[9.0] * 30, seeds=1)) == "not shown"


def test_the_table_compares_with_every_agent_and_with_the_known_levels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HELD_BUTTONS", {"pong": {"score": -21.0}})
    runs = [
        result(agent, seed=s, mean=m + s)
        for agent, m in (("dqn", -25.0), ("drqn", 10.0))
        for s in (0, 1, 2)
    ]
    header, dqn, drqn = table(make_findings(runs))
    rows = [dict(zip(header, row, strict=True)) for row in (dqn, drqn)]
    assert rows[1]["against dqn"].startswith("higher (+3")
    assert rows[0]["against drqn"].startswith("lower (-3")
    assert rows[0]["against dqn"] == "-"
    assert rows[1]["held button"] == "-21.0: higher"
    assert rows[1]["random"] == "-20.7: higher"
    assert rows[1]["human"] == "14.6: lower"  # 11 +- 2.5
    assert rows[1]["normalised"] == f"{(11 + 20.7) / (14.6 + 20.7):.2f}"
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
    middle = (
        (10 + 2) / 1187.5 + (10 + 1 - 1.7) / 28.8 + (10 + 2 - 1.7) / 28.8 + (10 + 1 + 20.7) / 35.3
    ) / 4
    assert measures["iqm"]["drqn"][0] == pytest.approx(middle)
    assert measures["improvement"] == [["drqn", "dqn", 1.0, 1.0, 1.0]]
    assert "2 seeds" in measures["note"]
    assert "one seed" in across_games(runs[:6], "full", expected=6)["note"]
    assert (
        "not all runs are finished" in across_games(runs[:-1], "full", expected=len(runs))["note"]
    )
    two = [run for run in runs if run.game != "venture"]
    assert "needs 3 games" in across_games(two, "full", expected=len(two))["note"]


def test_settings_and_budgets_that_differ_are_listed() -> None:
    runs = [
        result("dqn", settings={"core": "identity", "discount": 0.9, "game": "pong"}, samples=1_000)
    ]
    runs.append(
        result(
            "drqn", settings={"core": "lstm", "discount": 0.9, "game": "breakout"}, samples=2_000
        )
    )
    assert differing_settings(runs) == [["setting", "dqn", "drqn"], ["core", "identity", "lstm"]]
    rows = {name: values for name, *values in budgets(runs)}
    assert rows["trained samples (not equal)"] == ["1,000", "2,000"]
    assert len(set(rows["frames"])) == 1


def test_the_mean_curve_is_over_the_frames_that_all_runs_evaluated() -> None:
    million = 10**6
    curves = [
        [(1 * million, 1.0, 0.0, 2.0), (2 * million, 3.0, 2.0, 4.0)],
        [(2 * million, 5.0, 4.0, 6.0), (3 * million, 9.0, 8.0, 10.0)],
    ]
    runs = [result(seed=i, curve=curve) for i, curve in enumerate(curves)]
    (point,) = curve_means(runs, "million frames")
    # Student's t with 1 degree of freedom: 12.706 standard errors of 1.
    assert point == pytest.approx([2, 4.0, 4.0 - 12.706, 4.0 + 12.706], abs=1e-3)
    assert curve_means(runs[:1], "million frames").tolist() == [
        [1, 1.0, 0.0, 2.0],
        [2, 3.0, 2.0, 4.0],
    ]
