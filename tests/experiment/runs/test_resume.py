"""A run that was stopped and resumed is, bit for bit, the run that was never stopped."""

import os
import shutil
import signal
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from experiment.runs.run import Run
from experiment.runs.session import FREE_ON_RESUME, check_same
from experiment.settings.config import Config, UsageError, flag, preset
from experiment.store.checkpoint import load_latest, saved_frames
from tests import small

# 568 and 1,176 are neither at a row, nor at a checkpoint, nor at an episode's end; 8 and 1,592 the
# first and last step.
CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "drqn_uniform": ("drqn", (568, 1_176), {"observe": "flicker", "seed": 3}),
    "drqn_prioritised": (
        "drqn",
        (8, 800, 1_592),
        {"game": "space_invaders", "priority_exponent": 0.9, "target_period": 3},
    ),
    "dqn_prioritised": (
        "dqn",
        (568, 1_176),
        {
            "observe": "flicker",
            "priority_exponent": 0.9,
            "exploration": "per-actor",
            "head": "qr",
            "torso": "lean",
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_is_never_stopped(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name, stops, settings = CASES[case]
    whole, parts = small.start(tmp_path, "whole", name, **settings), tmp_path / "parts"
    for frame in stops:
        with monkeypatch.context() as patch:
            small.at_frame(patch, frame, small.ask_to_stop)
            if parts.exists():
                small.resume(parts)
            else:
                small.start(tmp_path, "parts", name, **settings)
        assert saved_frames(parts)[0] == frame
        state = load_latest(parts, training=True, report=pytest.fail).training
        # In the middle of episodes.
        assert (state["envs.episode_start"] < state["envs.tape_length"]).any()
    small.resume(parts)
    assert small.differences(whole, parts) == []


def test_a_run_that_was_moved_and_damaged_goes_on_from_the_checkpoint_before_and_ends_the_same(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    with monkeypatch.context() as patch:
        small.at_frame(patch, 1_240, small.ask_to_stop)
        parts = small.start(tmp_path, "parts")
    assert saved_frames(parts) == [1_240, 800]
    path = parts / "checkpoint" / f"{1_240:012d}" / "training.safetensors"
    data = bytearray(path.read_bytes())
    data[-7] ^= 16
    path.write_bytes(data)
    moved = tmp_path / "elsewhere" / "other-name"
    moved.parent.mkdir()
    parts.rename(moved)
    monkeypatch.chdir(moved.parent)
    assert small.resume(Path("other-name")) == 0
    out = capsys.readouterr().out
    assert out.count("damaged checkpoint") == 1
    assert "resumed at 800 frames" in out
    assert small.differences(finished, moved) == []
    assert not parts.exists()


def test_a_stop_puts_an_evaluation_off_to_the_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = {"frames": 1_000, "eval_frames": 1_000}
    whole = small.start(tmp_path, "whole", **settings)
    with monkeypatch.context() as patch:
        evaluate_if_due = Run.evaluate_if_due

        def stop_in_evaluation(run: Run) -> None:
            run.stop_asked = run.stop_asked or run.frames >= 1_000
            evaluate_if_due(run)

        patch.setattr(Run, "evaluate_if_due", stop_in_evaluation)
        parts = small.start(tmp_path, "parts", **settings)
    assert not (parts / "eval").exists()
    assert small.resume(parts) == 0
    assert small.differences(whole, parts) == []


def test_resuming_a_finished_run_changes_nothing(copied: Path, capsys: pytest.CaptureFixture[str]):
    before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    assert small.resume(copied) == 0
    after = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    # It has its new place.
    assert [p for p in before if after.get(p) != before[p] and p.name != "config.yaml"] == []
    assert "bit for bit" not in capsys.readouterr().out


def test_a_longer_run_is_the_run_that_was_that_long_from_the_start(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    grown = small.start(tmp_path, "grown", frames=1_000)  # not where a row falls
    assert small.resume(grown, "--frames", "1600") == 0
    assert "--frames 1000 -> 1600" in capsys.readouterr().out
    assert small.differences(finished, grown) == [
        "rows"
    ]  # the old end keeps its row, which parts the means of the next
    at = [row["frames"] for row in small.rows(grown)]
    assert sorted({*at} - {1_000}) == [row["frames"] for row in small.rows(finished)]
    assert small.resume(grown) == 0  # the new length was kept: nothing is left to do
    assert saved_frames(grown)[0] == 1_600


def test_a_run_killed_before_its_first_checkpoint_begins_again_and_a_longer_one_does_not(
    finished: Path, copied: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.rmtree(copied / "checkpoint")
    rows = (copied / "metrics.jsonl").read_bytes()
    assert small.resume(copied) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
    assert (copied / "metrics.jsonl").read_bytes() == rows
    lines = rows.splitlines(keepends=True)
    (copied / "metrics.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:30])
    assert small.resume(copied) == 0
    assert "starts from its first frame" in capsys.readouterr().out
    assert small.differences(finished, copied) == []


@pytest.mark.parametrize(
    ("number", "ignored"), [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGHUP, True)]
)
def test_a_signal_stops_the_run_with_a_checkpoint_and_one_that_was_ignored_stays_ignored(
    number: signal.Signals, ignored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`nohup` ignores SIGHUP for the program it starts."""
    before = signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        small.at_frame(monkeypatch, 200, lambda run: os.kill(os.getpid(), number))
        folder = small.start(tmp_path, "run", frames=600)
    finally:
        signal.signal(number, before)
    assert saved_frames(folder) == [600 if ignored else 200]


def test_every_change_of_meaning_is_shown_and_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
):
    config = preset("drqn")
    for name in {field.name for field in fields(Config)} - FREE_ON_RESUME:
        other = replace(config)
        other.__dict__[name] = "another"  # whatever the setting's type
        with pytest.raises(
            UsageError,
            match=rf"would change the meaning of the run: {flag(name)} .* -> another; start",
        ):
            check_same(config, other)
    before = (finished / "metrics.jsonl").read_bytes()
    assert small.resume(finished, "--seed", "2") == 2
    assert "--seed 1 -> 2" in capsys.readouterr().err
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_free_changes_and_what_exactness_is_lost_are_shown_and_the_changes_are_kept(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    elsewhere = {"precision": "bf16", "machine": {"cpu": "Z80", "torch": "0.1", "ale_py": "0.1"}}
    small.sign(copied / "checkpoint" / f"{1_600:012d}", lambda manifest: manifest | elsewhere)
    monkeypatch.setattr("experiment.build.has_bf16", lambda device: False)
    assert (
        small.resume(copied, "--frames", "1640", "--checkpoint-frames", "500", "--threads", "2")
        == 0
    )
    out = capsys.readouterr().out
    for change in ("--frames 1600 -> 1640", "--checkpoint-frames 800 -> 500", "--threads 1 -> 2"):
        assert f"changed     {change}" in out
    for line in (
        "precision 'bf16' -> 'fp32'",
        "cpu 'Z80' -> ",
        "torch '0.1' -> ",
        "ale_py '0.1' -> ",
    ):
        assert f"no longer bit for bit the same run: {line}" in out
    assert "cpu, fp32" in out
    assert saved_frames(copied)[0] == 1_640
    assert "checkpoint_frames: 500\n" in (copied / "config.yaml").read_text()
