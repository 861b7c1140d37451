"""Small real runs for the tests of resume, faults and determinism, and what two equal runs have in
common."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import train as train_program
from experiment.runs.run import Run
from experiment.settings.config import flag, idle, override, preset
from experiment.store.checkpoint import MANIFEST, digest, load_latest, signature
from experiment.studies.jobs import Workers
from experiment.studies.study import Cell, Study, collect

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"game": "breakout", "frames": 1_600, "num_envs": 2, "threads": 1, "track": "none"}
SETTINGS |= {"replay_rows": 240, "start_rows": 80}  # less than the run's: the ring goes round
SETTINGS |= {"torso": "dqn-2013", "hidden": 32, "core_size": 16, "batch_size": 4, "burn_in": 8}
SETTINGS |= {"parts": 2}
SETTINGS |= {"samples_per_step": 1.0, "epsilon_final": 0.3, "epsilon_frames": 2_000}
# A new agent that never fires would play for half an hour.
SETTINGS |= {"eval_frames": 0, "eval_episodes": 1, "eval_epsilon": 0.5}
SETTINGS |= {"checkpoint_frames": 800, "log_frames": 400}
# Flags of the runs of a small study, besides --frames and --eval-frames.
OF_STUDY = (
    "--num-envs 2 --replay-rows 500 --start-rows 100 --hidden 32 --batch-size 4 --torso dqn-2013 "
    "--samples-per-step 1 --log-frames 400 --checkpoint-frames 400 --track none"
).split()
TIMES = ("time_environment", "time_acting", "time_sampling", "time_learning")
WALL_CLOCK = ("seconds", "frames_per_second", "steps_per_second", *TIMES)
OF_THE_SITTING = (*WALL_CLOCK, "files", "sha256", "machine")


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if k not in names}


def result(path: Path) -> dict[str, Any]:
    """A result file of a study without what the clock says."""
    fields = json.loads(path.read_text())
    fields["metrics"] = without(fields["metrics"], *WALL_CLOCK)
    return without(fields, "training_seconds", "curve_seconds")


def flags(name: str = "drqn", **changes: Any) -> list[str]:
    """The flags of a small run of this preset, without those that have no effect in it."""
    config = override(preset(name), SETTINGS | changes)
    pairs = {k: v for k, v in SETTINGS.items() if not idle(config, k)} | changes
    return [word for k, v in pairs.items() for word in (flag(k), str(v))]


def words(runs: Path, name: str = "run", kind: str = "drqn", **changes: Any) -> list[str]:
    """The command line of a new small run."""
    return [kind, "--runs-dir", str(runs), "--name", name, *flags(kind, **changes)]


def start(runs: Path, name: str, kind: str = "drqn", **changes: Any) -> Path:
    """A new run in this process, to its end. Its folder."""
    assert train_program.main(words(runs, name, kind, **changes)) == 0
    return runs / name


def resume(folder: Path, *words: str) -> int:
    return train_program.main(["--resume", str(folder), *words])


def at_frame(patch: pytest.MonkeyPatch, frame: int, act: Callable[[Run], object]) -> None:
    """Call `act` once, after the step that reaches `frame`."""
    advance, left = Run.advance, [act]

    def advance_and_act(run: Run, *arguments: Any) -> None:
        advance(run, *arguments)
        if run.frames >= frame and left:
            left.pop()(run)

    patch.setattr(Run, "advance", advance_and_act)


def ask_to_stop(run: Run) -> None:
    run.stop_asked = True


def rows(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [without(json.loads(line), *WALL_CLOCK) for line in lines]


def everything(folder: Path) -> dict[str, Any]:
    """All that must be the same, bit for bit, in a run that was stopped and in one that was not."""
    saved = load_latest(folder, training=True, report=pytest.fail)
    # The position counts bytes, and the clock's digits among them.
    meta = without(saved.meta, *OF_THE_SITTING, "metrics_position")
    meta["config"] = without(meta["config"], "name", "runs_dir")
    parts = {f"meta {k}": v for k, v in meta.items()} | {"rows": rows(folder)}
    for name, tensor in (saved.weights | saved.training).items():
        parts[f"tensor {name}"] = (str(tensor.dtype), tuple(tensor.shape), tensor.numpy().tobytes())
    files = [path for part in ("eval", "episodes") for path in (folder / part).rglob("*")]
    return parts | {str(p.relative_to(folder)): p.read_text() for p in files if p.is_file()}


def differences(one: Path, other: Path) -> list[str]:
    """The names of all that differs between two runs."""
    a, b = everything(one), everything(other)
    return sorted(k for k in a.keys() | b.keys() if k not in a or k not in b or a[k] != b[k])


class InProcess(Workers):
    """Workers of a study without the seconds that a child needs to begin."""

    def _call(self, cell: Cell, state: str, program: str, *words: str) -> Iterator[str]:
        yield state
        assert import_module(program.removesuffix(".py")).main(list(words)) == 0


def run_cells(cells: list[Cell], study: Study) -> None:
    """Train and score these cells in this process."""
    (study.out / "runs").mkdir(parents=True, exist_ok=True)
    for cell in cells:
        assert list(InProcess().run(cell, study)) == ["training", "evaluating"]
        collect(cell, study)


def command(*words: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *words]


def launch(words: list[str], log: Path, **others: Any) -> subprocess.Popen[Any]:
    """A process without a key or a folder of a tracker, which adds what it says to a log."""
    with log.open("a") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, env=environment(), **others)


def environment() -> dict[str, str]:
    """Without a key or a folder of a tracker."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "TRACKIO_"))}


def options(module: str, words: list[str], about: str, **defaults: Any) -> argparse.Namespace:
    """The values of a harness's flags, each of the type of its default."""
    parser = argparse.ArgumentParser(f"python -m tests.{module}", description=about)
    for name, default in defaults.items():
        parser.add_argument(flag(name), type=type(default), default=default, help="(%(default)s)")
    return parser.parse_args(words)


def sign(checkpoint: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a manifest, in place or to what is returned, and sign it again: a lie, not damage."""
    path = checkpoint / MANIFEST
    manifest = json.loads(path.read_text())
    manifest = change(manifest) or manifest
    if isinstance(manifest.get("files"), dict):
        files = [name for name in manifest["files"] if (checkpoint / name).exists()]
        manifest["files"] = {name: digest(checkpoint / name) for name in files}
    path.write_text(json.dumps(manifest | {"sha256": signature(manifest)}))
