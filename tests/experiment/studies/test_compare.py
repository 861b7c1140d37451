"""A comparison trains, scores and reports a grid; done work is not done again; what is unfair is refused."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import compare
import train
from experiment import build
from experiment.runs import run as training
from experiment.scores.evaluation import StoppedError
from experiment.store.provenance import commit
from experiment.studies import clips
from experiment.studies import findings as report
from experiment.studies.jobs import Grid, _train_words, core_shares
from experiment.studies.study import Terms, evaluation
from tests import small

GRID = "--agents dqn drqn:core=gru --games pong --frames 800 --episodes 2 --epsilon 0.5 --video none".split()


def quick(**changes: object) -> list[str]:
    """Flags of train.py for all runs; the grid sets the rest."""
    words = small.flags(**{"eval_frames": 400, **changes})
    return [w for k, v in zip(words[::2], words[1::2], strict=True) if k not in ("--game", "--frames") for w in (k, v)]


def call(out: Path, *words: str, **changes: object) -> int:
    return compare.main([*GRID, "--out", str(out), *words, "--", *quick(**changes)])


@pytest.fixture(scope="module", autouse=True)
def _short_films() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clips, "SECONDS", 1)
        yield


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grid")
    assert call(out) == 0
    return out


@pytest.fixture
def copied(grid: Path, tmp_path: Path) -> Path:
    shutil.copytree(grid, tmp_path / "study")
    for path in (tmp_path / "study" / "runs").glob("*/config.yaml"):
        path.write_text(path.read_text().replace(str(grid), str(tmp_path / "study")))
    return tmp_path / "study"


def no_work(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Grid, "_call", lambda *_: pytest.fail("something was done again"))


def test_both_agents_are_trained_scored_and_reported(grid: Path) -> None:
    found = json.loads((grid / "report.json").read_text())
    assert [row["arm"] for row in found["table"]] == ["dqn", "drqn:core=gru"]
    assert len({(row["frames"], row["samples"], row["samples_per_step"]) for row in found["table"]}) == 1
    assert ["core", "identity", "gru"] in found["differences"]
    for run in found["runs"]:
        assert run["mean"] == sum(run["scores"]) / 2
        assert [point[0] for point in run["curve"]] == [400, 800]
        assert not Path(run["records"]).is_absolute()
    assert (grid / "report.png").read_bytes()[:4] == b"\x89PNG"
    page = (grid / "report.html").read_text()
    assert page.count("<video") == 4  # the best and the median of each agent
    assert page.count("<svg") == 2
    lines = (grid / "scores.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * (2 + 1 + 2)  # two evaluations, a mean and two episodes for each agent
    assert {run["machine"]["commit"] for run in found["runs"]} == {commit()}


def test_runs_that_have_no_room_together_are_refused_but_finished_ones_need_none(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=1))
    monkeypatch.setattr(compare, "psutil", full)
    assert call(tmp_path / "new") == 2
    assert "error: --jobs 1: need about 0." in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(build, "psutil", full)
    assert call(copied) == 0


def test_finished_runs_of_a_larger_machine_are_reported_on_a_small_one(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "cores", lambda: 1)
    no_work(monkeypatch)
    assert call(copied, threads=2) == 0
    assert call(copied, "--jobs", "0", threads=2) == 0
    assert call(copied, device="cuda") == 0
    (copied / "results" / "dqn-pong-s1.json").unlink()
    shutil.rmtree(copied / "runs" / "dqn-pong-s1")
    assert call(copied, threads=2) == 2
    assert "--threads 2: this process may use 1 cores" in capsys.readouterr().err


def test_a_run_that_another_process_has_finished_is_no_failure(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begun_elsewhere(self: Grid, jobs: int) -> None:
        self.failures |= {cell.folder: "exists" for cell in self.cells}

    monkeypatch.setattr(Grid, "run", begun_elsewhere)
    assert call(copied) == 0


def test_names_that_no_disk_takes_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path / ("a" * 300)) == 2
    assert "File name too long" in capsys.readouterr().err
    long = "dqn:optimizer_epsilon=0." + "0" * 200 + "1"
    assert compare.main(["--agents", long, "--games", "pong", "--out", str(tmp_path / "b")]) == 2
    assert "--name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_second_call_trains_and_plays_nothing_and_says_the_same(
    grid: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in grid.iterdir() if path.is_file()}
    no_work(monkeypatch)
    assert call(grid) == 0
    assert {path: path.read_bytes() for path in grid.iterdir() if path.is_file()} == before
    out = capfd.readouterr().out
    assert "95 % interval" in out
    assert "trackio show" in out


def test_the_results_alone_make_the_same_report_in_another_clone(
    grid: Path, copied: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied / "runs")
    no_work(monkeypatch)
    assert call(copied) == 0
    assert "video " not in capfd.readouterr().out  # the films were the runs'
    for name in ("report.html", "report.json", "report.png", "scores.csv"):
        assert (copied / name).read_bytes() == (grid / name).read_bytes().replace(bytes(grid), bytes(copied)), name
    assert sum(path.stat().st_size for path in (copied / "results").rglob("*.json")) < 40_000


def test_a_strangers_result_says_nothing_of_what_the_grid_knows(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied / "results" / "dqn-pong-s1.json"
    true = json.loads(path.read_text())
    path.write_text(json.dumps(true | {"records": "../../elsewhere", "game": "<b>chess</b>", "seed": []}))
    no_work(monkeypatch)
    assert call(copied) == 0
    (run,) = (run for run in json.loads((copied / "report.json").read_text())["runs"] if run["arm"] == "dqn")
    assert [run[k] for k in ("records", "game", "seed")] == [true[k] for k in ("records", "game", "seed")]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda kept: kept | {"scores": ["x", None]}, "cannot be read"),
        (lambda kept: {k: v for k, v in kept.items() if k != "machine"}, "cannot be read"),
        (lambda kept: kept | {"curve": [[400, "high", None, None]]}, "cannot be read"),
        (lambda kept: kept | {"curve": [[]]}, "cannot be read"),
        (lambda kept: kept | {"machine": "fast"}, "cannot be read"),
        (lambda kept: kept | {"samples": "many"}, "cannot be read"),
        (lambda kept: kept | {"machine": {"cpu": "\x1b[2J"}}, "cannot be read"),
        (lambda kept: kept | {"training_seconds": [1]}, "cannot be read"),
        (lambda kept: kept | {"frames": 8_000}, "has 8,000 frames, more than --frames 800"),
        (lambda _: [1], "cannot be read"),
        (
            lambda kept: kept | {"settings": kept["settings"] | {"hidden": 77}},
            "would change what the run means: --hidden 77 -> 32;",
        ),
        (lambda kept: kept | {"preset": "r2d2"}, "is a run of r2d2, not of dqn"),
    ],
)
def test_a_result_that_is_damaged_or_of_another_run_is_refused_before_anything_is_done(
    damage: Callable[[Any], Any], said: str, copied: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = copied / "results" / "dqn-pong-s1.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    no_work(monkeypatch)
    assert call(copied) == 2
    assert said in capsys.readouterr().err


def test_a_film_of_another_episode_is_not_shown(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied / "results" / "dqn-pong-s1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scores": [99.0, 99.0], "mean": 99.0}))
    no_work(monkeypatch)
    assert call(copied) == 0
    page = (copied / "report.html").read_text()
    assert page.count("<video") == 2  # the other agent's
    assert "is of another episode, of pong with score -2" in page


def test_a_run_that_is_elsewhere_is_not_made_again_unasked(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied / "runs")
    no_work(monkeypatch)
    before = (copied / "results" / "dqn-pong-s1.json").read_bytes()
    assert compare.main([*[w.replace("800", "1600") for w in GRID], "--out", str(copied), "--", *quick()]) == 2
    assert "its run is not here" in capsys.readouterr().err
    assert (copied / "results" / "dqn-pong-s1.json").read_bytes() == before


def test_a_study_in_bf16_is_reported_where_there_is_none(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copied / "runs")
    for path in (copied / "results").glob("*.json"):
        path.write_text(path.read_text().replace('"precision": "auto"', '"precision": "bf16"'))
    monkeypatch.setattr("experiment.build.has_bf16", lambda device: False)
    no_work(monkeypatch)
    assert call(copied, precision="bf16") == 0
    (copied / "results" / "dqn-pong-s1.json").unlink()
    assert call(copied, precision="bf16") == 2


def test_other_terms_are_scored_anew_and_replace_what_was_kept(copied: Path) -> None:
    words = "--agents dqn --games pong --frames 800 --episodes 3 --epsilon 0.5 --video none".split()
    assert compare.main([*words, "--out", str(copied), "--", *quick()]) == 0
    kept = copied / "results" / "dqn-pong-s1.json"
    assert len(json.loads(kept.read_text())["scores"]) == 3
    assert 1 <= len(list(kept.with_suffix("").glob("*.json"))) <= 2


def test_a_yaml_file_says_the_same_as_flags_and_flags_go_before_it(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "agents: [dqn, 'drqn:core=gru']\nseeds: 3\nframes: 4_000\ntrain:\n  eval_episodes: 7\n  threads: 1\n"
    )
    own, shared = compare.read_words([str(path), "--seeds", "2", "--", "--threads=2"])
    assert own == ["--agents", "dqn", "drqn:core=gru", "--frames", "4000", "--seeds", "2"]
    assert shared == ["--eval-episodes", "7", "--threads=2"]


def test_what_was_stopped_goes_on_and_ends_as_if_never_stopped(grid: Path, tmp_path: Path) -> None:
    words = [*GRID, "--out", str(tmp_path / "study")]
    command = [sys.executable, str(small.ROOT / "compare.py"), *words, "--", *quick()]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    first = tmp_path / "study" / "runs" / "dqn-pong-s1"
    while not (first / "metrics.jsonl").exists() and started.poll() is None:
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    said, _ = started.communicate(timeout=120)
    assert started.returncode == 130, said
    assert "the same command goes on" in said
    assert not (tmp_path / "study" / "report.html").exists()
    assert call(tmp_path / "study") == 0
    for name in ("dqn-pong-s1", "drqn-core-gru-pong-s1"):
        assert small.differences(grid / "runs" / name, tmp_path / "study" / "runs" / name) == []


def test_an_evaluation_that_a_stop_put_off_is_played_before_the_run_counts_as_trained(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = compare.CompareConfig(agents=("dqn",), games=("pong",), frames=800, out=tmp_path / "study")
    (cell,) = compare.make_cells(wanted, compare.read_settings(quick(), "", ()))
    real = training.evaluate

    def stopped_at_the_end(*words: Any) -> Any:
        if list((cell.folder / "eval").glob("*.json")):
            raise StoppedError
        return real(*words)

    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", stopped_at_the_end)
        assert train.main(_train_words(cell)) == 0
    assert cell.frames == 800
    assert not cell.is_trained
    words = [word for word in GRID if word != "drqn:core=gru"]
    assert compare.main([*words, "--out", str(tmp_path / "study"), "--", *quick()]) == 0
    curves = [json.loads((out / "report.json").read_text())["runs"][0]["curve"] for out in (grid, tmp_path / "study")]
    assert curves[0] == curves[1]


def test_a_run_that_fails_is_named_and_the_others_go_on(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in (copied / "runs" / "dqn-pong-s1" / "checkpoint").glob("*/network.safetensors"):
        path.write_bytes(b"")
    shutil.rmtree(copied / "runs" / "dqn-pong-s1" / "eval")
    (copied / "results" / "dqn-pong-s1.json").unlink()
    assert call(copied) == 1
    out = capfd.readouterr()
    assert "no whole checkpoint" in out.err
    assert [run["arm"] for run in json.loads((copied / "report.json").read_text())["runs"]] == ["drqn:core=gru"]
    assert "Not finished:" in (copied / "report.html").read_text()


def test_a_finished_run_whose_newest_checkpoint_is_damaged_goes_back_to_the_one_before(tmp_path: Path) -> None:
    words = [*(word for word in GRID if word != "drqn:core=gru"), "--out", str(tmp_path), "--"]
    assert compare.main([*words, *quick(checkpoint_frames=400)]) == 0
    before = (tmp_path / "report.json").read_text()
    run = tmp_path / "runs" / "dqn-pong-s1"
    older, newest = sorted((run / "checkpoint").iterdir())
    assert int(older.name) == 400
    (newest / "manifest.json").write_text("{")
    (tmp_path / "results" / "dqn-pong-s1.json").unlink()
    assert compare.main([*words, *quick(checkpoint_frames=400)]) == 0
    after = json.loads((tmp_path / "report.json").read_text())
    for found in (known := json.loads(before), after):
        found["runs"][0].pop("training_seconds")
    assert after == known


@pytest.mark.parametrize(
    "change",
    [
        {"scores": ["x", None]},
        {"scores": [1.0]},
        {"mean": None},
        {"mean": 10**400},
        {"interval_95": [1]},
        {"parameters": "many"},
    ],
)
def test_a_damaged_evaluation_is_none_and_will_be_played_again(change: dict[str, object], copied: Path) -> None:
    wanted = compare.CompareConfig(agents=("dqn",), games=("pong",), frames=800, out=copied)
    (cell,) = compare.make_cells(wanted, compare.read_settings(quick(), "", ()))
    terms = Terms(episodes=2, epsilon=0.5, seed=1000)
    found = evaluation(cell, terms)
    path = found["path"]
    for damaged in (json.dumps(json.loads(path.read_text()) | change), "{", "[]", "null", ""):
        path.write_text(damaged)
        assert evaluation(cell, terms) == {}


@pytest.mark.parametrize("row", ['"text"', "[]", '{"frames": "x"}', '{"frames": 3, "eval_score": null}', "{", "{}"])
def test_a_run_with_odd_rows_of_metrics_is_named_and_the_others_are_reported(
    row: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "runs" / "dqn-pong-s1" / "metrics.jsonl"
    path.write_text(path.read_text() + row + "\n")
    (copied / "results" / "dqn-pong-s1.json").unlink()
    assert call(copied, "--jobs", "0") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("failed")
    assert "metrics.jsonl: row" in line
    study = json.loads((copied / "report.json").read_text())
    assert study["arms"] == ["drqn:core=gru"]
    assert all(len(row) == 2 for row in study["differences"])


def test_a_row_without_interval_is_a_point_without_band(copied: Path) -> None:
    path = copied / "runs" / "dqn-pong-s1" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"frames": 801, "eval_score": 3}\n')
    assert call(copied, "--jobs", "0") == 0


@pytest.mark.parametrize(
    ("words", "held"),
    [
        ("--agents dqn drqm", "drqn?"),
        ("--agents dqn dqn", "--agents dqn --games breakout --observe full: the same run is given twice"),
        ("--agents dqn dqn:frame_stack=4", "--agents dqn:frame_stack=4 --games breakout --observe full: the same run"),
        ("--observe flicker flicker:0.5", "--observe flicker:0.5: the same run is given twice"),
        ("--agents dqn:core", "write --SETTING VALUE"),
        ("--agents dqn:coree=gru", "--core?"),
        ("--agents dqn:core=gruu", "gru?"),
        ("--agents dqn:seed=2", "--seed in --agents dqn:seed=2: the grid sets it"),
        ("--agents dqn:hidden=1,hidden=2", "given twice"),
        ("--games brekout", "breakout"),
        ("--observe flikker:0.5", "flicker"),
        ("--observe flicker:x", "'x' is not a number"),
        ("--observe flicker:2", "--observe"),
        ("--seeds 0", "from 1"),
        ("--frames 0", "at least 1"),
        ("--jobs -1", "from 0"),
        ("--jobs 999", "cores"),
        ("--episode 3", "--episodes"),
        ("--episodes 0", "--episodes 0"),
        ("--epsilon 5", "--epsilon 5.0"),
        ("--eval-seed -1", "--eval-seed -1"),
        ("--agents dqn:observe=full drqn:observe=full --observe flicker", "--observe is full 0 for dqn:observe=full, "),
        ("--agents dqn drqn:samples_per_step=2", "--samples-per-step is 4.0 for dqn, 2.0 for"),
        ("--agents dqn drqn:start_rows=9000", "--start-rows is 20000 for dqn, 9000 for drqn:start_rows=9000"),
        ("--agents dqn drqn:protocol=machado18", "--protocol is v5 for dqn, machado18 for"),
        ("--agents dqn drqn:observe=delay", "--observe is full 0 for dqn, delay"),
        ("--agents dqn drqn:frames=8", "--frames is 4000000 for dqn, 8 for"),
        ("-- --name mine", "--name"),
        ("-- --seed=3", "--seed after --"),
        ("-- --observe flicker", "--observe after --"),
        ("-- --samples-per-steps 1", "--samples-per-step"),
        ("-- --samples-per-step", "write --SETTING VALUE"),
        ("-- --samples-per-step 1 --samples-per-step 2", "given twice"),
        ("-- stray", "write --SETTING VALUE"),
    ],
)
def test_a_wrong_flag_is_one_line(words: str, held: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    own, _, flags = words.partition("-- ") if words.startswith("-- ") else (words, "", "")
    shared = ["--", *flags.split()] if flags else []
    assert compare.main([*own.split(), "--out", str(tmp_path / "study"), *shared]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert held in lines[0]
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (None, "cannot be read"),
        ("[1, 2]", "not a study"),
        ("agents: {dqn: 1}", "one plain value"),
        ("agens: [dqn]", "--agents"),
        ("train: [threads]", "not a study"),
        ("seeds: x", "whole number"),
        ("train: {name: x}", "--name after --"),
        ("{", "cannot be read"),
    ],
)
def test_a_wrong_study_file_is_one_line(
    text: str | None, held: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if text is not None:
        (tmp_path / "study.yaml").write_text(text)
    assert compare.main([str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert held in line


def test_an_unfair_grid_that_is_allowed_is_named() -> None:
    wanted = compare.CompareConfig(agents=("dqn", "drqn:samples_per_step=2"), allow_unfair=True)
    assert compare.unfair(compare.make_cells(wanted, {})) == [
        "--samples-per-step is 4.0 for dqn, 2.0 for drqn:samples_per_step=2"
    ]


def test_an_unfair_study_that_is_allowed_says_so_on_its_page(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--agents", "dqn", "dqn:samples_per_step=2,protocol=machado18", *GRID[3:], "--out", str(copied)]
    assert compare.main([*words, "--", *quick()]) == 2
    assert compare.main([*words, "--allow-unfair", "True", "--", *quick()]) == 0
    capfd.readouterr()
    found = json.loads((copied / "report.json").read_text())
    assert len(found["unfair"]) == 2
    assert found["budgets"] == ["not equal: samples dqn 64, dqn:samples_per_step=2,protocol=machado18 192"]
    page = (copied / "report.html").read_text()
    assert "Not a fair comparison" in page
    assert "Protocol v5 and machado18;" in page


def test_runs_with_other_settings_are_refused(grid: Path, capsys: pytest.CaptureFixture) -> None:
    assert call(grid, samples_per_step=2.0) == 2
    assert "--samples-per-step 1.0 -> 2.0" in capsys.readouterr().err


def test_runs_that_are_longer_than_the_budget_are_refused(grid: Path, capsys: pytest.CaptureFixture) -> None:
    words = [word if word != "800" else "400" for word in GRID]
    assert compare.main([*words, "--out", str(grid), "--", *quick()]) == 2
    assert "more than --frames 400" in capsys.readouterr().err


def test_no_core_is_given_to_two_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 1, 5, 7, 9})
    assert core_shares(2) == [[1, 3], [5, 7]]
    assert core_shares(1) == [[1, 3, 5, 7, 9]]


def test_the_live_table_shows_first_what_runs_and_what_failed() -> None:
    cells = compare.make_cells(compare.CompareConfig(games=("pong", "breakout"), seeds=4), {})  # 16 runs
    grid = Grid(cells, Terms(2, 0.5, 1), "none", Console(force_terminal=True, width=120, height=13, file=StringIO()))
    grid.states[cells[9].folder], grid.states[cells[7].folder] = "training", "failed"
    table = grid._table()
    assert [*table.columns[0].cells][:2] == [cells[9].folder.name, cells[7].folder.name]
    assert table.row_count == 5
    assert "0 of 16 done, 11 not shown" in str(table.caption)


def test_over_seeds_the_interval_is_over_the_means_of_runs() -> None:
    run = {"arm": "dqn", "game": "pong", "screen": "full", "parameters": 1, "frames": 2, "samples": 3}
    run |= {"samples_per_step": 4.0, "training_seconds": 5.0}
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
        {"arm": arm, "game": game, "screen": "full", "seed": seed, "mean": score + seed}
        for seed in (1, 2)
        for game in ("pong", "breakout", "venture")
        for arm, score in (("dqn", 0.0), ("drqn", 10.0))
    ]
    found = report.across_games(runs, wanted=len(runs))
    # Normalised: (10 + s + 20.7) / 35.3 in Pong, (10 + s - 1.7) / 28.8 in Breakout, (10 + s) / 1187.5 in Venture.
    # IQM: of six the middle four, so all but Venture's lower one and Pong's upper one.
    middle = ((10 + 2) / 1187.5 + (10 + 1 - 1.7) / 28.8 + (10 + 2 - 1.7) / 28.8 + (10 + 1 + 20.7) / 35.3) / 4
    assert found["iqm"]["drqn"][0] == pytest.approx(middle)
    assert found["improvement"] == [["drqn", "dqn", 1.0, 1.0, 1.0]]
    assert "improvement" not in report.across_games(runs[:6], wanted=6)
    assert "Not all runs" in report.across_games(runs[:-1], wanted=len(runs))["why_not"]
