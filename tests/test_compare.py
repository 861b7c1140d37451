"""A comparison trains, scores and reports a grid; done work is not done again."""

import json
from pathlib import Path

import pytest

import compare
from experiment import report
from tests import small

GRID = ["--games", "pong", "--frames", "800", "--episodes", "2", "--epsilon", "0.5", "--video", "none"]


def quick(**changes: object) -> list[str]:
    """Flags of train.py for all runs; the grid sets the rest."""
    words = small.flags(**{"eval_frames": 400, **changes})
    return [w for k, v in zip(words[::2], words[1::2], strict=True) if k not in ("--game", "--frames") for w in (k, v)]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("grid")
    assert compare.main([*GRID, "--runs-dir", str(runs), "--", *quick()]) == 0
    return runs


def test_both_agents_are_trained_scored_and_reported(grid: Path) -> None:
    found = json.loads((grid / "compare.json").read_text())
    assert [row["agent"] for row in found["table"]] == ["dqn", "drqn"]
    assert len({(row["frames"], row["samples"], row["samples_per_step"]) for row in found["table"]}) == 1
    for run in found["runs"]:
        assert run["mean"] == sum(run["scores"]) / 2
        assert [point[0] for point in run["curve"]] == [400, 800]
    assert (grid / "compare.png").read_bytes()[:4] == b"\x89PNG"


def test_the_second_call_trains_and_plays_nothing_and_says_the_same(
    grid: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (grid / "compare.json").read_text()
    monkeypatch.setattr(compare, "run", lambda *_: pytest.fail("something was done again"))
    assert compare.main([*GRID, "--runs-dir", str(grid), "--", *quick()]) == 0
    assert (grid / "compare.json").read_text() == before
    out = capfd.readouterr().out
    assert "95 % interval" in out
    assert "trackio show" in out


@pytest.mark.parametrize(
    ("words", "held"),
    [
        (["--agents", "dqn,drqm"], "drqn?"),
        (["--agents", "dqn,dqn"], "given twice"),
        (["--games", "brekout"], "breakout"),
        (["--seeds", "0"], "at least 1"),
        (["--episode", "3"], "--episodes"),
        (["--epsilon", "5"], "--epsilon 5.0"),
        (["--eval-seed", "-1"], "--eval-seed -1"),
        (["--", "--name", "mine"], "--name"),
        (["--", "--seed=3"], "--seed=3"),
        (["--", "--samples-per-steps", "1"], "--samples-per-step"),
    ],
)
def test_a_wrong_flag_is_one_line(words: list[str], held: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    own, flags = (words, []) if words[0] != "--" else ([], words)
    assert compare.main([*own, "--runs-dir", str(tmp_path / "runs"), *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert held in lines[0]
    assert not (tmp_path / "runs").exists()


def test_runs_with_other_settings_are_refused(grid: Path, capsys: pytest.CaptureFixture) -> None:
    assert compare.main([*GRID, "--runs-dir", str(grid), "--", *quick(samples_per_step=2.0)]) == 2
    assert "--samples-per-step 1.0 -> 2.0" in capsys.readouterr().err


def test_over_seeds_the_interval_is_over_the_means_of_runs() -> None:
    run = {"agent": "dqn", "game": "pong", "parameters": 1, "frames": 2, "samples": 3, "samples_per_step": 4.0}
    runs = [run | {"mean": m, "scores": [m, 99.0], "interval_95": [-7.0, -7.0]} for m in (1.0, 3.0)]
    (row,) = report.summary(runs)
    assert row["mean"] == 2.0
    # Student's t with 1 degree of freedom: 12.706 standard errors, and one is sqrt(2) / sqrt(2) = 1.
    assert row["interval_95"] == pytest.approx([2.0 - 12.706, 2.0 + 12.706], abs=1e-3)
    assert row["normalised"] == pytest.approx((2.0 + 20.7) / (14.6 + 20.7))
    (single,) = report.summary(runs[:1])
    assert single["interval_95"] == [-7.0, -7.0]


def test_across_games_an_agent_that_always_wins_is_said_to() -> None:
    runs = [
        {"agent": agent, "game": game, "seed": seed, "mean": score + seed}
        for seed in (1, 2)
        for game in ("pong", "breakout")
        for agent, score in (("dqn", 0.0), ("drqn", 10.0))
    ]
    said = report.across_games(runs)
    # Normalised: (10 + s + 20.7) / 35.3 in Pong and (10 + s - 1.7) / 28.8 in Breakout; IQM: the middle two of four.
    middle = ((10 + 2 - 1.7) / 28.8 + (10 + 1 + 20.7) / 35.3) / 2
    assert f"drqn: IQM of human-normalised scores {middle:.3f}" in said[1]
    assert "a run of drqn beats one of dqn with probability 1.00 (1.00 to 1.00)" in said[2]
    assert report.across_games(runs[:4]) == []
