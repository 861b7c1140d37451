"""The runs of a study, as they lie on the disk: what is wanted, how far it is, what it came to.

A finished run leaves its result in results/NAME.json, with the records of its best and its median episode beside
it: some KB, which can be shared. Where that is, the run itself is not needed: a study goes on in another clone, or on
another machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiment import setup
from experiment.checkpoint import newest_manifest, saved_frames
from experiment.config import Config, UsageError, flag, to_dict
from experiment.run import FREE_ON_RESUME

TAIL_BYTES = 65_536  # of metrics.jsonl: more than a hundred rows


@dataclass(frozen=True)
class Terms:
    """How every finished run is scored."""

    episodes: int
    epsilon: float
    seed: int


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    arm: str  # a preset and its overrides, as the user wrote them
    screen: str  # full, or flicker:0.5: how the grid lets it be seen
    preset: str
    config: Config
    settings: dict[str, str]  # those of train.py that differ from the preset

    @property
    def folder(self) -> Path:
        return self.config.runs_dir / self.config.name

    @property
    def kept(self) -> Path:
        """Its result, where it is finished; the episodes' records are in the folder of the same stem."""
        return self.config.runs_dir.parent / "results" / f"{self.config.name}.json"

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def frames(self) -> int:
        """How far its newest checkpoint is; 0 without one."""
        return max(saved_frames(self.folder), default=0)

    @property
    def is_trained(self) -> bool:
        return self.frames >= self.config.frames


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def evaluation(cell: Cell, terms: Terms) -> dict[str, Any]:
    """The newest sound evaluation of the trained run on these terms, its file as `path`; {} if there is none."""
    if not cell.is_trained:
        return {}
    wanted = _wanted(cell, terms) | {"frames": cell.frames}
    for path in sorted((cell.folder / "eval").glob("*.json"), reverse=True):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            found = json.loads(path.read_text())
            if isinstance(found, dict) and wanted.items() <= found.items() and _is_sound(found):
                return found | {"path": path}
    return {}


def _wanted(cell: Cell, terms: Terms) -> dict[str, Any]:
    """What an evaluation says of itself if it is on these terms."""
    seen = setup.observe(cell.config)
    return {
        "protocol": cell.config.protocol,
        "observe": [seen.kind, seen.parameter],
        "episodes": terms.episodes,
        "epsilon": terms.epsilon,
        "eval_seed": terms.seed,
    }


def _is_sound(found: dict[str, Any]) -> bool:
    """Whether an evaluation's file holds what the report takes from it."""
    scores, interval = found.get("scores"), found.get("interval_95")
    return (
        isinstance(scores, list)
        and len(scores) == found["episodes"]
        and all(map(is_number, [*scores, found.get("mean"), found.get("parameters")]))
        and isinstance(interval, list)
        and len(interval) == 2
        and all(end is None or is_number(end) for end in interval)
    )


def rows(cell: Cell, tail: bool = False) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, or its last ones. UsageError if they cannot be read, or are not ours."""
    path, found = cell.folder / "metrics.jsonl", []
    try:
        with path.open("rb") as file:
            start = max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0) if tail else 0
            file.seek(start)
            lines = file.read().splitlines()[1 if start else 0 :]
        for line in lines:
            row = json.loads(line)
            curve = [row[k] for k in ("eval_low", "eval_high") if row.get(k) is not None]
            if not all(map(is_number, [row["frames"], row.get("eval_score", 0.0), *curve])):
                raise ValueError("no numbers where numbers should be")
            found.append(row)
    except (OSError, ValueError, RecursionError, KeyError, AttributeError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path}: row {len(found) + 1} cannot be read ({reason:.100})") from None
    return found


def result(cell: Cell, terms: Terms) -> dict[str, Any]:
    """All that the report says of one finished run, kept in results/ from now on; {} if it is not finished on these
    terms. Paths are relative to the study's folder. UsageError if what is there cannot be read."""
    found = kept(cell)
    if found and _wanted(cell, terms).items() <= found.items() and found["frames"] >= cell.config.frames:
        return found
    return _keep(cell, found) if (found := evaluation(cell, terms)) else {}


def meaning(config: Config) -> dict[str, Any]:
    """The settings that make a run what it is."""
    return {k: v for k, v in to_dict(config).items() if k not in FREE_ON_RESUME}


def kept(cell: Cell) -> dict[str, Any]:
    """What an earlier call kept of it, {} if nothing. UsageError if that cannot be read, or is of another run."""
    try:
        found = json.loads(cell.kept.read_text())
        stored, curve = found["settings"], found["curve"]
        ends = [end for _, *rest in curve for end in rest if end is not None]
        whole = isinstance(stored, dict) and isinstance(found["machine"], dict) and _is_sound(found)
        numbers = [found["frames"], *(point[0] for point in curve), *ends]
        numbers += [found[k] for k in ("samples", "training_seconds") if found[k] is not None]
        if not whole or not all(map(is_number, numbers)) or not isinstance(found["video"], str | None):
            raise ValueError("not a whole result")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{cell.kept}: cannot be read ({reason:.100}); without it the run is made again") from None
    stored, wanted = stored | {"preset": found["preset"]}, meaning(cell.config) | {"preset": cell.preset}
    differ = [f"{flag(k)} {stored.get(k)} -> {v}" for k, v in wanted.items() if stored.get(k) != v]
    if differ:
        raise UsageError(f"{cell.kept}: is of a run with other settings: {', '.join(differ)}; choose another --out")
    check_length(cell, cell.kept, found["frames"])
    return found | _said_by(cell)


def check_length(cell: Cell, path: Path, frames: int) -> None:
    """UsageError if the run at `path` is longer than the study's: it would have an advantage."""
    if frames >= cell.config.frames + 4 * cell.config.num_envs:  # runs end with a whole step of all envs
        raise UsageError(f"{path}: has {frames:,} frames, more than --frames {cell.config.frames:,}")


def _said_by(cell: Cell) -> dict[str, Any]:
    """The part of a result that the grid says itself, whatever a file says."""
    return {
        "arm": cell.arm,
        "game": cell.config.game,
        "screen": cell.screen,
        "seed": cell.config.seed,
        "samples_per_step": cell.config.samples_per_step,
        "curve_episodes": cell.config.eval_episodes,
        "records": os.path.relpath(cell.kept.with_suffix(""), cell.config.runs_dir.parent),
        "preset": cell.preset,
        "settings": meaning(cell.config),
    }


def _keep(cell: Cell, found: dict[str, Any]) -> dict[str, Any]:
    """The result of a finished run from its evaluation `found`, its metrics and its newest checkpoint."""
    metrics, meta, study = rows(cell), newest_manifest(cell.folder), cell.config.runs_dir.parent
    last = next((row for row in reversed(metrics) if "updates" in row), {})
    films = sorted((cell.folder / "videos").glob(f"*-{found['frames']:012d}-*.mp4"), key=lambda p: p.stat().st_mtime)
    versions = meta.get("machine")
    made = _said_by(cell) | {
        "parameters": found["parameters"],
        "frames": found["frames"],
        "samples": last.get("samples") if is_number(last.get("samples")) else None,
        "training_seconds": last.get("seconds") if is_number(last.get("seconds")) else None,
        "machine": (versions if isinstance(versions, dict) else {})
        | {k: meta.get(k) for k in ("threads", "precision")},
        **{k: found[k] for k in ("protocol", "observe", "episodes", "epsilon", "eval_seed")},
        **{k: found[k] for k in ("mean", "interval_95", "scores")},
        "curve": [
            [r["frames"], r["eval_score"], r.get("eval_low"), r.get("eval_high")] for r in metrics if "eval_score" in r
        ],
        "video": os.path.relpath(films[-1], study) if films else None,
    }
    try:
        shutil.rmtree(cell.kept.with_suffix(""), ignore_errors=True)
        cell.kept.with_suffix("").mkdir(parents=True)
        for i in {*middle_and_best(found["scores"])}:
            name = f"episode-{i:03d}.json"
            with contextlib.suppress(FileNotFoundError):  # the report says that the film is missing
                shutil.copyfile(found["path"].with_suffix("") / name, cell.kept.with_suffix("") / name)
        temporary = cell.kept.with_name(f".{cell.kept.name}.tmp")
        temporary.write_text(json.dumps(made, indent=1, allow_nan=False) + "\n")
        temporary.replace(cell.kept)
    except OSError as error:
        raise UsageError(f"{cell.kept}: cannot be written ({error.strerror})") from None
    return made


def middle_and_best(scores: list[float]) -> tuple[int, int]:
    """Which episode, or run, is the median one, and which the best; of equals the earlier."""
    ranked = sorted(range(len(scores)), key=lambda i: -scores[i])
    return ranked[len(ranked) // 2], ranked[0]
