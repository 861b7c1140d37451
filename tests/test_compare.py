"""A study trains, scores and reports a grid; finished work is not done again; unfair grids are
refused."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import compare
from experiment import build
from experiment.runs.console import text
from experiment.scores import video
from experiment.settings.config import UsageError
from experiment.store.provenance import commit
from experiment.studies.jobs import Workers
from experiment.studies.study import Study, collect, finished, make_cells
from tests import small

GRID = (
    "--agents dqn drqn:core=gru --games breakout --frames 800 --episodes 2 --epsilon 0.5 "
    "--video none"
).split()
QUICK = (
    "--num-envs 2 --replay-rows 500 --start-rows 100 --hidden 32 --batch-size 4 "
    "--samples-per-step 1 --torso dqn-2013 --eval-frames 400 --eval-episodes 1 --eval-epsilon 0.5 "
    "--log-frames 400 --checkpoint-frames 400 --track none"
).split()
CELL = "dqn-breakout-s1"


def call(out, *words, train=()):
    return compare.main([*GRID, "--out", str(out), *words, "--", *QUICK, *train])


def run_in_process(*words):
    study, shared = compare.read_command([*words, "--", *QUICK])
    small.run_cells(make_cells(study, shared), study)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    out = tmp_path_factory.mktemp("grid")
    run_in_process(*GRID, "--out", str(out))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "CLIP_SECONDS", 1)
        assert call(out) == 0
    return out


@pytest.fixture
def copied(grid, tmp_path, monkeypatch):
    """A copy of the finished grid in which nothing may be run."""
    shutil.copytree(grid, tmp_path / "study")
    monkeypatch.setattr(Workers, "_call", lambda *_: pytest.fail("finished work was done again"))
    monkeypatch.setattr(video, "CLIP_SECONDS", 1)
    return tmp_path / "study"


def report(out):
    return SimpleNamespace(**json.loads((out / "report.json").read_text()))


def test_both_agents_are_trained_scored_and_reported(grid) -> None:
    data = report(grid)
    assert [finding["agent"] for finding in data.findings] == ["dqn", "drqn:core=gru"]
    for run in data.runs:
        assert run["mean"] == sum(run["scores"]) / 2
        assert [point[0] for point in run["curve"]] == [400, 800]
        assert 0 < run["curve_seconds"][0] < run["curve_seconds"][1] <= run["training_seconds"]
        assert (run["machine"]["threads"], run["machine"]["commit"]) == (1, commit())
    # From the 50th step of both envs on, one sample a step of an env, in updates of 4 x 16 rows.
    assert {run["samples"] for run in data.runs} == {64}
    lines = (grid / "report.md").read_text().splitlines()
    names = [re.sub(r".*\]\(|\)$", "", line) for line in lines if line.startswith(("![", "- ["))]
    assert len(names) == 3  # two curves and the final scores
    assert all((grid / name).stat().st_size for name in names)
    # A row of names; of each agent two evaluations, a mean and two episodes.
    assert len((grid / "scores.csv").read_text().splitlines()) == 1 + 2 * (2 + 1 + 2)


def test_every_metric_of_the_last_row_is_in_the_report(grid) -> None:
    rows = [json.loads(line) for line in (grid / f"runs/{CELL}/metrics.jsonl").open()]
    last = [row for row in rows if "loss" in row][-1]
    assert report(grid).runs[0]["metrics"] == last
    lines = (grid / "report.md").read_text().replace("\\", "").splitlines()
    cells = [line.split(" | ") for line in lines]
    values = {c[0].strip("| "): c[1] for c in cells if len(c) == 3}
    for name, value in last.items():
        assert values[name] == ("-" if value is None else text(float(value)))


def test_a_run_of_another_length_is_no_result(copied) -> None:
    study, shared = compare.read_command([*GRID, "--out", str(copied), "--", *QUICK])
    cell, _ = make_cells(study, shared)
    before = cell.result.read_text()
    for frames, says in ((4_000, "stopped at 800 of 4,000 frames"), (400, "has 800 frames, more")):
        with pytest.raises(UsageError, match=says):
            collect(replace(cell, config=replace(cell.config, frames=frames)), study)
    assert cell.result.read_text() == before


def test_the_second_call_runs_nothing_and_writes_the_same_report(copied) -> None:
    def read():
        assert call(copied) == 0
        files = ("report.json", "scores.csv", "report.md", "report.html")
        return [(copied / name).read_bytes() for name in files]

    before = read()
    shutil.rmtree(copied / "runs")  # results alone are enough, in another clone
    assert read() == before


def test_other_settings_are_refused_but_reported_where_nothing_is_run(copied, error_of) -> None:
    path = copied / "results" / f"{CELL}.json"
    data = json.loads(path.read_text())
    data |= {"settings": data["settings"] | {"hidden": 77}, "samples": 0}
    path.write_text(json.dumps(data))
    assert "--hidden 77 -> 32" in error_of(call, copied)
    assert call(copied, "--jobs", "0") == 0
    assert report(copied).warnings == [
        "dqn: trained with other settings: --hidden 77 -> 32",
        f"Untrained, or of an unknown number of updates: {CELL}",
    ]
    assert "UNTRAINED" in (copied / "report.md").read_text()
    path.unlink()
    assert "--discount 0.99 -> 0.5" in error_of(call, copied, train=["--discount", "0.5"])
    path.write_text("{")
    for jobs in ("0", "1"):
        assert str(path) in error_of(call, copied, "--jobs", jobs)
    shutil.rmtree(copied / "runs")
    path.write_bytes((copied / "results" / "drqn-core-gru-breakout-s1.json").read_bytes())
    for frames, says in (("1600", "its run folder is missing"), ("400", "800 frames, more than")):
        words = [word.replace("800", frames) for word in GRID]
        assert says in error_of(compare.main, [*words, "--out", str(copied), "--", *QUICK])


def test_runs_that_need_more_memory_than_is_free_are_refused(
    tmp_path, monkeypatch, error_of
) -> None:
    monkeypatch.setattr(build, "expected_bytes", lambda config: {"program": 0, "replay": 10**9})
    monkeypatch.setattr(compare, "free_memory", lambda: 15 * 10**8)
    error = error_of(call, tmp_path / "study", "--jobs", "2")
    assert "need about 2.0 GB of memory, 1.5 GB are free; --jobs 1 fits" in error
    monkeypatch.setattr(compare, "free_memory", lambda: 10**8)  # less since the check of each run
    assert "0.1 GB are free; not even one fits: lower --replay-rows" in error_of(call, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_stopped_study_goes_on_and_ends_as_if_never_stopped(grid, tmp_path) -> None:
    words = ["--agents", "dqn", *GRID[3:], "--out", str(tmp_path)]
    command = [sys.executable, str(small.ROOT / "compare.py"), *words, "--", *QUICK]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = tmp_path / "runs" / CELL / "metrics.jsonl"
    while not metrics.exists() and started.poll() is None:
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    output, _ = started.communicate(timeout=300)
    assert started.returncode == 130, output
    assert "repeat the command to continue" in output
    assert not (tmp_path / "report.md").exists()
    run_in_process(*words)
    one, other = (small.result(out / "results" / f"{CELL}.json") for out in (grid, tmp_path))
    assert one == other


def test_a_failed_run_is_named_and_the_others_go_on(copied, monkeypatch, capsys) -> None:
    (copied / "results" / f"{CELL}.json").unlink()
    shutil.rmtree(copied / "runs" / CELL)
    reason = "train.py ended with status 2: no more electricity"

    def fail(*_):
        raise UsageError(reason)

    monkeypatch.setattr(Workers, "_call", fail)
    assert call(copied) == 1
    assert f"failed: {CELL}: {reason}" in capsys.readouterr().err
    assert [run["agent"] for run in report(copied).runs] == ["drqn:core=gru"]
    assert report(copied).warnings == [f"Not finished: {CELL}"]


def test_a_report_has_short_films_unless_the_study_wants_none(copied) -> None:
    assert "](films/" not in (copied / "report.md").read_text()
    words = [*GRID[:-1], "best", "--out", str(copied)]
    assert compare.main([*words, "--", *QUICK]) == 0
    films = re.findall(r"\]\((films/.+\.mp4)\)", (copied / "report.md").read_text())
    assert len(films) == 4  # of two agents, the best and the median episode
    assert all((copied / film).stat().st_size for film in films)


def test_an_unfair_study_is_refused_or_says_so_in_its_report(copied, error_of) -> None:
    agent = "drqn:core=gru,eval_episodes=2"
    line = f"Not a fair comparison: --eval-episodes is 1, but 2 for {agent}"
    words = ["--agents", "dqn", agent, *GRID[3:], "--out", str(copied), "--jobs", "0"]
    assert line in error_of(compare.main, [*words, "--", *QUICK])
    assert compare.main([*words, "--allow-unfair", "True", "--", *QUICK]) == 0
    assert report(copied).warnings[0] == line
    for field in compare.FAIR:
        other = {"protocol": "machado18", "eval_epsilon": 0.5}.get(field, 77)
        (line,) = compare.unfair(make_cells(Study(agents=("dqn", f"drqn:{field}={other}")), {}))
        assert re.search(rf"{other}(\.0)? for drqn:{field}={other}$", line)


def test_a_yaml_file_says_the_same_as_flags_and_flags_override_it(tmp_path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "agents: [dqn, 'drqn:core=gru']\nseeds: 3\nframes: 4_000\n"
        "train: {eval-episodes: 7, threads: 1, reward-clip: null}\n"
    )
    study, shared = compare.read_command([str(path), "--seeds", "2", "--", "--threads=2"])
    assert study == Study(agents=("dqn", "drqn:core=gru"), seeds=2, frames=4_000)
    assert shared == {"eval_episodes": 7, "threads": "2", "reward_clip": None}
    cells = make_cells(study, shared)
    in_turn = [(agent, seed) for seed in (1, 2) for agent in study.agents]
    assert [(c.agent, c.config.seed) for c in cells] == in_turn
    for c in cells:
        assert (c.config.threads, c.config.reward_clip, c.config.eval_episodes) == (2, None, 7)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[1, 2]", "study.yaml"),
        ("agents: {dqn: 1}", "--agents"),
        ("agens: [dqn]", "Did you mean agents?"),
        ("train: [threads]", "train: must hold settings"),
        ("train: {threads: null}", "study.yaml: --threads None: null is not allowed here; leave"),
        (
            "games: null",
            "study.yaml: --games None: null is not allowed here; leave the setting out",
        ),
        ("games: [pong, brekout]", "study.yaml: --games brekout: "),
        ("train: []", "train: must hold settings"),
        ("train:\nseeds: null", "study.yaml: --seeds None"),  # an empty train: has no settings
        ("seeds: x", "--seeds x"),
        ("seeds: null", "--seeds None"),
        ("train: {name: x}", "--name: set by the grid"),
        ("train: {core-size: 8}\nagents: [dqn]", "--core-size 8: has no effect with --core identi"),
        ("gpus-per-run: 1", "--gpus-per-run 1: has no effect without --ray"),
        ("{", "cannot be read"),
    ],
)
def test_a_wrong_study_is_one_line_and_writes_nothing(text, part, tmp_path, error_of) -> None:
    (path := tmp_path / "study.yaml").write_text(text)
    assert part in error_of(compare.main, [str(path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_setting_with_an_effect_in_one_run_of_several_is_accepted() -> None:
    make_cells(*compare.read_command("--agents dqn drqn -- --core-size 8".split()))


def test_commands_of_the_documentation_go_on_with_the_committed_studies(monkeypatch) -> None:
    monkeypatch.chdir(small.ROOT)
    text = Path("docs/results.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^    python compare\.py (.+)$", text, flags=re.MULTILINE)
    assert len(commands) == 6
    for words in commands:
        study, shared = compare.read_command(shlex.split(words))
        for cell in make_cells(study, shared):
            result = finished(cell, study)
            assert result
            assert result.other_settings(cell.config) == []
