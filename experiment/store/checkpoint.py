"""Checkpoints: everything a run is, written so that it is whole or not there.

A checkpoint is a folder `checkpoint/FRAMES/` with `manifest.json` (format, counters, generators, settings, size and
SHA-256 of the other files and of itself), `network.safetensors` (the online weights: all that evaluation needs) and
`training.safetensors` (the rest). It is written under a temporary name, flushed and renamed. The last two are kept.

Loading runs no code from it: JSON and safetensors only. A checksum finds damage, not malice: whoever makes a
checkpoint can sign it too. So what is read is checked for sense before it is used, here and in `Run.restore`.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiment.settings.config import UsageError
from experiment.store.files import check_links, refused

FORMAT = "recall-checkpoint"
VERSION = 2
KEEP = 2
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_HEADER_BYTES = 2**20  # of a safetensors file; ours take a few KB
MAX_COUNT = 2**53  # of anything counted: what JSON keeps exactly
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


def _self_check(manifest: Mapping[str, Any]) -> str:
    """The manifest's checksum of itself, without the field that holds it."""
    body = {k: v for k, v in manifest.items() if k != "check"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `folder`/FRAMES, keep the last two. OSError (disk full, no permission) leaves the older ones whole.

    The run's folder must be there: one that was moved away is not made anew. One process at a time (`lock`).
    """
    target = folder / f"{checkpoint.meta['frames']:012d}"
    temporary, aside = folder / ".writing", folder / ".replaced"
    folder.mkdir(exist_ok=True)
    for leftover in (temporary, aside):  # of a save that was killed
        shutil.rmtree(leftover, ignore_errors=True)
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
        manifest["check"] = _self_check(manifest)
        with (temporary / "manifest.json").open("w") as file:
            json.dump(manifest, file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        _sync(temporary)
        if target.exists():  # a resumed run that writes the same frame again: the old one steps aside whole
            target.rename(aside)
        temporary.rename(target)
        _sync(folder)
    finally:
        if aside.exists() and not target.exists():
            aside.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
    for old in _candidates(folder)[KEEP:]:
        with contextlib.suppress(OSError):  # renamed first: a kill half way must not leave half a checkpoint
            old.rename(aside)
            shutil.rmtree(aside)
    return target


def _candidates(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if re.fullmatch("[0-9]{12,16}", p.name) and p.is_dir())
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _saved(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first. UsageError if that cannot be read."""
    with refused(folder := run / "checkpoint", "read"):
        return _candidates(folder)


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    try:
        if not file.is_file():
            raise DamagedCheckpointError(f"{file}: missing, or not a file")
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise DamagedCheckpointError(f"{file}: too large to be a manifest")
        manifest = json.loads(file.read_bytes(), parse_constant=_no_number)
        check = _self_check(manifest) if isinstance(manifest, dict) else ""
    except OSError as error:
        raise DamagedCheckpointError(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DamagedCheckpointError(f"{file}: not readable as JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DamagedCheckpointError(f"{file}: not a checkpoint of this program")
    version = manifest.get("version")
    unsigned = version == 1 and "check" not in manifest  # version 1 had no checksum of the manifest
    if version != VERSION and not unsigned:
        raise DamagedCheckpointError(f"{file}: version {show(version)}, this program reads {VERSION}")
    if not unsigned and manifest.get("check") != check:
        raise DamagedCheckpointError(f"{file}: the checksum does not match")
    _check_manifest(file, manifest)
    return manifest


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def show(value: object) -> str:
    """A JSON value for one line of a message."""
    return f"{value!r:.40}" if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def is_count(value: object, most: int = MAX_COUNT) -> bool:
    """Whether a JSON value is a whole number, 0 to `most`."""
    return type(value) is int and 0 <= value <= most


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _check_manifest(file: Path, manifest: Mapping[str, Any]) -> None:
    """What every reader of a manifest relies on. The preset becomes part of file names."""
    preset = manifest.get("preset")
    for name, ok in (
        ("frames", is_count(manifest.get("frames"))),
        ("num_actions", is_count(manifest.get("num_actions"), 18)),
        ("config", isinstance(manifest.get("config"), dict)),
        ("preset", isinstance(preset, str) and re.fullmatch(r"[\w.-]{1,64}", preset) is not None),
    ):
        if not ok:
            raise DamagedCheckpointError(f"{file}: {name} is {show(manifest.get(name))}")
    for key, value in manifest["config"].items():
        if len(key) > 64 or not _is_setting(key, value):
            raise DamagedCheckpointError(f"{file}: the setting {key!r:.40} is {show(value)}")


def _is_setting(key: str, value: object) -> bool:
    """Whether it is a number, a text or a null that can be computed with and printed in one line."""
    if isinstance(value, str):  # folders may have any name
        return len(value) <= 4096 and (value.isprintable() or key in ("name", "runs_dir"))
    return value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def _read_tensors(path: Path, name: str, manifest: Mapping[str, Any]) -> dict[str, Tensor]:
    file, entry = path / name, manifest.get("files")
    entry = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(entry, dict):
        raise DamagedCheckpointError(f"{path}: the manifest does not list {name}")
    try:
        if not file.is_file():
            raise DamagedCheckpointError(f"{file}: missing, or not a file")
        size = file.stat().st_size
        if size != entry.get("bytes"):
            raise DamagedCheckpointError(f"{file}: {size} bytes, written were {show(entry.get('bytes'))}")
        with file.open("rb") as opened:
            if int.from_bytes(opened.read(8), "little") > MAX_HEADER_BYTES:
                raise DamagedCheckpointError(f"{file}: its header is too large")
        if size > psutil.virtual_memory().available:
            raise UsageError(f"{file}: {size / 1e9:.1f} GB do not fit into this machine's free memory")
        if _digest(file) != entry.get("sha256"):
            raise DamagedCheckpointError(f"{file}: the checksum does not match")
        return load_file(file)  # checks names, types and places against the file's real size
    except OSError as error:
        raise DamagedCheckpointError(f"{file}: {error.strerror or error}") from None
    except UsageError:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedCheckpointError(f"{file}: not a safetensors file ({reason:.120})") from None


def load(path: Path, *, training: bool) -> Checkpoint:
    """Read one checkpoint folder. DamagedCheckpointError if anything is missing, cut, changed or foreign."""
    manifest = _read_manifest(path)
    weights = _read_tensors(path, NETWORK, manifest)
    return Checkpoint(manifest, weights, _read_tensors(path, TRAINING, manifest) if training else {})


def load_latest(run: Path, *, training: bool, report: Callable[[str], None]) -> Checkpoint:
    """The newest whole checkpoint of a run; damaged ones are reported and passed over. UsageError if there is none."""
    if not run.is_dir():
        raise UsageError(f"{run}: no such run folder")
    check_links(run)
    candidates = _saved(run)
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


def saved_frames(run: Path) -> list[int]:
    """The frame counts of a run's checkpoints, newest first, whole or not."""
    return [int(path.name) for path in _saved(run)]


def newest_manifest(run: Path) -> dict[str, Any]:
    """What a run's newest checkpoint says of itself. UsageError if there is none, or if it is damaged."""
    saved = _saved(run)
    if not saved:
        raise UsageError(f"{run}: holds no checkpoint")
    return _read_manifest(saved[0])


@contextlib.contextmanager
def lock(run: Path) -> Iterator[None]:
    """Hold the run's folder for this process. UsageError if another process has it."""
    with refused(path := run / "lock", "opened"):
        # Opened without cutting it and without following a link: the folder may be a stranger's.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{run}: another process is using this run") from None
        except OSError as error:  # some network file systems have no locks
            print(f"{run}: cannot be locked ({error.strerror}); see to it that one process uses it", file=sys.stderr)
        yield
    finally:
        os.close(handle)


def tensor_tree(**parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """{part: {name: array or tensor}} -> {"part.name": tensor}."""
    return {f"{part}.{k}": _tensor(v) for part, state in parts.items() for k, v in state.items()}


def _tensor(value: Any) -> Tensor:
    """Without a copy, but of the few small arrays that torch would warn about because they cannot be written."""
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()
    return torch.as_tensor(value)


def subtree(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, by their own names."""
    return {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
