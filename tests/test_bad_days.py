"""What may go wrong around a run, and what a stranger's run may not do."""

import contextlib
import fcntl
import os
import pty
import select
import subprocess
import termios
from unittest.mock import Mock

import pytest
from rich.console import Console

from experiment.runs.console import Display
from experiment.store import checkpoint
from experiment.store.checkpoint import load_latest, saved_frames
from tests import small


def nan_loss(run):
    run.learner.online.head.advantage.bias.data[0] = float("nan")


def infinity_unseen(run):
    """Finite losses, and no update any more: only rows and saves can notice."""
    weight = next(iter(run.learner.online.parameters()))
    run.learner.optimizer.state[weight]["exp_avg"][:] = float("inf")
    run.config.__dict__["samples_per_step"] = 1e-9


@pytest.mark.parametrize("spoil", [nan_loss, infinity_unseen])
def test_non_finite_numbers_stop_a_run_unsaved(spoil, tmp_path, monkeypatch, error_of) -> None:
    small.at_frame(monkeypatch, 1_300, spoil)
    error = error_of(small.train_program.main, small.words(tmp_path))
    for part in ("not finite", "update ", "last good checkpoint, of 800 frames, is kept"):
        assert part in error
    assert saved_frames(tmp_path / "run") == [800]
    saved = load_latest(tmp_path / "run", training=True, report=pytest.fail)
    assert all(tensor.isfinite().all() for tensor in saved.weights.values())


def fill(path):
    """Write a file until there is no room for another byte."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1_000))


def test_a_disk_that_is_full_for_a_while_costs_nothing(disk, tmp_path, monkeypatch, capsys) -> None:
    # Many rows: more than the last page of the file takes.
    settings = {"checkpoint_frames": 400, "eval_frames": 700, "log_frames": 40}
    whole = small.start(tmp_path, "whole", **settings)

    def clear(run):
        assert run.metrics.pending
        assert saved_frames(disk / "run") == [400]
        (disk / "ballast").unlink()

    small.at_frame(monkeypatch, 504, lambda run: fill(disk / "ballast"))
    small.at_frame(monkeypatch, 1_304, clear)
    folder = small.start(disk, "run", **settings)
    out = " ".join(capsys.readouterr().out.split())
    assert "checkpoint at 800 frames not saved (" in out
    assert "evaluation at 704 frames: its file is not written (No space left on device)" in out
    assert "checkpoints are saved again" in out
    lost = small.differences(whole, folder)
    assert [name for name in lost if not name.startswith(("eval/000000000704", "episodes/"))] == []


def test_without_permission_to_save_training_goes_on(tmp_path, monkeypatch, capsys) -> None:
    refuse = Mock(side_effect=PermissionError(13, "Permission denied"))
    monkeypatch.setattr(checkpoint, "save_file", refuse)
    assert small.train_program.main(small.words(tmp_path, kind="dqn")) == 2
    captured = capsys.readouterr()
    assert captured.out.count("not saved (Permission denied)") == 1
    assert "the last checkpoint could not be saved" in captured.err
    assert small.rows(tmp_path / "run")[-1]["frames"] == 1_600


def test_a_second_process_on_one_run_is_refused(copied, error_of) -> None:
    with checkpoint.lock(copied):
        error = error_of(small.resume, copied, "--frames", "9999")
    assert "another process is using this run" in error


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), BrokenPipeError(32, "Broken pipe"), SystemExit(1)]
)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_that_is_gone_does_not_end_the_run(error, terminal) -> None:
    no = Mock(return_value=False)
    gone = Mock(encoding="utf-8", write=Mock(side_effect=error), flush=no, fileno=no, isatty=no)
    with Display("title", 100, Console(file=gone, force_terminal=terminal)) as display:
        display.say("anything")
        display.show({"frames": 1})


def test_a_real_terminal_that_is_closed_ends_the_run_with_a_checkpoint(finished, tmp_path) -> None:
    ours, theirs = pty.openpty()

    def own_the_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    terminal = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    how = {"env": small.environment(), "preexec_fn": own_the_terminal, **terminal}
    process = subprocess.Popen(small.command(*small.words(tmp_path)), **how)
    os.close(theirs)
    folder = tmp_path / "run"
    while process.poll() is None and not (folder / "checkpoint" / f"{800:012d}").exists():
        if select.select([ours], [], [], 0.002)[0]:
            with contextlib.suppress(OSError):  # it has ended
                os.read(ours, 65_536)
    os.close(ours)  # the window is gone: SIGHUP, and every write to it fails
    process.wait(timeout=600)
    assert saved_frames(folder)[0] >= 800
    assert not (folder / "checkpoint" / ".writing").exists()
    assert small.resume(folder) == 0
    assert small.differences(finished, folder) == []


def test_a_tracker_that_cannot_work_does_not_harm_a_run(finished, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", "/dev/null/impossible")
    monkeypatch.setenv("HOME", "/dev/null")
    other = small.start(tmp_path, "run", track="local")
    assert small.differences(finished, other) == ["meta config"]
    assert "/dev/null" in (other / "tracking.log").read_text()  # it did try
