"""evaluate.py: scores that are printed, kept and drawn; nothing that was measured is lost."""

import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import evaluate
from experiment.scores.agent import Agent
from experiment.scores.evaluation import Evaluation
from experiment.scores.intervals import mean_interval
from tests import small

SHORT = "--episodes 2 --epsilon 0.5 --threads 1".split()
SWEEP = [*SHORT, "--sweep", "flicker:0.5,0,1"]


@pytest.fixture(scope="module")
def runs(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real runs of seconds: a feed-forward and a recurrent agent on Breakout, one on Pong."""
    home = tmp_path_factory.mktemp("runs")
    dqn, pong = (small.start(home, f"dqn-{game}", "dqn", game=game, frames=800) for game in ("breakout", "pong"))
    return [dqn, Path(shutil.copytree(finished, home / "drqn-breakout")), pong]


@pytest.fixture
def copies(runs: list[Path], tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The screens that would be played, in order: scores that fall with the parameter come at once."""
    screens: list[str] = []

    def quick(agent: Agent, **_: Any) -> Evaluation:
        screens.append(str(agent.screen))
        return Evaluation([9.0 - 5 * agent.screen.parameter + i for i in range(agent.config.eval_episodes)])

    monkeypatch.setattr(Agent, "play", quick)
    return screens


def stored(folder: Path) -> dict[str, Any]:
    """The one evaluation of a folder."""
    (path,) = (folder / "eval").glob("*-n2-*.json")
    return json.loads(path.read_text())


def test_an_unwritable_folder_is_refused_before_anything_is_played(
    copies: list[Path], played: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (copies[1] / "eval").write_text("a file where a folder should be")
    assert evaluate.main([str(copies[1]), *SHORT]) == 2
    assert str(copies[1] / "eval") in capsys.readouterr().err
    assert evaluate.main([str(copies[1]), *SHORT, "--out", "/proc/no"]) == 2
    assert "/proc/no" in capsys.readouterr().err
    assert played == []


def test_out_takes_the_place_of_the_runs_own_folder(copies: list[Path], tmp_path: Path) -> None:
    before = sorted(copies[1].rglob("*"))
    assert evaluate.main([str(copies[1]), *SHORT, "--out", str(tmp_path / "out")]) == 0
    place = tmp_path / "out" / "drqn-breakout"
    assert stored(place)["episodes"] == len(list((place / "eval").glob("*/episode-*.json"))) == 2
    assert len(list((place / "videos").glob("*.mp4"))) == 1
    assert sorted(copies[1].rglob("*")) == before


def test_scores_are_printed_before_they_are_written(
    copies: list[Path], played: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full_disk(*_: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluate, "write_evaluation", full_disk)
    assert evaluate.main([str(copies[1]), *SHORT, "--video", "none"]) == 2
    said = capsys.readouterr()
    assert "mean    9.5" in said.out  # (9 + 10) / 2
    assert "No space left on device" in said.err


def test_a_stopped_evaluation_keeps_the_episodes_that_ended_and_says_so(
    copies: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Agent, "play", lambda agent, **_: Evaluation([3.0, 5.0]))
    assert evaluate.main([str(copies[1]), "--episodes", "30", "--threads", "1"]) == 130
    assert "stopped after 2 of 30 episodes" in capsys.readouterr().out
    (path,) = (copies[1] / "eval").glob("*-n30-s1-first2.json")
    kept = json.loads(path.read_text())
    assert (kept["scores"], kept["episodes"], kept["planned_episodes"]) == ([3.0, 5.0], 2, 30)
    assert list((copies[1] / "videos").iterdir()) == []


def test_films_of_two_runs_side_by_side_and_of_any_record(copies: list[Path], tmp_path: Path) -> None:
    both = [str(copies[0]), str(copies[1])]
    assert evaluate.main([*both, "--episodes", "1", *SHORT[2:], "--side-by-side"]) == 0
    (film,) = (copies[0] / "videos").glob("dqn-breakout-and-drqn-breakout-*.mp4")
    record = next((copies[0] / "eval").glob("*/episode-000.json"))
    assert evaluate.main([str(copies[1]), "--overlay", *SHORT[4:], "--watch", str(record), "--out", str(tmp_path)]) == 0
    for path, width in ((film, 2 * 320), (tmp_path / "episode-000.mp4", 528)):
        with av.open(str(path)) as container:
            assert container.streams.video[0].width == width


def test_a_point_of_a_sweep_is_a_plain_evaluation(copies: list[Path], played: list[str]) -> None:
    assert evaluate.main([str(copies[1]), *SHORT, "--sweep", "flicker:1"]) == 0
    swept = {path.name: path.read_text() for path in (copies[1] / "eval").glob("*-flicker1-*.json")}
    shutil.rmtree(copies[1] / "eval")
    assert evaluate.main([str(copies[1]), *SHORT, "--observe", "flicker:1", "--video", "none"]) == 0
    assert {path.name: path.read_text() for path in (copies[1] / "eval").glob("*.json")} == swept
    again = stored(copies[1])
    assert (again["observe"], again["mean"]) == ("flicker:1", np.mean(again["scores"]))
    assert again["interval_95"] == list(mean_interval(again["scores"]))


def test_a_sweep_draws_one_figure_and_plays_nothing_twice_also_after_a_stop(
    copies: list[Path], played: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both, play = [str(copies[0]), str(copies[1])], Agent.play
    with monkeypatch.context() as patch:
        stopped = Evaluation([1.0])
        patch.setattr(Agent, "play", lambda agent, **_: stopped if len(played) == 2 else play(agent))
        assert evaluate.main([*both, *SWEEP]) == 130
    assert evaluate.main([*both, *SWEEP]) == 0
    assert played == ["flicker:0", "flicker:0.5", "flicker:1"] * 2
    (figure,) = (copies[0] / "eval").glob("*-sweep.png")
    assert np.asarray(Image.open(figure).convert("L")).std() > 10
    said = capsys.readouterr().out
    assert said.count("flicker:0.5 ") == 3  # two agents, and the one before the stop
    assert f"figure  {figure}" in said


def test_scores_that_are_not_this_agents_are_played_again(copies: list[Path], played: list[str]) -> None:
    assert evaluate.main([str(copies[0]), *SWEEP]) == 0
    (path,) = (copies[0] / "eval").glob("*-flicker1-*.json")
    good = path.read_text()
    for damaged in (good[:-20], json.dumps(json.loads(good) | {"network_sha256": "0"}), "[1]"):
        path.write_text(damaged)
        played.clear()
        assert evaluate.main([str(copies[0]), *SWEEP]) == 0
        assert played == ["flicker:1"]
        assert path.read_text() == good


def test_a_kind_that_always_hides_something_is_compared_with_the_full_screen(
    copies: list[Path], played: list[str]
) -> None:
    assert evaluate.main([str(copies[1]), "--episodes", "1", "--threads", "1", "--sweep", "blackout:4"]) == 0
    assert played == ["full", "blackout:4"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("A B", "any number with --sweep"),
        ("A A --sweep flicker:0", "given twice"),
        ("A C --sweep flicker:0", "pong"),
        ("A --sweep full", "full"),
        ("A --sweep flicker:2", "--sweep flicker:2"),
        ("A --sweep flicker:0 --observe full", "--observe full"),
        ("A --observe flicker:x", "--observe flicker:x"),
        ("A --side-by-side", "two with --side-by-side"),
        ("A B --side-by-side --sweep flicker:0", "--side-by-side"),
        ("A --saliency", "--overlay"),
        ("--watch no.json", "no.json"),
        ("--overlay", "the folder of one run"),
    ],
)
def test_a_wrong_request_is_one_line_and_nothing_is_played(
    words: str, said: str, runs: list[Path], played: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = dict(zip("ABC", map(str, runs), strict=True))
    assert evaluate.main([folders.get(word, word) for word in words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert played == []
