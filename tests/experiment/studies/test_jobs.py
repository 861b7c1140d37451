"""Cells are worked on side by side; a failure does not stop the others; a stop starts no more."""

import json
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from experiment.settings.cli import parse_train
from experiment.settings.config import to_yaml
from experiment.studies import jobs as module
from experiment.studies.jobs import FOLLOW_PARENT, Jobs, Workers, train_words
from experiment.studies.study import Study, make_cells


@pytest.fixture
def jobs(tmp_path) -> Jobs:
    study = Study(agents=("dqn", "drqn"), seeds=2, out=tmp_path)
    return Jobs(make_cells(study, {}), study)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Writes a program in the place of train.py."""
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return (tmp_path / "train.py").write_text


def test_a_failed_child_is_named_with_its_last_line_and_all_cells_run(
    jobs, program, monkeypatch
) -> None:
    """Its log is UTF-8, whatever the locale of this process."""
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    program("import sys\nprint('error: no more \u00e9', file=sys.stderr); sys.exit(3)")
    jobs.run(Workers(), 2)
    assert set(jobs.failures) == {cell.name for cell in jobs.cells}
    reason = jobs.failures["dqn-breakout-s1"]
    assert reason.startswith("train.py ended with status 3: no more \u00e9; see ")
    assert reason.endswith("dqn-breakout-s1.log")


def test_a_run_that_goes_on_gets_every_setting_that_may_change_and_has_changed(jobs) -> None:
    cell = jobs.cells[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / "config.yaml").write_text(to_yaml(cell.config))
    assert train_words(cell) == ["--resume", str(cell.folder)]
    changes = dict(device="cuda", compile=True, threads=2, frames=9, track="all")
    words = train_words(replace(cell, config=replace(cell.config, **changes)))
    assert set(words[2::2]) == {f"--{name}" for name in changes}
    config, folder = parse_train(words)
    assert (vars(config), folder) == (vars(cell.config) | changes, cell.folder)


def test_a_stop_ends_the_children_and_starts_no_more(jobs, program, monkeypatch) -> None:
    program("import time\ntime.sleep(600)")
    workers, show, looks = Workers(), jobs._show, []

    def stop_at_the_third_look() -> None:
        show()
        looks.append(len(jobs._states))
        if len(looks) == 3:
            workers.stop()

    monkeypatch.setattr(jobs, "_show", stop_at_the_third_look)
    jobs.run(workers, 2)
    assert max(looks) == 2
    assert jobs.stopped
    assert (jobs.failures, jobs.results) == ({}, {})
    assert len([cell for cell in jobs.cells if cell.log.exists()]) == 2


def test_a_folder_without_settings_is_a_run_that_has_not_begun(jobs) -> None:
    cell = jobs.cells[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / "lock").touch()  # left by a killed command
    assert parse_train(train_words(cell)) == (cell.config, cell.folder)


def test_running_cells_are_shown_with_their_newest_metrics(jobs, monkeypatch) -> None:
    cell, shown = jobs.cells[1], []
    cell.folder.mkdir(parents=True)
    row = dict(frames=1_000_000, frames_per_second=1_000.0, return_mean=2.0, eval_score=None)
    (cell.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    jobs._states[cell.name] = "training"
    monkeypatch.setattr(jobs._screen, "update", lambda panel: shown.append(str(panel())) or True)
    jobs._show()
    first, second = shown[0].splitlines()
    # 3,000,000 frames at 1,000 a second
    assert first == f"{cell.name}: training, 25%, score so far 2.0, 0:50:00 left"
    assert second.startswith("0 of 4 runs")


@pytest.mark.skipif(sys.platform != "linux", reason="a signal of Linux")
def test_a_child_ends_when_its_parent_is_killed() -> None:
    # The parent prints its child's id, once the child has begun; then both wait for ever.
    program = f"""
import os, subprocess, sys
words = ["-c", {FOLLOW_PARENT!r}, str(os.getpid()), "-c", "print(1, flush=True); input()"]
child = subprocess.Popen([sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline(); print(child.pid, flush=True); child.wait()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    orphan = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    orphan.wait(60)  # raises if it goes on
