"""evaluate.py: scores that are printed, kept and drawn; nothing that was measured is lost."""

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import av
import numpy as np
import pytest
from PIL import Image

import evaluate
from envs.episodes import EpisodeRecord, replay_colour, replay_grey
from experiment.scores.agent import Agent
from experiment.scores.evaluation import Evaluation
from experiment.scores.intervals import mean_interval
from tests import small

SHORT = "--episodes 2 --epsilon 1 --threads 1".split()
SWEEP = [*SHORT, "--sweep", "flicker:0.5,0,1"]


@pytest.fixture
def runs(finished, tmp_path):
    """Two runs of Breakout, and one under another protocol."""
    folders = [Path(shutil.copytree(finished, tmp_path / name)) for name in ("one", "two", "other")]
    for checkpoint in (folders[2] / "checkpoint").iterdir():
        small.sign(checkpoint, lambda manifest: manifest["config"].update(protocol="dqn-2015"))
    return [str(folder) for folder in folders]


@pytest.fixture
def played(monkeypatch):
    """The screens that would be played, in order: scores that fall with the parameter come at
    once."""
    screens = []

    def quick(agent, **_):
        screens.append(str(agent.screen))
        first = 9.0 - 5 * agent.screen.parameter
        return Evaluation([first + i for i in range(agent.config.eval_episodes)])

    monkeypatch.setattr(Agent, "play", quick)
    return screens


def evaluations(run, pattern):
    """The files of scores of a run: name -> text."""
    return {path.name: path.read_text() for path in Path(run, "eval").glob(pattern)}


def test_evaluation_is_repeatable_true_and_filmed(finished, tmp_path) -> None:
    argv = [str(finished), *"--episodes 2 --seed 5 --epsilon 0.5 --threads 1".split()]
    argv += ["--out", str(tmp_path), "--video"]
    assert evaluate.main([*argv, "median"]) == 0
    (path,) = tmp_path.glob("run/eval/*-v5-full0-e0.5-n2-s5.json")
    first = path.read_text()
    assert evaluate.main([*argv, "none"]) == 0
    assert path.read_text() == first
    summary = json.loads(first)
    assert summary["random_score"] == 1.7
    records = [EpisodeRecord.load(file) for file in sorted(path.with_suffix("").iterdir())]
    assert [replay_grey(record)[1].sum() for record in records] == summary["scores"]
    (film,) = tmp_path.glob("run/videos/*median*.mp4")
    with av.open(str(film)) as container:
        pictures = len([*container.decode(video=0)])
    assert pictures in [len([*replay_colour(record, every_frame=True)]) for record in records]


def test_an_unwritable_folder_is_refused_before_anything_is_played(runs, played, error_of) -> None:
    Path(runs[0], "eval").write_text("a file where a folder should be")
    unwritable = {f"{runs[0]}/eval": runs[:1], "/proc/no": [runs[1], "--out", "/proc/no"]}
    for place, words in unwritable.items():
        error = error_of(evaluate.main, [*words, *SHORT])
        assert error.startswith(f"error: {place}")
        assert ": cannot be written; choose another folder with --out (" in error
    assert played == []


def test_films_of_two_runs_and_of_any_record(runs, tmp_path, monkeypatch, error_of) -> None:
    before, out = sorted(Path(runs[0]).rglob("*")), tmp_path / "out"
    words = ["--episodes", "1", *SHORT[2:], "--side-by-side", "--out", str(out)]
    assert evaluate.main([*runs[:2], *words]) == 0
    assert sorted(Path(runs[0]).rglob("*")) == before
    assert len(list((out / "two" / "eval").glob("*.json"))) == 1
    (film,) = (out / "one" / "videos").glob("one-and-two-*.mp4")
    (record,) = (out / "one" / "eval").glob("*/episode-000.json")
    words = [runs[1], "--threads", "1", "--overlay", "--watch", str(record), "--out"]
    assert evaluate.main([*words, str(out)]) == 0
    (watched,) = out.glob("episode-000-breakout-score-*-overlay.mp4")
    for path, width in ((film, 2 * 320 + 8), (watched, 528)):
        with av.open(str(path)) as container:
            assert container.streams.video[0].width == width
    # A folder that cannot be written is refused before the work.
    monkeypatch.delattr(evaluate, "film")
    assert "/proc/no" in error_of(evaluate.main, [*words, "/proc/no"])


@pytest.mark.parametrize("stopped", [False, True])
def test_scores_that_cannot_be_written_are_printed(
    stopped, runs, played, monkeypatch, capsys
) -> None:
    full_disk = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr(evaluate, "write_evaluation", full_disk)
    assert evaluate.main([runs[0], *SHORT, "--video", "none"]) == 2
    assert "mean    9.5" in capsys.readouterr().out  # (9 + 10) / 2
    played.clear()
    if stopped:
        monkeypatch.setattr(Agent, "play", lambda agent, **_: Evaluation([1.0]))
    assert evaluate.main([*runs[:2], *SWEEP]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.count(".json: cannot be written (No space left on device)") == (1 if stopped else 6)
    assert len(played) == (0 if stopped else 6)
    assert bool([*Path(runs[0], "eval").glob("*-sweep.png")]) == (not stopped)


def test_a_stopped_evaluation_keeps_the_episodes_that_ended(runs, monkeypatch, capsys) -> None:
    monkeypatch.setattr(Agent, "play", lambda agent, **_: Evaluation([3.0, 5.0]))
    assert evaluate.main([runs[0], "--episodes", "30", "--threads", "1"]) == 130
    assert "stopped after 2 of 30 episodes" in capsys.readouterr().out
    (text,) = evaluations(runs[0], "*-n30-s1-first2.json").values()
    summary = json.loads(text)
    assert (summary["scores"], summary["episodes"]) == ([3.0, 5.0], 2)
    assert summary["planned_episodes"] == 30
    assert list(Path(runs[0], "videos").iterdir()) == []


def test_an_untrained_agent_is_scored_but_not_exported(runs, played, tmp_path, capsys) -> None:
    for checkpoint in Path(runs[0], "checkpoint").iterdir():
        small.sign(checkpoint, lambda manifest: manifest.update(updates=0))
    words = [*SHORT, "--video", "none"]
    for run, untrained in zip(runs, (True, False), strict=False):
        assert evaluate.main([run, *words]) == 0
        line = "UNTRAINED, no update in" if untrained else "trained for"
        assert f"\n{line} 1,600 frames, 2 episodes" in capsys.readouterr().out
        (text,) = evaluations(run, "*-n2-*.json").values()
        assert ("untrained" in json.loads(text)) == untrained
    assert evaluate.main([runs[0], *words, "--export", str(tmp_path / "zoo")]) == 2
    assert "made no update" in capsys.readouterr().err
    assert not (tmp_path / "zoo").exists()


def test_a_sweep_makes_and_uses_plain_evaluations(runs, played, tmp_path) -> None:
    assert evaluate.main([runs[0], *SHORT, "--sweep", "flicker:1"]) == 0
    assert evaluate.main([runs[1], *SHORT, "--observe", "flicker:1", "--video", "none"]) == 0
    plain = evaluations(runs[1], "*-n2-*.json")
    assert evaluations(runs[0], "*-flicker1-*.json") == plain
    scores = json.loads(*plain.values())
    assert (scores["observe"], scores["mean"]) == ("flicker:1", np.mean(scores["scores"]))
    assert scores["interval_95"] == list(mean_interval(scores["scores"]))
    played.clear()  # a sweep elsewhere uses the scores in the run's folder
    assert evaluate.main([runs[1], *SWEEP, "--out", str(tmp_path / "out")]) == 0
    assert played == ["flicker:0", "flicker:0.5"]


def test_a_sweep_draws_a_figure_and_plays_nothing_twice(runs, played, monkeypatch, capsys) -> None:
    play, words = Agent.play, [*runs[:2], *SWEEP]

    def stop_at_the_third(agent, **_):
        return Evaluation([1.0]) if len(played) == 2 else play(agent)

    with monkeypatch.context() as patch:
        patch.setattr(Agent, "play", stop_at_the_third)
        assert evaluate.main(words) == 130
    assert evaluate.main(words) == 0
    assert played == ["flicker:0", "flicker:0.5", "flicker:1"] * 2
    (figure,) = Path(runs[0], "eval").glob("*-sweep.png")
    assert np.asarray(Image.open(figure).convert("L")).std() > 10
    output = capsys.readouterr().out
    assert output.count("flicker:0.5 ") == 3  # two agents, and the one before the stop
    assert f"figure  {figure}" in output


def test_scores_that_are_not_this_agents_are_played_again(runs, played) -> None:
    assert evaluate.main([runs[0], *SWEEP]) == 0
    ((name, good),) = evaluations(runs[0], "*-flicker1-*.json").items()
    for damaged in (good[:-20], json.dumps(json.loads(good) | {"network_sha256": "0"}), "[1]"):
        Path(runs[0], "eval", name).write_text(damaged)
        played.clear()
        assert evaluate.main([runs[0], *SWEEP]) == 0
        assert played == ["flicker:1"]
        assert evaluations(runs[0], name) == {name: good}


def test_a_kind_that_always_hides_something_is_compared_with_the_full_screen(runs, played) -> None:
    assert evaluate.main([runs[0], *SHORT, "--sweep", "blackout:4"]) == 0
    assert played == ["full", "blackout:4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("A B", "any number with --sweep"),
        ("A A --sweep flicker:0", "given twice"),
        ("A C --sweep flicker:0", "dqn-2015"),
        ("A --sweep full", "--sweep full"),
        ("A --sweep flicker:2", "--sweep flicker:2"),
        ("A --sweep flicker:0 --observe full", "--observe full: has no effect with --sweep"),
        ("A --sweep flicker:0 --video all", "--video all: has no effect with --sweep"),
        ("--watch no.json --episodes 7", "--episodes 7: has no effect with --watch"),
        ("--watch no.json --threads 2", "--threads 2: has no effect with --watch"),
        ("A --observe flicker:x", "--observe flicker:x"),
        ("A --side-by-side", "two with --side-by-side"),
        ("A B --side-by-side --sweep flicker:0", "--side-by-side"),
        ("A C --side-by-side", "--side-by-side: all runs must have one game"),
        ("A --saliency", "--overlay"),
        ("--overlay A", "must be True or False"),
        ("A --video none --overlay", "--overlay True: has no effect with --video none"),
        ("A --video none --terminal", "--terminal True: has no effect with --video none"),
        ("A --sweep flicker:0 --video best", "--video best: has no effect with --sweep"),
        ("--watch no.json --terminal --out B", "has no effect with --watch no.json --terminal"),
        ("--watch no.json", "no.json"),
        ("--overlay", "the folder of one run"),
        ("--watch no.json --overlay", "none with --watch unless --overlay"),
    ],
)
def test_a_wrong_request_is_one_line_before_any_play(
    words, message, runs, played, error_of
) -> None:
    folders = dict(zip("ABC", runs, strict=True))
    assert message in error_of(evaluate.main, [folders.get(word, word) for word in words.split()])
    assert played == []


def test_two_runs_of_one_name_do_not_share_a_folder(runs, played, tmp_path, error_of) -> None:
    twin = shutil.copytree(runs[0], tmp_path / "elsewhere" / "one")
    words = [runs[0], twin, "--sweep", "flicker:0", "--out", tmp_path / "out"]
    message = f"--out {tmp_path / 'out'}: one is the name of two of the runs"
    assert message in error_of(evaluate.main, [*map(str, words)])
    assert played == []
