"""Scores against the parameter of observation: played once, kept, and drawn for several agents."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import evaluate
from envs.screens import KINDS
from experiment.scores import sweep
from experiment.scores.evaluation import Evaluation
from experiment.scores.intervals import mean_interval
from tests import small

SWEEP = "--observe flicker --sweep 0.5 0 1 --episodes 2 --epsilon 0.5 --threads 1".split()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real runs of seconds: a feed-forward and a recurrent agent on Breakout, one on Pong."""
    home = tmp_path_factory.mktemp("runs")
    names = (("dqn", "breakout"), ("drqn", "breakout"), ("drqn", "pong"))
    return [small.start(home, f"{preset}-{game}", preset, game=game, frames=800) for preset, game in names]


@pytest.fixture
def copies(runs: list[Path], tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float | None]]:
    """Kind and parameter of what would be played, in order: scores that fall with the parameter come at once."""
    calls: list[tuple[str, float | None]] = []

    def quick(network: Any, config: Any, protocol: Any) -> Evaluation:
        calls.append((config.observe, config.observe_parameter))
        return Evaluation([9.0 - 5 * (config.observe_parameter or 0) + i for i in range(config.eval_episodes)])

    monkeypatch.setattr(sweep, "evaluate", quick)
    return calls


def stored(run: Path) -> dict[str, Any]:
    (path,) = (run / "eval").glob("*-sweep-*.json")
    return json.loads(path.read_text())


def test_every_value_is_scored_as_a_plain_evaluation_would_and_kept_with_its_interval(copies: list[Path]):
    run = copies[1]
    assert evaluate.main([str(run), *SWEEP]) == 0
    found = stored(run)
    assert (found["game"], found["sweep"], found["episodes"], found["eval_seed"]) == ("breakout", "flicker", 2, 1)
    assert [point["value"] for point in found["points"]] == [0, 0.5, 1]
    for point in found["points"]:
        assert point["mean"] == np.mean(point["scores"])
        assert point["interval_95"] == list(mean_interval(point["scores"]))
    words = "--observe flicker --hide-probability 0.5 --episodes 2 --epsilon 0.5 --threads 1 --video none".split()
    assert evaluate.main([str(run), *words]) == 0
    (plain,) = (run / "eval").glob("*-flicker0.5-*.json")
    assert json.loads(plain.read_text())["scores"] == found["points"][1]["scores"]


def test_one_figure_is_drawn_for_all_and_nothing_is_played_twice(
    copies: list[Path], played: list, tmp_path: Path, capsys: pytest.CaptureFixture
):
    out = tmp_path / "figure.png"
    both = [str(copies[0]), str(copies[1])]
    assert evaluate.main([*both, *SWEEP, "--out", str(out)]) == 0
    assert played == [("flicker", 0), ("flicker", 0.5), ("flicker", 1)] * 2
    assert np.asarray(Image.open(out).convert("L")).std() > 10
    said = capsys.readouterr().out
    assert said.count("flicker 0.5 ") == 2
    assert f"figure  {out}" in said

    played.clear()
    more = ["0.25" if word == "0" else word for word in SWEEP]  # the full screen is there already, for the share
    assert evaluate.main([*both, *more]) == 0
    assert played == [("flicker", 0.25)] * 2
    assert [point["value"] for point in stored(copies[0])["points"]] == [0, 0.25, 0.5, 1]
    assert len(list((copies[0] / "eval").glob("*-sweep-*.png"))) == 1  # beside the first one's scores


def test_a_sweep_that_was_cut_off_goes_on_where_it_was(
    copies: list[Path], played: list, monkeypatch: pytest.MonkeyPatch
):
    play = sweep.evaluate

    def stop_at_the_third(*arguments: Any) -> Any:
        if len(played) == 2:
            raise KeyboardInterrupt
        return play(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "evaluate", stop_at_the_third)
        assert evaluate.main([str(copies[0]), *SWEEP]) == 130
    assert evaluate.main([str(copies[0]), *SWEEP]) == 0
    assert played == [("flicker", 0), ("flicker", 0.5), ("flicker", 1)]


@pytest.mark.parametrize(
    "damage", ["cut", "another network", "a list", "few scores", "no numbers", "not finite", "huge"]
)
def test_scores_that_are_not_this_agents_are_played_again(damage: str, copies: list[Path], played: list):
    run = copies[0]
    assert evaluate.main([str(run), *SWEEP]) == 0
    (path,) = (run / "eval").glob("*-sweep-*.json")
    good = json.loads(path.read_text())
    point = good["points"][0]
    text = {
        "cut": path.read_text()[:-20],
        "another network": json.dumps(good | {"network_sha256": "0"}),
        "a list": "[1]",
        "few scores": json.dumps(good | {"points": [point | {"scores": [1.0]}]}),
        "no numbers": json.dumps(good | {"points": [point | {"value": [0]}]}),
        "huge": json.dumps(good | {"points": [point | {"scores": [1.0, 10**400]}]}),
        "not finite": json.dumps(good | {"points": [point | {"scores": [1.0, float("nan")]}]}),
    }[damage]
    path.write_text(text)
    played.clear()
    assert evaluate.main([str(run), *SWEEP]) == 0
    assert played == [("flicker", 0), ("flicker", 0.5), ("flicker", 1)]
    assert json.loads(path.read_text()) == good


def test_a_kind_that_always_hides_something_is_compared_with_the_full_screen(copies: list[Path], played: list):
    words = "--observe blackout --sweep 4 --episodes 1 --epsilon 0.5 --threads 1".split()
    assert evaluate.main([str(copies[1]), *words]) == 0
    assert played == [("full", None), ("blackout", 4)]
    assert [point["value"] for point in stored(copies[1])["points"]] == [None, 4]
    assert [point["interval_95"] for point in stored(copies[1])["points"]] == [None, None]  # one episode
    assert KINDS["blackout"].clear is None


def test_agents_of_different_games_share_no_figure(copies: list[Path], capsys: pytest.CaptureFixture):
    assert evaluate.main([str(copies[1]), str(copies[2]), *SWEEP]) == 2
    error = capsys.readouterr().err
    assert "breakout" in error
    assert "pong" in error
    assert len(error.splitlines()) == 1
