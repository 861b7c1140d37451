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
from tests.envs.walk import WALK

# 568 and 1,176 are neither at a row, nor at a checkpoint, nor at an episode's end; 8 and 1,592 the
# first and last step.
PRIORITISED = dict(priority_exponent=0.9, target_period=3)
PER_ACTOR = dict(priority_exponent=0.9, exploration="per-actor", head="qr", torso="lean")
CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "drqn_uniform": ("drqn", (568, 1_176), dict(observe="flicker", seed=3)),
    "drqn_prioritised": ("drqn", (8, 800, 1_592), PRIORITISED | {"game": "space_invaders"}),
    "gymnasium": ("drqn", (102, 206), dict(game=WALK, torso="flat", frames=400)),
    "dqn_prioritised": ("dqn", (568, 1_176), PER_ACTOR | {"observe": "flicker"}),
}


def stop(patch: pytest.MonkeyPatch, frame: int, runs: Path, *kind: str, **settings: Any) -> Path:
    """Begin the run `parts`, or go on with it, and stop it at this frame."""
    folder = runs / "parts"
    with patch.context() as own:
        small.at_frame(own, frame, small.ask_to_stop)
        if folder.exists():
            small.resume(folder)
        else:
            small.start(runs, "parts", *kind, **settings)
    assert saved_frames(folder)[0] == frame
    return folder


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_is_never_stopped(case, tmp_path, monkeypatch) -> None:
    name, stops, settings = CASES[case]
    whole = small.start(tmp_path, "whole", name, **settings)
    for frame in stops:
        parts = stop(monkeypatch, frame, tmp_path, name, **settings)
        state = load_latest(parts, training=True, report=pytest.fail).training
        # In the middle of episodes.
        assert (state["envs.episode_start"] < state["envs.tape_length"]).any()
    small.resume(parts)
    assert small.rows(parts)[-1]["updates"] > 0
    assert small.differences(whole, parts) == []


def test_a_moved_and_damaged_run_ends_the_same(finished, tmp_path, monkeypatch, capsys) -> None:
    parts = stop(monkeypatch, 1_240, tmp_path)
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


def test_a_stop_puts_an_evaluation_off_to_the_resumed_run(tmp_path, monkeypatch) -> None:
    settings = dict(frames=1_000, eval_frames=1_000)
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


def test_resuming_a_finished_run_changes_nothing(copied, capsys) -> None:
    before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    assert small.resume(copied) == 0
    changed = {p.name for p, data in before.items() if not p.exists() or p.read_bytes() != data}
    assert changed <= {"config.yaml"}  # which has its new place
    assert "bit for bit" not in capsys.readouterr().out


def test_a_longer_run_is_as_if_that_long_from_the_start(finished, tmp_path, capsys) -> None:
    grown = small.start(tmp_path, "grown", frames=1_000)  # not where a row falls
    assert small.resume(grown, "--frames", "1600") == 0
    assert "--frames 1000 -> 1600" in capsys.readouterr().out
    # The old end keeps its row, which parts the means of the next.
    assert small.differences(finished, grown) == ["rows"]
    at = [row["frames"] for row in small.rows(grown)]
    assert sorted({*at} - {1_000}) == [row["frames"] for row in small.rows(finished)]
    assert small.resume(grown) == 0  # the new length was kept: nothing is left to do
    assert saved_frames(grown)[0] == 1_600


def test_a_run_killed_before_its_first_checkpoint_begins_again(finished, copied, capsys) -> None:
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


@pytest.mark.parametrize(("name", "ignored"), [("TERM", False), ("INT", False), ("HUP", True)])
def test_a_signal_saves_and_stops_unless_ignored(name, ignored, tmp_path, monkeypatch) -> None:
    """As `nohup` ignores SIGHUP for the program it starts."""
    number = signal.Signals[f"SIG{name}"]
    before = signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        small.at_frame(monkeypatch, 200, lambda run: os.kill(os.getpid(), number))
        folder = small.start(tmp_path, "run", frames=600)
    finally:
        signal.signal(number, before)
    assert saved_frames(folder) == [600 if ignored else 200]


def test_every_change_of_meaning_is_shown_and_refused(finished, error_of) -> None:
    for name in {field.name for field in fields(Config)} - FREE_ON_RESUME:
        other = replace(preset("drqn"))
        other.__dict__[name] = "another"  # whatever the setting's type
        says = f"would change the meaning of the run: {flag(name)} .* -> another; start"
        with pytest.raises(UsageError, match=says):
            check_same(preset("drqn"), other)
    before = (finished / "metrics.jsonl").read_bytes()
    assert "--seed 1 -> 2" in error_of(small.resume, finished, "--seed", "2")
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_free_changes_are_shown_and_stay_and_lost_exactness(copied, monkeypatch, capsys) -> None:
    machine = dict(cpu="Z80", torch="0.1", ale_py="0.1")
    elsewhere = dict(precision="bf16", machine=machine)
    small.sign(copied / "checkpoint" / f"{1_600:012d}", lambda manifest: manifest | elsewhere)
    monkeypatch.setattr("experiment.build.has_bf16", lambda device: False)
    changes = "--frames 1640 --checkpoint-frames 500 --threads 2"
    assert small.resume(copied, *changes.split()) == 0
    out = capsys.readouterr().out
    for change in ("frames 1600 -> 1640", "checkpoint-frames 800 -> 500", "threads 1 -> 2"):
        assert f"changed     --{change}" in out
    lost = [f"{name} {value!r} -> " for name, value in machine.items()]
    for line in ("precision 'bf16' -> 'fp32'", *lost):
        assert f"no longer bit for bit the same run: {line}" in out
    assert "cpu, fp32" in out
    assert saved_frames(copied)[0] == 1_640
    assert "checkpoint_frames: 500\n" in (copied / "config.yaml").read_text()
