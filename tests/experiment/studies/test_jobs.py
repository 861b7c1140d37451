"""Cells are worked on side by side; one that fails does not stop the others; a stop starts no more."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from experiment.settings.config import load
from experiment.studies import jobs as module
from experiment.studies.jobs import Children, Jobs, train_words
from experiment.studies.study import Cell, Study, make_cells
from tests import small


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    study = Study(agents=("dqn", "drqn"), seeds=2, out=tmp_path)
    (tmp_path / "runs").mkdir()
    return Jobs(make_cells(study, {}), study)


def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: str) -> None:
    """A program in the place of train.py."""
    (tmp_path / "train.py").write_text(f"import sys, time\n{train}\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)


def test_a_child_that_fails_is_named_with_its_last_line_and_all_cells_are_tried(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, "print('error: no more electricity', file=sys.stderr); sys.exit(3)")
    jobs.run(Children(), 2)
    assert set(jobs.failures) == {cell.name for cell in jobs.cells}
    reason = jobs.failures["dqn-breakout-s1"]
    assert reason.startswith("train.py ended with status 3: no more electricity; see ")
    assert reason.endswith("dqn-breakout-s1.log")


def test_a_stop_ends_the_children_and_starts_no_more(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, "time.sleep(600)")
    children, started = Children(), list[Cell]()
    enter = Jobs._enter

    def stop_at_the_second(self: Jobs, cell: Cell, state: str) -> None:
        enter(self, cell, state)
        started.append(cell)
        if len(started) == 2:
            children.stop()

    monkeypatch.setattr(Jobs, "_enter", stop_at_the_second)
    jobs.run(children, 2)
    assert jobs.stopped
    assert not jobs.failures
    assert not jobs.results


def test_a_new_run_gets_its_settings_as_a_file_and_an_old_one_goes_on(jobs: Jobs) -> None:
    cell = jobs.cells[0]
    flag, path = train_words(cell)
    assert flag == "--config"
    assert load(Path(path)) == cell.config
    cell.folder.mkdir()
    words = train_words(cell)
    assert words[:4] == ["--resume", str(cell.folder), "--frames", "4000000"]


def test_the_table_shows_running_cells_with_their_newest_metrics(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = jobs.cells[1]
    cell.folder.mkdir()
    rows = [{"frames": 1_000_000, "frames_per_second": 1_000.0, "return_mean": 2.0, "eval_score": None}]
    (cell.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    jobs._enter(cell, "training")
    shown = []
    monkeypatch.setattr(jobs._screen, "update", lambda table: shown.append(table()) or True)
    jobs._show()
    name, bar, score, left = (next(iter(column.cells)) for column in shown[0].columns)
    assert (name, bar.completed, score) == (f"{cell.name} training", 0.25, "score 2.0")
    assert left == "0:50:00 left"  # 3,000,000 frames at 1,000 a second
    assert shown[0].row_count == 1


def test_looking_takes_what_is_there_and_names_what_cannot_be_read(jobs: Jobs) -> None:
    jobs.cells[0].result.parent.mkdir()
    jobs.cells[0].result.write_text("{")
    jobs.run(None, 1)
    assert list(jobs.failures) == [jobs.cells[0].name]
    assert not jobs.results


@pytest.mark.skipif(sys.platform != "linux", reason="a signal of Linux")
def test_a_child_ends_when_its_parent_is_killed() -> None:
    # The parent prints its child's id, once the child has begun; then both wait for ever.
    child = "[sys.executable, '-c', FOLLOW_PARENT, str(os.getpid()), '-c', 'print(1, flush=True); input()']"
    program = (
        "import os, subprocess, sys; from experiment.studies.jobs import FOLLOW_PARENT\n"
        f"child = subprocess.Popen({child}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); child.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=small.ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    orphan = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    orphan.wait(60)  # raises if it goes on
