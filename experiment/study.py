"""The runs of a study, as they lie on the disk: what is wanted, how far it is, what it came to."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiment import setup
from experiment.checkpoint import newest_manifest, saved_frames
from experiment.config import Config, UsageError

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
    seen = setup.observe(cell.config)
    wanted = {
        "protocol": cell.config.protocol,
        "observe": [seen.kind, seen.parameter],
        "episodes": terms.episodes,
        "epsilon": terms.epsilon,
        "eval_seed": terms.seed,
        "frames": cell.frames,
    }
    for path in sorted((cell.folder / "eval").glob("*.json"), reverse=True):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            found = json.loads(path.read_text())
            if isinstance(found, dict) and wanted.items() <= found.items() and _is_sound(found):
                return found | {"path": path}
    return {}


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


def result(cell: Cell, found: dict[str, Any], study: Path) -> dict[str, Any]:
    """All that the report says of one run, from its evaluation `found`. Paths are relative to the study's folder."""
    metrics, meta = rows(cell), newest_manifest(cell.folder)
    last = next((row for row in reversed(metrics) if "updates" in row), {})
    films = sorted((cell.folder / "videos").glob(f"*-{found['frames']:012d}-*.mp4"), key=lambda p: p.stat().st_mtime)
    versions = meta.get("machine")
    return {
        "arm": cell.arm,
        "game": cell.config.game,
        "screen": cell.screen,
        "seed": cell.config.seed,
        "parameters": found["parameters"],
        "frames": found["frames"],
        "samples": last.get("samples") if is_number(last.get("samples")) else None,
        "samples_per_step": cell.config.samples_per_step,
        "training_seconds": last.get("seconds") if is_number(last.get("seconds")) else None,
        "machine": (versions if isinstance(versions, dict) else {})
        | {k: meta.get(k) for k in ("threads", "precision")},
        **{k: found[k] for k in ("protocol", "observe", "epsilon", "eval_seed", "mean", "interval_95", "scores")},
        "curve": [
            [r["frames"], r["eval_score"], r.get("eval_low"), r.get("eval_high")] for r in metrics if "eval_score" in r
        ],
        "curve_episodes": cell.config.eval_episodes,
        "records": os.path.relpath(found["path"].with_suffix(""), study),
        "video": os.path.relpath(films[-1], study) if films else None,
    }
