"""What may go wrong around a run, and what a stranger's run may not do."""

import contextlib
import fcntl
import os
import pty
import select
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from experiment.runs.console import Display
from experiment.runs.run import Run
from experiment.store import checkpoint
from experiment.store.checkpoint import load_latest, saved_frames
from tests import small


def _nan_loss(run: Run) -> None:
    run.learner.online.head.advantage.bias.data[0] = float("nan")


def _nan_weight_unseen(run: Run) -> None:
    """Finite losses, but a memory of the optimiser that is not finite."""
    run.learner.optimizer.state[next(iter(run.learner.online.parameters()))]["exp_avg"][:] = float(
        "inf"
    )
    # No update comes any more: only rows and saves can notice.
    run.config.__dict__["samples_per_step"] = 1e-9


@pytest.mark.parametrize("spoil", [_nan_loss, _nan_weight_unseen])
def test_what_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    spoil: Callable[[Run], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    small.at_frame(monkeypatch, 1_300, spoil)
    words = ["drqn", "--runs-dir", str(tmp_path), "--name", "run", *small.flags()]
    assert small.train_program.main(words) == 2
    error = capsys.readouterr().err
    assert "not finite" in error
    assert "update " in error
    assert "last good checkpoint, of 800 frames, is kept" in error
    assert len(error.splitlines()) == 1
    assert saved_frames(tmp_path / "run") == [800]
    saved = load_latest(tmp_path / "run", training=True, report=pytest.fail)
    assert all(torch.isfinite(t).all() for t in saved.weights.values())


def fill(path: Path) -> None:
    """Write a file until there is no room for another byte."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1_000))


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    # Many rows: more than the last page of the file takes.
    settings = {"checkpoint_frames": 400, "eval_frames": 700, "log_frames": 40}
    whole = small.start(tmp_path, "whole", **settings)
    advance = Run.advance

    def fill_and_clear(run: Run, *arguments: Any) -> None:
        advance(run, *arguments)
        if run.frames == 504:
            fill(disk / "ballast")
        if run.frames == 1_304:
            assert run.metrics.pending
            assert saved_frames(disk / "run") == [400]
            (disk / "ballast").unlink()

    monkeypatch.setattr(Run, "advance", fill_and_clear)
    folder = small.start(disk, "run", **settings)
    out = " ".join(capsys.readouterr().out.split())
    assert "checkpoint at 800 frames not saved (" in out
    assert "evaluation at 704 frames: its file is not written (No space left on device)" in out
    assert "checkpoints are saved again" in out
    lost = small.differences(whole, folder)
    assert [name for name in lost if not name.startswith(("eval/000000000704", "episodes/"))] == []


def test_without_permission_to_save_training_goes_on_and_the_end_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    assert (
        small.train_program.main(
            ["dqn", "--runs-dir", str(tmp_path), "--name", "run", *small.flags("dqn")]
        )
        == 2
    )
    captured = capsys.readouterr()
    assert captured.out.count("not saved (Permission denied)") == 1
    assert "the last checkpoint could not be saved" in captured.err
    assert small.rows(tmp_path / "run")[-1]["frames"] == 1_600


def test_a_second_process_on_one_run_is_refused(copied: Path, capsys: pytest.CaptureFixture):
    with checkpoint.lock(copied):
        assert small.resume(copied, "--frames", "9999") == 2
    assert "another process is using this run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), BrokenPipeError(32, "Broken pipe"), SystemExit(1)]
)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_that_is_gone_does_not_end_the_run(error: BaseException, terminal: bool):
    class Gone:
        encoding = "utf-8"

        def write(self, text: str) -> int:
            raise error

        flush = fileno = isatty = lambda self: False

    with Display("title", 100, Console(file=Gone(), force_terminal=terminal)) as display:  # type: ignore[arg-type]
        display.say("anything")
        display.show({"frames": 1})


def test_a_real_terminal_that_is_closed_ends_the_run_with_a_checkpoint(
    finished: Path, tmp_path: Path
):
    ours, theirs = pty.openpty()
    words = small.command("drqn", "--runs-dir", str(tmp_path), "--name", "run", *small.flags())

    def own_the_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        words,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=small.environment(),
        preexec_fn=own_the_terminal,
    )
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


def test_a_tracker_that_cannot_work_does_not_harm_a_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TRACKIO_DIR", "/dev/null/impossible")
    monkeypatch.setenv("HOME", "/dev/null")
    other = small.start(tmp_path, "run", track="local")
    assert small.differences(finished, other) == ["meta config"]
    assert "/dev/null" in (other / "tracking.log").read_text()  # it did try


def test_a_metrics_file_that_was_cut_is_one_clear_line(copied: Path, capsys: pytest.CaptureFixture):
    path = copied / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert small.resume(copied, "--frames", "2400") == 2
    assert "metrics.jsonl" in capsys.readouterr().err
    path.unlink()
    assert small.resume(copied, "--frames", "2400") == 2
    assert "metrics.jsonl" in capsys.readouterr().err


CONFIGS = {
    "lists_of_lists": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
    )
    + "game: *j\n",
    "only_lists": "game: [" * 5000,
    "a_date": "game: 2024-99-99",
    "an_object": "!!python/object/apply:os.system ['touch /tmp/owned']",
    "not_text": "\x00",
    "a_list": "- 1",
    "path_as_preset": "preset: ../../x\ngame: breakout",
    "huge": "#" * 10**6,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_hostile_settings_are_one_clear_line(
    name: str, copied: Path, capsys: pytest.CaptureFixture
):
    (copied / "config.yaml").write_text(CONFIGS[name])
    assert small.resume(copied) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert len(error) < 500


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture):
    words = [
        "drqn",
        "--runs-dir",
        str(tmp_path),
        "--name",
        "run",
        *small.flags(replay_rows=90, start_rows=50),
    ]
    assert small.train_program.main(words) == 2
    assert "--replay-rows 90" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
