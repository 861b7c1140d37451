"""Small real runs for the tests of resume, faults and determinism, and what two equal runs have in
common."""

import json
import os
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
from experiment.studies.jobs import Children
from experiment.studies.study import Cell, Study, collect

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "game": "breakout",
    "frames": 1_600,
    "num_envs": 2,
    "replay_rows": 240,  # less than the run's rows: the ring goes round
    "start_rows": 80,
    "torso": "dqn-2013",  # the cheapest of 84x84 images
    "hidden": 32,
    "core_size": 16,
    "batch_size": 4,
    "burn_in": 8,
    "samples_per_step": 1.0,
    "epsilon_final": 0.3,
    "epsilon_frames": 2_000,
    "eval_frames": 0,
    "eval_episodes": 1,
    "eval_epsilon": 0.5,  # a new agent that never fires would play for half an hour
    "checkpoint_frames": 800,
    "log_frames": 400,
    "threads": 1,
    "track": "none",
}
TIMES = ("time_environment", "time_acting", "time_sampling", "time_learning")
WALL_CLOCK = ("seconds", "frames_per_second", "steps_per_second", *TIMES)


def result(path: Path) -> dict[str, Any]:
    """A result file of a study without what the clock says."""
    fields = json.loads(path.read_text())
    fields["metrics"] = {
        name: value for name, value in fields["metrics"].items() if name not in WALL_CLOCK
    }
    return {
        name: value
        for name, value in fields.items()
        if name not in ("training_seconds", "curve_seconds")
    }


OF_THE_SITTING = (*WALL_CLOCK, "files", "sha256", "machine")


def flags(name: str = "drqn", **changes: Any) -> list[str]:
    """The flags of a small run of this preset, without those of SETTINGS that have no effect in
    it."""
    config = override(preset(name), SETTINGS | changes)
    pairs = {k: v for k, v in SETTINGS.items() if not idle(config, k)} | changes
    return [word for k, v in pairs.items() for word in (flag(k), str(v))]


def start(runs: Path, name: str, kind: str = "drqn", **changes: Any) -> Path:
    """A new run in this process, to its end. Its folder."""
    assert (
        train_program.main([kind, "--runs-dir", str(runs), "--name", name, *flags(kind, **changes)])
        == 0
    )
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
    return [{k: v for k, v in json.loads(line).items() if k not in WALL_CLOCK} for line in lines]


def everything(folder: Path) -> dict[str, Any]:
    """All that must be the same, bit for bit, in a run that was stopped and in one that was not."""
    saved = load_latest(folder, training=True, report=lambda text: pytest.fail(text))
    found: dict[str, Any] = {
        f"meta {k}": v for k, v in saved.meta.items() if k not in OF_THE_SITTING
    }
    found["meta config"] = {
        k: v for k, v in saved.meta["config"].items() if k not in ("name", "runs_dir")
    }
    for name, tensor in (saved.weights | saved.training).items():
        found[f"tensor {name}"] = (str(tensor.dtype), tuple(tensor.shape), tensor.numpy().tobytes())
    found["rows"] = rows(folder)
    # The position counts bytes, and the clock's digits among them.
    del found["meta metrics_position"]
    for part in ("eval", "episodes"):
        for path in sorted((folder / part).rglob("*")):
            if path.is_file():
                found[str(path.relative_to(folder))] = path.read_text()
    return found


def differences(one: Path, other: Path) -> list[str]:
    """The names of all that differs between two runs."""
    a, b = everything(one), everything(other)
    return sorted(
        name for name in a.keys() | b.keys() if name not in a or name not in b or a[name] != b[name]
    )


class InProcess(Children):
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


def environment() -> dict[str, str]:
    """Without a key or a folder of a tracker."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "TRACKIO_"))}


def sign(checkpoint: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a manifest, in place or to what is returned, and sign it again: a lie, not damage."""
    path = checkpoint / MANIFEST
    manifest = json.loads(path.read_text())
    manifest = change(manifest) or manifest
    if isinstance(manifest.get("files"), dict):
        files = [name for name in manifest["files"] if (checkpoint / name).exists()]
        manifest["files"] = {name: digest(checkpoint / name) for name in files}
    path.write_text(json.dumps(manifest | {"sha256": signature(manifest)}))
