"""The cells of a study on a Ray cluster: each is an actor on any node that has room, and needs no
shared file system.

The study's folder stays the truth. An actor gets the files of its run, works in a scratch folder of
its node as a local study would, and hands back what has changed whenever it is asked. When its node
is lost, another actor goes on from the checkpoint in the study's folder.
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

from experiment import build
from experiment.settings.config import UsageError, save
from experiment.store import checkpoint as checkpoints
from experiment.store.files import reason, replacing
from experiment.studies.jobs import Children, StoppedError
from experiment.studies.study import Cell, Study

# A node's folders for runs, and the file in each that its owner locks.
SCRATCH, IN_USE = "recall-node-", ".in-use"
SECONDS = 2.0  # between two looks at a run
LOSSES = 5  # of actors in a row that were lost before they answered: then no node can run the cell
# Path of a file below runs/ -> its size and the time of its last change.
States = dict[str, tuple[int, int]]
Files = dict[str, np.ndarray]  # path below runs/ -> its bytes


# --- files that travel ----------------------------------------------------------------------------


def changes(cell: Cell, known: States) -> tuple[Files, States]:
    """The files of a run that have changed, and the states that are `known` with them: without its
    older checkpoints.

    OSError if a file vanishes meanwhile. Nothing if a checkpoint came meanwhile: the rows that are
    read are never ahead of a checkpoint that should be there, and never behind the one that is.
    """
    runs, newest = cell.config.runs_dir, checkpoints.candidates(cell.folder)[:1]
    now: States = {}
    for path in (*cell.folder.rglob("*"), cell.log):
        old = cell.folder / "checkpoint" in path.parents and path.parent not in newest
        if path.is_file() and not old and path.name != "lock" and not path.name.startswith("."):
            now[str(path.relative_to(runs))] = path.stat().st_size, path.stat().st_mtime_ns
    files = {
        name: np.fromfile(runs / name, np.uint8)
        for name, state in now.items()
        if known.get(name) != state
    }
    return (files, now) if checkpoints.candidates(cell.folder)[:1] == newest else ({}, known)


def write(cell: Cell, files: Files) -> None:
    """Write what `changes` returned to the same run elsewhere. A checkpoint appears whole, and
    after all else."""
    checkpoint = []
    for path, data in ((cell.config.runs_dir / name, data) for name, data in files.items()):
        if cell.folder / "checkpoint" in path.parents:
            checkpoint.append((path, data))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                data.tofile(temporary)
    if checkpoint:
        with checkpoints.placed(checkpoint[0][0].parent) as temporary:
            for path, data in checkpoint:
                data.tofile(temporary / path.name)


# --- on the node ----------------------------------------------------------------------------------


class Node:
    """One cell at work in a scratch folder; an actor of Ray."""

    def __init__(self, cell: Cell, study: Study, files: Files) -> None:
        for mark in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*/{IN_USE}"):
            # Its owner was killed.
            with contextlib.suppress(Timeout, OSError), FileLock(mark, timeout=0):
                shutil.rmtree(mark.parent)
        self._scratch = tempfile.TemporaryDirectory(prefix=SCRATCH)
        self._lock = FileLock(Path(self._scratch.name) / IN_USE).acquire()
        # Nobody sees a page here.
        track = {"local": "none", "all": "wandb"}.get(cell.config.track, cell.config.track)
        self._cell = replace(
            cell, config=replace(cell.config, runs_dir=Path(self._scratch.name), track=track)
        )
        write(self._cell, files)
        self._known = changes(self._cell, {})[1]
        self._children, self._state = Children(), ""
        self._work = self._children.run(self._cell, study)

    def news(self, stop: bool) -> tuple[Files, str, str | None]:
        """After SECONDS or at the end: the files that have changed; training or evaluating; None
        while at work, an error, or "" when finished. With `stop` the run saves and ends."""
        if stop:
            self._children.stop()
        error, end, files = None, time.monotonic() + SECONDS, {}
        try:
            while time.monotonic() < end:
                self._state = next(self._work)
                time.sleep(0.1)
        except StopIteration:
            error = ""
        except Exception as problem:
            error = str(problem) or "stopped"
        with contextlib.suppress(FileNotFoundError):  # replaced meanwhile: next time
            files, self._known = changes(self._cell, self._known)
        if error is not None:
            self._scratch.cleanup()
        return files, self._state, error


# --- on the driver --------------------------------------------------------------------------------


class RayWorkers:
    """The nodes of a Ray cluster as workers of a study."""

    def __init__(self, ray: Any, cells: list[Cell], study: Study) -> None:
        """UsageError if a cell fits on no node, or asks for a GPU that is not reserved."""
        if not study.gpus_per_run and any(cell.config.device.startswith("cuda") for cell in cells):
            raise UsageError(
                "--device cuda: reserve a GPU for each run with --gpus-per-run 1, or a share of one"
            )
        self._ray, self._stopped = ray, False
        self._memory = {
            cell.name: sum(build.expected_bytes(cell.config).values()) for cell in cells
        }
        needs = {
            "CPU": study.cpus_per_run,
            "GPU": study.gpus_per_run,
            "memory": max(self._memory.values()),
        }
        nodes = [{"CPU": 0, "GPU": 0} | node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node[kind] >= need for kind, need in needs.items()) for node in nodes):
            room = [
                f"{n['CPU']:g} cores, {n['GPU']:g} GPUs, {n['memory'] / 1e9:.1f} GB" for n in nodes
            ]
            raise UsageError(
                f"--cpus-per-run {study.cpus_per_run} --gpus-per-run {study.gpus_per_run:g}: a "
                "run, which needs "
                f"{needs['memory'] / 1e9:.1f} GB, fits on no node of the cluster: {'; '.join(room)}"
            )

    def stop(self) -> None:
        self._stopped = True

    def run(self, cell: Cell, study: Study) -> Iterator[str]:
        """Train and score a cell wherever there is room, and elsewhere when its node is lost."""
        errors, losses = self._ray.exceptions, 0
        resources = {
            "num_cpus": study.cpus_per_run,
            "num_gpus": study.gpus_per_run,
            "memory": self._memory[cell.name],
        }
        cell.folder.mkdir(exist_ok=True)
        with checkpoints.lock(cell.folder):
            while not self._stopped:
                actor = (
                    self._ray.remote(Node).options(**resources).remote(cell, study, to_go_on(cell))
                )
                begun, error = False, None
                state = "node lost, waiting for another" if losses else "waiting for room"
                try:
                    while error is None:
                        look = actor.news.remote(self._stopped)
                        while not self._ray.wait([look], timeout=0)[0]:
                            if self._stopped and not begun:
                                raise StoppedError
                            yield state
                        files, state, error = self._ray.get(look)
                        write(cell, files)
                        begun, losses = True, 0
                    if error:
                        raise StoppedError if self._stopped else UsageError(error)
                    return
                except errors.RayTaskError as failure:
                    raise UsageError(f"on its node: {reason(failure.cause)}") from None
                except errors.RayError as loss:
                    losses += 1
                    # Such as a missing package.
                    if losses == LOSSES or getattr(loss, "actor_init_failed", False):
                        raise UsageError(
                            f"no node can run the cell: {str(loss).strip().splitlines()[-1]}"
                        ) from None
                finally:
                    self._ray.kill(actor)
        raise StoppedError


def to_go_on(cell: Cell) -> Files:
    """The files of a run, new or old: on the node it goes on from its newest checkpoint."""
    with replacing(cell.folder / "config.yaml") as temporary:
        save(cell.config, temporary)
    return changes(cell, {})[0]
