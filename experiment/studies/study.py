"""The runs of a study, as they lie on the disk: what is wanted, how far it is, what it came to.

A finished run leaves its result in results/NAME.json, with the records of its best and its median episode beside
it: some KB, which can be shared. Where that is, the run itself is not needed: a study goes on in another clone, or on
another machine.
"""

import contextlib
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.episodes import EpisodeRecord
from experiment import build
from experiment.runs.session import FREE_ON_RESUME, check_same
from experiment.scores.evaluation import middle_and_best, record_name
from experiment.settings.config import Config, UsageError, from_dict, to_dict
from experiment.store.checkpoint import newest_manifest, saved_frames
from experiment.store.files import refused, write_json

TAIL_BYTES = 65_536  # of metrics.jsonl: more than a hundred rows
MEASURED = (  # what a result holds beside what the grid says itself
    *("parameters", "frames", "samples", "training_seconds", "machine", "protocol", "observe", "episodes", "epsilon"),
    *("eval_seed", "mean", "interval_95", "scores", "curve"),
)


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

    def film(self) -> Path | None:
        """The newest one of its last evaluations."""
        films = (self.folder / "videos").glob(f"*-{self.frames:012d}-*.mp4")
        return max(films, key=lambda path: path.stat().st_mtime, default=None)

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def frames(self) -> int:
        """How far its newest checkpoint is; 0 without one."""
        return max(saved_frames(self.folder), default=0)

    @property
    def is_trained(self) -> bool:
        """Whether it is at its last frame, with no evaluation of its own put off by a stop."""
        with contextlib.suppress(UsageError):  # none yet, or damaged: then training goes back to the one before
            newest = newest_manifest(self.folder)
            return newest["frames"] >= self.config.frames and not newest.get("evaluation_due", False)
        return False


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
    seen = build.observe(cell.config)
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


def _is_whole(found: dict[str, Any]) -> bool:
    """Whether a kept result holds all that was measured, in the types that the report takes. KeyError, TypeError,
    AttributeError if not even that can be asked."""

    def is_known(value: object) -> bool:
        return value is None or is_number(value)

    return (
        set(found) >= set(MEASURED)
        and _is_sound(found)
        and is_number(found["frames"])
        and all(map(is_known, (found["samples"], found["training_seconds"])))
        and all(is_known(v) or (isinstance(v, str) and v.isprintable()) for x in found["machine"].items() for v in x)
        and all(len(point) == 4 and is_number(point[0]) and is_number(point[1]) for point in found["curve"])
        and all(is_known(end) for point in found["curve"] for end in point[2:])
    )


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


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
    terms. UsageError if what is there cannot be read."""
    if is_on(cell, terms, found := kept(cell)):
        return found
    return _keep(cell, found) if (found := evaluation(cell, terms)) else {}


def kept(cell: Cell) -> dict[str, Any]:
    """What an earlier call kept of it, {} if nothing. UsageError if that cannot be read, or is of another run."""
    try:
        if not cell.kept.exists():
            return {}
        if not cell.kept.is_file():  # a pipe would be waited for
            raise ValueError("not a file")
        found = json.loads(cell.kept.read_text())
        if not _is_whole(found):
            raise ValueError("not a whole result")
        stored = found["settings"] | {"preset": found["preset"]}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{cell.kept}: cannot be read ({reason:.100}); delete it to make it anew") from None
    check_is_of(cell, cell.kept, from_dict(stored, str(cell.kept)), found["frames"])
    return {k: found[k] for k in MEASURED} | _said_by(cell)


def is_on(cell: Cell, terms: Terms, found: dict[str, Any]) -> bool:
    """Whether a kept result is all that is wanted."""
    return _wanted(cell, terms).items() <= found.items() and found["frames"] >= cell.config.frames


def check_is_of(cell: Cell, path: Path, stored: Config, frames: int) -> None:
    """UsageError if what lies at `path` is of another run, or of a longer one, which would have an advantage."""
    if stored.preset != cell.preset:
        raise UsageError(f"{path}: is a run of {stored.preset}, not of {cell.preset}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what may change is said by the run itself
            check_same(stored, cell.config)
    except UsageError as error:
        raise UsageError(f"{path}: {str(error).removeprefix('--resume: ')}") from None
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
        "curve_epsilon": cell.config.eval_epsilon,
        "records": os.path.relpath(cell.kept.with_suffix(""), cell.config.runs_dir.parent),
        "preset": cell.preset,
        "settings": {k: v for k, v in to_dict(cell.config).items() if k not in FREE_ON_RESUME},
    }


def _keep(cell: Cell, found: dict[str, Any]) -> dict[str, Any]:
    """The result of a finished run from its evaluation `found`, its metrics and its newest checkpoint."""
    metrics, meta = rows(cell), newest_manifest(cell.folder)
    last = next((row for row in reversed(metrics) if "updates" in row), {})
    versions = meta.get("machine")
    made = _said_by(cell) | {
        "parameters": found["parameters"],
        "frames": found["frames"],
        "samples": last.get("samples") if is_number(last.get("samples")) else None,
        "training_seconds": last.get("seconds") if is_number(last.get("seconds")) else None,
        "machine": (versions if isinstance(versions, dict) else {})
        | {k: meta.get(k) for k in ("threads", "precision", "commit")},
        **{k: found[k] for k in ("protocol", "observe", "episodes", "epsilon", "eval_seed")},
        **{k: found[k] for k in ("mean", "interval_95", "scores")},
        "curve": [
            [r["frames"], r["eval_score"], r.get("eval_low"), r.get("eval_high")] for r in metrics if "eval_score" in r
        ],
    }
    folder, names = cell.kept.with_suffix(""), {record_name(i) for i in middle_and_best(found["scores"])}
    with refused(cell.kept, "written"):
        cell.kept.unlink(missing_ok=True)  # first: it must never stand beside other episodes
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if old.name not in names:
                old.unlink(missing_ok=True)
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # the report says that the film is missing
                shutil.copyfile(found["path"].with_suffix("") / name, folder / name)
        write_json(cell.kept, made)  # another process may look in
    return made


def load_record(found: dict[str, Any], study: Path, episode: int) -> tuple[Path, EpisodeRecord]:
    """The record of a result's best or median episode. ValueError if it is missing, damaged or of another one."""
    path = study / found["records"] / record_name(episode)
    record = EpisodeRecord.load(path)
    if (record.game, record.score) != (found["game"], found["scores"][episode]):
        raise ValueError(f"{path}: is of another episode, of {record.game} with score {record.score:g}")
    return path, record
