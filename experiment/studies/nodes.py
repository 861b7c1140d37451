"""The cells of a study on a Ray cluster, each an actor on any node; no shared file system needed.

The study's folder is authoritative. An actor gets the files of its run, works in a scratch
folder of its node like a local study, and returns the changed files at every call. After the loss
of its node another actor goes on from the checkpoint in the study's folder.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from experiment.settings.config import UsageError
from experiment.store import checkpoint as checkpoints
from experiment.store.files import reason, replacing
from experiment.studies.jobs import Workers
from experiment.studies.study import Cell, Study

SCRATCH, IN_USE = "recall-node-", ".in-use"  # a node's folders for runs, and their lock files
SECONDS = 2.0  # between two answers of an actor
LOSSES = 5  # actors in a row lost before their first answer, after which the cell fails
States = dict[str, tuple[int, int]]  # path of a file below runs/ -> size, time of last change
Files = dict[str, np.ndarray]  # path below runs/ -> its bytes


# --- the transfer of files ------------------------------------------------------------------------


def changes(cell: Cell, known: States) -> tuple[Files, States]:
    """A run's files that differ from the states `known`, and the new states; no old checkpoints.

    OSError if a file vanishes meanwhile. No files if a checkpoint appears meanwhile: so the rows of
    metrics are never ahead of the checkpoints, and never behind them.
    """
    runs, newest = cell.config.runs_dir, checkpoints.candidates(cell.folder)[:1]
    paths = [
        path
        for path in (*cell.folder.rglob("*"), cell.log)
        if path.is_file() and path.name != "lock" and not path.name.startswith(".")
    ]
    now = {
        str(path.relative_to(runs)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in paths
        if path.parent in newest or cell.folder / "checkpoint" not in path.parents
    }
    files = {
        name: np.fromfile(runs / name, np.uint8)
        for name, state in now.items()
        if known.get(name) != state
    }
    return (files, now) if checkpoints.candidates(cell.folder)[:1] == newest else ({}, known)


def write(cell: Cell, files: Files) -> None:
    """Write the files of `changes` to the same run elsewhere, the checkpoint whole and at the end.

    OSError if a file cannot be written.
    """
    paths = {cell.config.runs_dir / name: data for name, data in files.items()}
    checkpoint = [path for path in paths if cell.folder / "checkpoint" in path.parents]
    for path in paths.keys() - checkpoint:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            paths[path].tofile(temporary)
    if checkpoint:
        with checkpoints.placed(checkpoint[0].parent) as temporary:
            for path in checkpoint:
                paths[path].tofile(temporary / path.name)


# --- on the node ----------------------------------------------------------------------------------


class Node:
    """One cell at work in a scratch folder; an actor of Ray."""

    def __init__(self, cell: Cell, study: Study, files: Files) -> None:
        """Begin the work with the run's files."""
        for mark in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*/{IN_USE}"):
            # Without a lock: the process that owned the folder was killed.
            with contextlib.suppress(Timeout, OSError), FileLock(mark, timeout=0):
                shutil.rmtree(mark.parent)
        self._scratch = tempfile.TemporaryDirectory(prefix=SCRATCH)
        self._lock = FileLock(Path(self._scratch.name) / IN_USE).acquire()
        # A node has no reader of a local page.
        track = {"local": "none", "all": "wandb"}.get(cell.config.track, cell.config.track)
        own = replace(cell.config, runs_dir=Path(self._scratch.name), track=track)
        self._cell = replace(cell, config=own)
        write(self._cell, files)
        self._known = changes(self._cell, {})[1]
        self._workers = Workers()
        self._work = self._workers.run(self._cell, study)

    def news(self, stop: bool) -> tuple[Files, str, str | None]:
        """After SECONDS or at the end: changed files, state (training, evaluating), outcome.

        The outcome is None during the work, "" at the end, or an error. After `stop` the run
        saves its state and ends.
        """
        self._workers.stopped = stop
        error, end, state, files = None, time.monotonic() + SECONDS, "", {}
        try:
            while time.monotonic() < end:
                state = next(self._work)
                time.sleep(0.1)
        except StopIteration:
            error = ""
        except Exception as problem:
            error = str(problem) or repr(problem)
        with contextlib.suppress(FileNotFoundError):  # a file was replaced: the next call has it
            files, self._known = changes(self._cell, self._known)
        if error is not None:
            self._scratch.cleanup()
        return files, state, error


# --- on the driver --------------------------------------------------------------------------------


class RayWorkers(Workers):
    """The nodes of a Ray cluster as workers of a study."""

    def __init__(self, ray: Any, cells: list[Cell], study: Study) -> None:
        """UsageError if a cell fits on no node, or needs a GPU that is not reserved."""
        if not study.gpus_per_run and any(cell.config.device.startswith("cuda") for cell in cells):
            raise UsageError(
                "--device cuda: reserve a GPU for each run with --gpus-per-run 1, or a share of one"
            )
        self._ray = ray
        needs = {
            "CPU": study.cpus_per_run,
            "GPU": study.gpus_per_run,
            "memory": max(cell.expected_bytes for cell in cells),
        }
        nodes = [
            {"CPU": 0, "GPU": 0, "memory": 0} | node["Resources"]
            for node in ray.nodes()
            if node["Alive"]
        ]
        if not any(all(node[kind] >= need for kind, need in needs.items()) for node in nodes):
            room = [
                f"{n['CPU']:g} cores, {n['GPU']:g} GPUs, {n['memory'] / 1e9:.1f} GB" for n in nodes
            ]
            raise UsageError(
                f"--cpus-per-run {needs['CPU']} --gpus-per-run {needs['GPU']:g}: a run, which "
                f"needs {needs['memory'] / 1e9:.1f} GB, fits on no node of the cluster: "
                f"{'; '.join(room)}"
            )

    def run(self, cell: Cell, study: Study) -> Iterator[str]:
        """See `Workers`. A cell runs on a node that has room; after its loss on another one."""
        errors, losses, outcome = self._ray.exceptions, 0, None
        node = self._ray.remote(Node).options(
            num_cpus=study.cpus_per_run,
            num_gpus=study.gpus_per_run,
            memory=cell.expected_bytes,
        )
        cell.folder.mkdir(exist_ok=True)
        with checkpoints.lock(cell.folder):
            while outcome is None and not self.stopped:
                actor, is_at_work = node.remote(cell, study, changes(cell, {})[0]), False
                state = "node lost, waiting for another" if losses else "waiting for room"
                try:
                    while outcome is None:
                        call = actor.news.remote(self.stopped)
                        while not self._ray.wait([call], timeout=0)[0]:
                            if self.stopped and not is_at_work:
                                return
                            yield state
                        files, state, outcome = self._ray.get(call)
                        write(cell, files)
                        is_at_work, losses = True, 0
                except errors.RayTaskError as failure:
                    raise UsageError(f"on its node: {reason(failure.cause)}") from None
                except errors.RayError as loss:
                    losses += 1
                    # The start of an actor fails on a node without a package, for example.
                    if losses == LOSSES or getattr(loss, "actor_init_failed", False):
                        raise UsageError(
                            f"no node can run the cell: {str(loss).strip().splitlines()[-1]}"
                        ) from None
                finally:
                    self._ray.kill(actor)
        if outcome and not self.stopped:
            raise UsageError(outcome)
