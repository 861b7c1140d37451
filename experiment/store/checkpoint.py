"""Checkpoints: everything a run is, written so that it is whole or not there.

A checkpoint is a folder `checkpoint/FRAMES/` with `manifest.json` (counters, generators, settings, the SHA-256 of the
other files and of itself), `network.safetensors` (the weights that act: all that evaluation needs) and
`training.safetensors` (the rest). It is written under a temporary name, flushed and renamed. The last two are kept.
Loading runs no code from it: JSON and safetensors only.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiment.settings.config import UsageError
from experiment.store.files import read, refused

VERSION = 3  # of the format
KEEP = 2
MANIFEST, NETWORK, TRAINING = "manifest.json", "network.safetensors", "training.safetensors"


@dataclass
class Checkpoint:
    """`meta` is plain JSON; `weights` the network that acts; `training` every other tensor, empty if not asked for."""

    meta: dict[str, Any]
    weights: dict[str, Tensor]
    training: dict[str, Tensor]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def signature(manifest: Mapping[str, Any]) -> str:
    """The SHA-256 of a manifest, without the field that holds it."""
    body = {k: v for k, v in manifest.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `folder`/FRAMES, keep the last two. OSError (disk full, no permission) leaves the older ones whole.

    The run's folder must be there: one that was moved away is not made anew. One process at a time (`lock`).
    """
    target = folder / f"{checkpoint.meta['frames']:012d}"
    same = [path for path in _newest_first(folder) if path.stem == target.name]
    if same:  # a resumed run saves the same frame again
        target = target.with_suffix(f".{int(same[0].suffix[1:] or 0) + 1}")
    with placed(target) as temporary:
        files = {}
        for name, tensors in ((NETWORK, checkpoint.weights), (TRAINING, checkpoint.training)):
            path = temporary / name
            try:
                save_file({k: v.contiguous() for k, v in tensors.items()}, path)
            except SafetensorError as error:  # how safetensors tells of a full disk
                raise OSError(errno.ENOSPC, f"cannot write {name}: {error}") from None
            _sync(path)
            files[name] = digest(path)
        manifest = {"version": VERSION, **checkpoint.meta, "files": files}
        text = json.dumps(manifest | {"sha256": signature(manifest)}, indent=1, allow_nan=False)
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
        _sync(temporary / MANIFEST)
    return target


@contextlib.contextmanager
def placed(target: Path) -> Iterator[Path]:
    """A folder for the files of a checkpoint: it becomes `target` when the block ends, and the last KEEP stay."""
    folder, temporary = target.parent, target.with_name(".writing")
    folder.mkdir(exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)  # of a save that was killed
    temporary.mkdir()
    try:
        yield temporary
        _sync(temporary)
        temporary.rename(target)
        _sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in _newest_first(folder)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)


def _newest_first(folder: Path) -> list[Path]:
    """Checkpoint folders. OSError if the folder cannot be read."""
    paths = folder.iterdir() if folder.is_dir() else ()
    ours = [path for path in paths if re.fullmatch(r"[0-9]{12,16}(\.[0-9]{1,9})?", path.name)]
    return sorted(ours, key=lambda path: [*map(int, path.name.split("."))], reverse=True)


def candidates(run: Path) -> list[Path]:
    """A run's checkpoint folders, newest first. UsageError if they cannot be read."""
    with refused(run / "checkpoint", "read"):
        return _newest_first(run / "checkpoint")


def _read_manifest(path: Path) -> dict[str, Any]:
    with refused(path, "read"):
        manifest = json.loads(read(path / MANIFEST))
        if manifest["version"] != VERSION:
            raise ValueError(f"version {manifest['version']}, this program reads {VERSION}")
        if manifest["sha256"] != signature(manifest):
            raise ValueError(f"{MANIFEST}: the checksum does not match")
        return manifest


def _read_tensors(path: Path, name: str, manifest: Mapping[str, Any]) -> dict[str, Tensor]:
    file = path / name
    with refused(file, "read"):
        if not file.is_file():
            raise ValueError("missing, or not a file")
        if digest(file) != manifest["files"][name]:
            raise ValueError("the checksum does not match")
        return load_file(file)


def load(path: Path, *, training: bool) -> Checkpoint:
    """Read one checkpoint folder. UsageError if anything is missing, cut, changed or foreign."""
    manifest = _read_manifest(path)
    weights = _read_tensors(path, NETWORK, manifest)
    return Checkpoint(manifest, weights, _read_tensors(path, TRAINING, manifest) if training else {})


def load_latest(run: Path, *, training: bool, report: Callable[[str], None]) -> Checkpoint:
    """The newest whole checkpoint of a run; damaged ones are reported and passed over. UsageError if there is none."""
    if not run.is_dir():
        raise UsageError(f"{run}: no such run folder")
    problems = []
    for path in candidates(run):
        if problems:
            report(f"damaged checkpoint: {problems[-1]}; going back to the one before")
        try:
            return load(path, training=training)
        except UsageError as error:
            problems.append(str(error))
    raise UsageError(f"no whole checkpoint: {problems[0]}" if problems else f"{run}: holds no checkpoint")


def saved_frames(run: Path) -> list[int]:
    """The frame counts of a run's checkpoints, newest first, whole or not."""
    return [int(path.stem) for path in candidates(run)]


def newest_manifest(run: Path) -> dict[str, Any]:
    """The manifest of a run's newest checkpoint. UsageError if there is none, or if it is damaged."""
    for path in candidates(run):
        return _read_manifest(path)
    raise UsageError(f"{run}: holds no checkpoint")


@contextlib.contextmanager
def lock(run: Path) -> Iterator[None]:
    """Hold the run's folder for this process. UsageError if another process holds it."""
    held = FileLock(run / "lock", timeout=0)
    with refused(run / "lock", "opened"):
        try:
            held.acquire()
        except Timeout:
            raise UsageError(f"{run}: another process is using this run") from None
    try:
        yield
    finally:
        held.release()


def tensor_tree(**parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """{part: {name: array or tensor}} -> {"part.name": tensor}."""
    return {f"{part}.{k}": _tensor(v) for part, state in parts.items() for k, v in state.items()}


def _tensor(value: Any) -> Tensor:
    """Without a copy, except of the few small arrays that torch would warn about because they cannot be written."""
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()
    return torch.as_tensor(value)


def subtree(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, by their own names."""
    return {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
