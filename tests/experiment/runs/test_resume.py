"""A run that was stopped and resumed is, bit for bit, the run that was never stopped."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from experiment.runs.run import Run
from experiment.store.checkpoint import load_latest, saved_frames
from tests import small

CASES = {
    "drqn_uniform_flicker": ("drqn", {"observe": "flicker", "seed": 3, "eval_frames": 700}),
    "drqn_prioritised": ("drqn", {"game": "space_invaders", "priority_exponent": 0.9, "target_period": 3}),
    "dqn_prioritised_flicker": (
        "dqn",
        {
            "observe": "flicker",
            "priority_exponent": 0.9,
            "exploration": "per-actor",
            "eval_frames": 700,
            "head": "qr",
            "torso": "lean",
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_twice_is_never_stopped(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    preset, settings = CASES[case]
    whole = small.start(tmp_path, "whole", preset, **settings)
    parts = tmp_path / "parts"
    for frame in (568, 1_176):  # neither at a row, nor at a checkpoint, nor at an episode's end
        with monkeypatch.context() as patch:
            small.at_frame(patch, frame, small.ask_to_stop)
            if frame == 568:
                small.start(tmp_path, "parts", preset, **settings)
            else:
                small.resume(parts)
        assert saved_frames(parts)[0] == frame
        state = load_latest(parts, training=True, report=pytest.fail).training
        assert (state["envs.episode_start"] < state["envs.tape_length"]).any()  # in the middle of episodes
    small.resume(parts)
    assert small.differences(whole, parts) == []


def test_stops_at_the_first_step_at_a_checkpoint_and_before_the_last_step_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = {"observe": "flicker", "priority_exponent": 0.9, "target_period": 4}
    whole = small.start(tmp_path, "whole", **settings)
    for frame in (8, 800, 1_592):
        with monkeypatch.context() as patch:
            small.at_frame(patch, frame, small.ask_to_stop)
            if frame == 8:
                parts = small.start(tmp_path, "parts", **settings)
            else:
                small.resume(parts)
        assert saved_frames(parts)[0] == frame
    small.resume(parts)
    assert small.differences(whole, parts) == []


def test_after_damage_the_run_goes_on_from_the_checkpoint_before_and_ends_the_same(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with monkeypatch.context() as patch:
        small.at_frame(patch, 1_240, small.ask_to_stop)
        parts = small.start(tmp_path, "parts")
    assert saved_frames(parts) == [1_240, 800]
    path = parts / "checkpoint" / f"{1_240:012d}" / "training.safetensors"
    data = bytearray(path.read_bytes())
    data[-7] ^= 16
    path.write_bytes(data)
    capsys.readouterr()
    assert small.resume(parts) == 0
    out = capsys.readouterr().out
    assert out.count("damaged checkpoint") == 1
    assert "resumed at 800 frames" in out
    assert small.differences(finished, parts) == []


def test_a_stop_puts_an_evaluation_off_to_the_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = small.start(tmp_path, "whole", eval_frames=1_000)
    with monkeypatch.context() as patch:
        evaluate_if_due = Run.evaluate_if_due

        def stop_in_evaluation(run: Run) -> None:
            run.stop_asked = run.stop_asked or run.frames >= 1_000
            evaluate_if_due(run)

        patch.setattr(Run, "evaluate_if_due", stop_in_evaluation)
        parts = small.start(tmp_path, "parts", eval_frames=1_000)
    assert not (parts / "eval").exists()
    assert small.resume(parts) == 0
    assert small.differences(whole, parts) == []


def test_resuming_a_finished_run_changes_nothing(copied: Path, capsys: pytest.CaptureFixture[str]):
    before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    assert small.resume(copied) == 0
    after = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    assert [p for p in before if after.get(p) != before[p] and p.name != "config.yaml"] == []  # it has its new place
    assert "bit for bit" not in capsys.readouterr().out


def test_a_longer_run_is_the_run_that_was_that_long_from_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    long = small.start(tmp_path, "long", eval_frames=800)
    grown = small.start(tmp_path, "grown", frames=1_000, eval_frames=800)  # not where a row or an evaluation falls
    assert small.resume(grown, "--frames", "1600") == 0
    assert "--frames 1000 -> 1600" in capsys.readouterr().out
    # The old end keeps its row and its evaluation; they part the means of one row in two. All else is the same.
    assert small.differences(long, grown) == ["eval/000000001000.json", "eval/000000001000/episode-000.json", "rows"]
    at = [row["frames"] for row in small.rows(grown)]
    assert [f for f in at if f != 1_000] == [row["frames"] for row in small.rows(long)]
    assert at.count(1_000) == 2
    assert small.resume(grown) == 0  # the new length was kept: nothing is left to do
    assert saved_frames(grown)[0] == 1_600


def test_a_moved_and_renamed_folder_resumes(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        small.at_frame(patch, 900, small.ask_to_stop)
        parts = small.start(tmp_path, "parts")
    moved = tmp_path / "elsewhere" / "other-name"
    moved.parent.mkdir()
    parts.rename(moved)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert small.resume(Path("other-name")) == 0
    assert small.differences(finished, moved) == []
    assert not parts.exists()


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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_a_real_process_that_gets_a_signal_resumes(number: signal.Signals, finished: Path, tmp_path: Path):
    folder = tmp_path / "run"
    words = small.command("drqn", "--runs-dir", str(tmp_path), "--name", "run", *small.flags())
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=small.environment())
    while process.poll() is None and not (folder / "checkpoint" / f"{800:012d}").exists():
        time.sleep(0.002)
    process.send_signal(number)
    output = process.communicate()[0].decode()
    assert process.returncode == (-9 if number == signal.SIGKILL else 0), output
    assert small.resume(folder) == 0
    assert small.differences(finished, folder) == []


def test_a_signal_that_was_ignored_stays_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`nohup` ignores SIGHUP for the program it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        small.at_frame(monkeypatch, 800, lambda run: os.kill(os.getpid(), signal.SIGHUP))
        folder = small.start(tmp_path, "run")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert saved_frames(folder)[0] == 1_600


CHANGES = {
    "refused": [
        ("--seed", "2"),
        ("--game", "pong"),
        ("--learning-rate", "0.1"),
        ("--num-envs", "3"),
        ("--log-frames", "200"),
        ("--precision", "fp32"),
    ],
    "free": [("--frames", "1800"), ("--checkpoint-frames", "500"), ("--threads", "2")],
}


@pytest.mark.parametrize(("flag", "value"), CHANGES["refused"])
def test_a_change_of_meaning_is_shown_and_refused(finished: Path, flag: str, value: str, capsys: pytest.CaptureFixture):
    before = (finished / "metrics.jsonl").read_bytes()
    assert small.resume(finished, flag, value) == 2
    error = capsys.readouterr().err
    assert f"{flag} " in error
    assert f"-> {value}" in error
    assert "--frames" in error  # what may change
    assert (finished / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(("flag", "value"), CHANGES["free"])
def test_a_free_change_is_shown_and_kept(flag: str, value: str, capsys: pytest.CaptureFixture, copied: Path):
    assert small.resume(copied, flag, value) == 0
    assert f"changed     {flag}" in capsys.readouterr().out
    assert f"{flag[2:].replace('-', '_')}: {value}\n" in (copied / "config.yaml").read_text()


def test_what_exactness_is_lost_is_said(copied: Path, capsys: pytest.CaptureFixture):
    elsewhere = {"precision": "bf17", "machine": {"cpu": "Z80", "torch": "0.1", "ale_py": "0.1"}}
    small.sign(copied / "checkpoint" / f"{1_600:012d}", lambda manifest: manifest | elsewhere)
    assert small.resume(copied) == 0
    out = capsys.readouterr().out
    for line in ("precision 'bf17' -> ", "cpu 'Z80' -> ", "torch '0.1' -> ", "ale_py '0.1' -> "):
        assert f"no longer bit for bit the same run: {line}" in out


def test_a_machine_without_bf16_goes_on_in_fp32_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr("experiment.build.has_bf16", lambda device: True)
    with monkeypatch.context() as patch:
        small.at_frame(patch, 900, small.ask_to_stop)
        folder = small.start(tmp_path, "run", precision="auto")
    monkeypatch.setattr("experiment.build.has_bf16", lambda device: False)
    capsys.readouterr()
    assert small.resume(folder) == 0
    out = capsys.readouterr().out
    assert "no longer bit for bit the same run: precision 'bf16' -> 'fp32'" in out
    assert "cpu, fp32" in out
    assert saved_frames(folder)[0] == 1_600
