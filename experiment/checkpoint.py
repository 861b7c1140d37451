"""Checkpoints: everything a run is, written so that it is whole or not there.

A checkpoint is a folder `checkpoint/FRAMES/` with `manifest.json` (format, counters, generators, settings, size and
SHA-256 of the other files), `network.safetensors` (the online weights: all that evaluation needs) and
`training.safetensors` (the rest). It is written under a temporary name, flushed and renamed. The last two are kept.
Loading runs no code from it: JSON and safetensors only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiment.config import UsageError

FORMAT = "recall-checkpoint"
VERSION = 1
KEEP = 2
MAX_MANIFEST_BYTES = 16 * 2**20
NETWORK, TRAINING = "network.safetensors", "training.safetensors"


class DamagedCheckpointError(UsageError):
    """A checkpoint that is cut, changed or not ours."""


@dataclass
class Checkpoint:
    """`meta` is plain JSON; `weights` the online network; `training` every other tensor, absent if not asked for."""

    meta: dict[str, Any]
    weights: dict[str, Tensor]
    training: dict[str, Tensor]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `folder`/FRAMES, keep the last two. OSError (disk full, no permission) leaves the older ones whole."""
    target = folder / f"{checkpoint.meta['frames']:012d}"
    temporary = folder / f".writing-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        files = {}
        for name, tensors in ((NETWORK, checkpoint.weights), (TRAINING, checkpoint.training)):
            path = temporary / name
            try:
                save_file({k: v.contiguous() for k, v in tensors.items()}, path)
            except SafetensorError as error:  # how safetensors tells of a full disk
                raise OSError(errno.ENOSPC, f"cannot write {name}: {error}") from None
            _sync(path)
            files[name] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
        manifest = {"format": FORMAT, "version": VERSION, **checkpoint.meta, "files": files}
        with (temporary / "manifest.json").open("w") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():  # a resumed run that writes the same frame again: the old one steps aside first
            shutil.rmtree(target)
        temporary.rename(target)
        _sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in _candidates(folder)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _candidates(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.name.isdigit() and p.is_dir()), reverse=True)


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    try:
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise DamagedCheckpointError(f"{file}: too large to be a manifest")
        manifest = json.loads(file.read_bytes())
    except OSError as error:
        raise DamagedCheckpointError(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DamagedCheckpointError(f"{file}: not readable as JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DamagedCheckpointError(f"{file}: not a checkpoint of this program")
    if manifest.get("version") != VERSION:
        raise DamagedCheckpointError(f"{file}: version {manifest.get('version')}, this program reads {VERSION}")
    return manifest


def _read_tensors(path: Path, name: str, manifest: Mapping[str, Any]) -> dict[str, Tensor]:
    file, entry = path / name, manifest.get("files")
    entry = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(entry, dict):
        raise DamagedCheckpointError(f"{path}: the manifest does not list {name}")
    try:
        if file.stat().st_size != entry.get("bytes"):
            raise DamagedCheckpointError(f"{file}: {file.stat().st_size} bytes, written were {entry.get('bytes')}")
        if _digest(file) != entry.get("sha256"):
            raise DamagedCheckpointError(f"{file}: the checksum does not match")
        return load_file(file)
    except OSError as error:
        raise DamagedCheckpointError(f"{file}: {error.strerror or error}") from None
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        raise DamagedCheckpointError(f"{file}: not a safetensors file ({error})") from None


def load(path: Path, *, training: bool) -> Checkpoint:
    """Read one checkpoint folder. DamagedCheckpointError if anything is missing, cut, changed or foreign."""
    manifest = _read_manifest(path)
    weights = _read_tensors(path, NETWORK, manifest)
    return Checkpoint(manifest, weights, _read_tensors(path, TRAINING, manifest) if training else {})


def load_latest(run: Path, *, training: bool, report: Callable[[str], None]) -> Checkpoint:
    """The newest whole checkpoint of a run; damaged ones are reported and passed over. UsageError if there is none."""
    if not run.is_dir():
        raise UsageError(f"{run}: no such run folder")
    candidates = _candidates(run / "checkpoint")
    if not candidates:
        raise UsageError(f"{run}: holds no checkpoint")
    problems = []
    for path in candidates:
        try:
            return load(path, training=training)
        except DamagedCheckpointError as error:
            problems.append(str(error))
            if len(problems) < len(candidates):
                report(f"damaged checkpoint: {error}; going back to the one before")
    raise UsageError(f"no whole checkpoint: {problems[0]}")


@contextlib.contextmanager
def lock(run: Path) -> Iterator[None]:
    """Hold the run's folder for this process. UsageError if another process has it."""
    with (run / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{run}: another process is using this run") from None
        yield


def tensor_tree(**parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """{part: {name: array or tensor}} -> {"part.name": tensor}."""
    return {f"{part}.{k}": torch.as_tensor(v) for part, state in parts.items() for k, v in state.items()}


def subtree(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, by their own names."""
    return {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
