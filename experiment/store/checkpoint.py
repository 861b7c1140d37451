"""Checkpoints: the whole state of a run, on the disk as a whole or not at all.

A checkpoint is a folder `checkpoint/FRAMES/` with `manifest.json` (counters, generators, settings,
the SHA-256 of the other files and of itself), `network.safetensors` (the weights that act: all that
evaluation needs) and `training.safetensors` (the rest). It is written under a temporary name,
flushed and renamed. The last two stay. Loading runs no code from it: JSON and safetensors only.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agents.fields import near
from experiment.settings.config import UsageError
from experiment.store.files import read, refused

VERSION = 3  # of the format
KEEP = 2
MANIFEST, NETWORK, TRAINING = "manifest.json", "network.safetensors", "training.safetensors"


@dataclass
class Checkpoint:
    """The contents of a checkpoint."""

    meta: dict[str, Any]  # plain JSON
    weights: dict[str, torch.Tensor]  # of the network that acts
    # The rest; empty for evaluation.
    training: dict[str, torch.Tensor] = field(default_factory=dict)


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
    body = json.dumps({k: v for k, v in manifest.items() if k != "sha256"}, sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `folder`/FRAMES and keep the last two checkpoints; one process at a time (`lock`).

    OSError on a full disk, without permission, or if the run's folder was moved away. An error
    leaves the older checkpoints whole.
    """
    target = folder / f"{checkpoint.meta['frames']:012d}"
    same = [path for path in candidates(folder.parent) if path.stem == target.name]
    if same:  # a resumed run saves the same frame again
        target = target.with_suffix(f".{int(same[0].suffix[1:] or 0) + 1}")
    with placed(target) as temporary:
        files = {}
        for name, tensors in ((NETWORK, checkpoint.weights), (TRAINING, checkpoint.training)):
            try:
                save_file({k: v.contiguous() for k, v in tensors.items()}, temporary / name)
            except SafetensorError as error:  # safetensors' error on a full disk
                raise OSError(errno.ENOSPC, f"cannot write {name}: {error}") from None
            files[name] = digest(temporary / name)
        manifest = {"version": VERSION, **checkpoint.meta, "files": files}
        signed = json.dumps(manifest | {"sha256": signature(manifest)}, indent=1, allow_nan=False)
        (temporary / MANIFEST).write_text(signed, encoding="utf-8")
    return target


@contextlib.contextmanager
def placed(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes the checkpoint `target` at the end; the last KEEP stay."""
    folder, temporary = target.parent, target.with_name(".writing")
    folder.mkdir(exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)  # of a save that was killed
    temporary.mkdir()
    try:
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        temporary.rename(target)
        _sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in candidates(folder.parent)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)


def candidates(run: Path) -> list[Path]:
    """A run's checkpoint folders, newest first. OSError if they cannot be read."""
    paths = (run / "checkpoint").iterdir() if (run / "checkpoint").is_dir() else ()
    ours = [path for path in paths if re.fullmatch(r"[0-9]{12,16}(\.[0-9]{1,9})?", path.name)]
    return sorted(ours, key=lambda path: [*map(int, path.name.split("."))], reverse=True)


def load(path: Path, *, training: bool) -> Checkpoint:
    """Read one checkpoint folder. UsageError if a file is missing, cut, changed or foreign."""
    with refused(path, "read"):
        manifest, tensors = json.loads(read(path / MANIFEST)), []
        if manifest["version"] != VERSION or manifest["sha256"] != signature(manifest):
            raise ValueError(f"{MANIFEST}: not of version {VERSION}, or checksum does not match")
        for name in (NETWORK, TRAINING)[: 1 + training]:
            file = path / name
            # is_file first: opening a pipe would wait for ever.
            if not file.is_file() or digest(file) != manifest["files"][name]:
                raise ValueError(f"{name}: missing, or the checksum does not match")
            tensors.append(load_file(file))
    return Checkpoint(manifest, *tensors)


def load_latest(run: Path, *, training: bool, report: Callable[[str], None]) -> Checkpoint:
    """The newest whole checkpoint of a run; `report` gets a line about each damaged one.

    UsageError if there is none.
    """
    if not run.is_dir():
        beside = [path.name for path in run.parent.iterdir()] if run.parent.is_dir() else []
        raise UsageError(f"{run}: no such folder.{near(run.name, beside)}")
    problems: list[str] = []
    for path in candidates(run):
        if problems:
            report(f"damaged checkpoint: {problems[-1]}; going back to the one before")
        try:
            return load(path, training=training)
        except UsageError as error:
            problems.append(str(error))
    raise UsageError(
        f"no whole checkpoint: {problems[0]}" if problems else f"{run}: holds no checkpoint"
    )


def saved_frames(run: Path) -> list[int]:
    """The frame counts of a run's checkpoints, newest first, whole or not."""
    return [int(path.stem) for path in candidates(run)]


@contextlib.contextmanager
def lock(run: Path) -> Iterator[None]:
    """Lock the run's folder for this process. UsageError if another process has the lock."""
    with refused(run / "lock", "opened"):
        try:
            acquired = FileLock(run / "lock", timeout=0).acquire()
        except Timeout:
            raise UsageError(f"{run}: another process is using this run") from None
    with acquired:
        yield


def tensor_tree(**parts: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """{part: {name: array or tensor}} -> {"part.name": tensor}; read-only arrays are copied."""
    return {
        f"{part}.{k}": torch.as_tensor(
            v if isinstance(v, torch.Tensor) else np.require(v, requirements="W")
        )
        for part, state in parts.items()
        for k, v in state.items()
    }


def subtree(tensors: Mapping[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """The tensors of one part, by their own names."""
    return {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
