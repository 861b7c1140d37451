"""The cells of a study on a Ray cluster: each is an actor on any node that has room, and needs no shared file system.

The study's folder stays the truth. An actor gets the files of its run, works in a scratch folder of its node as a
local study would, and hands back what has changed whenever it is asked. When its node is lost, another actor goes on
from the checkpoint in the study's folder.
"""

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from experiment import build
from experiment.runs.session import is_young
from experiment.settings.config import UsageError, save
from experiment.store import checkpoint as checkpoints
from experiment.store.files import reason, refused, replacing
from experiment.store.metrics import MetricsFile
from experiment.studies.jobs import Children, StoppedError
from experiment.studies.study import Cell, Study

SCRATCH, IN_USE = "recall-node-", ".in-use"  # a node's folders for runs, and the file in each that its owner locks
SECONDS = 2.0  # between two looks at a run
LOSSES = 5  # of actors in a row that were lost before they answered: then no node can run the cell
States = dict[str, tuple[int, int]]  # path of a file below runs/ -> its size and the time of its last change
Files = dict[str, np.ndarray]  # path below runs/ -> its bytes


# --- files that travel ---------------------------------------------------------------------------------------------


def states(cell: Cell) -> States:
    """The files of a run, without its older checkpoints. OSError if one vanishes meanwhile."""
    paths = [path for folder in checkpoints.candidates(cell.folder)[:1] for path in folder.iterdir()]
    paths += [path for path in cell.folder.rglob("*") if cell.folder / "checkpoint" not in path.parents]
    paths += [cell.log] * cell.log.exists()
    plain = [path for path in paths if path.is_file() and path.name != "lock" and not path.name.startswith(".")]
    return {
        str(path.relative_to(cell.config.runs_dir)): (path.stat().st_size, path.stat().st_mtime_ns) for path in plain
    }


def changes(cell: Cell, known: States) -> tuple[Files, States]:
    """The files of a run that have changed, and the states that are `known` with them. OSError if one vanishes.

    Nothing if a checkpoint came meanwhile: the rows that are read are never ahead of a checkpoint that should be there,
    and never behind the one that is.
    """
    newest, now = checkpoints.candidates(cell.folder)[:1], states(cell)
    changed = (name for name, state in now.items() if known.get(name) != state)
    files = {name: np.fromfile(cell.config.runs_dir / name, np.uint8) for name in changed}
    return (files, now) if checkpoints.candidates(cell.folder)[:1] == newest else ({}, known)


def write(cell: Cell, files: Files) -> None:
    """Write what `changes` returned to the same run elsewhere. A checkpoint appears whole, and after all else."""
    checkpoint: dict[Path, np.ndarray] = {}
    for name, data in files.items():
        path = cell.config.runs_dir / name
        if path.parent.parent == cell.folder / "checkpoint":
            checkpoint[path] = data
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            data.tofile(temporary)
    for target in {path.parent for path in checkpoint}:  # one or none
        with checkpoints.placed(target) as temporary:
            for path, data in checkpoint.items():
                data.tofile(temporary / path.name)


# --- on the node ---------------------------------------------------------------------------------------------------


class Node:
    """One cell at work in a scratch folder; an actor of Ray."""

    def __init__(self, cell: Cell, study: Study, files: Files) -> None:
        for mark in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*/{IN_USE}"):
            with contextlib.suppress(Timeout, OSError), FileLock(mark, timeout=0):  # its owner was killed
                shutil.rmtree(mark.parent)
        self._scratch = tempfile.TemporaryDirectory(prefix=SCRATCH)
        self._lock = FileLock(Path(self._scratch.name) / IN_USE)
        self._lock.acquire()
        track = {"local": "none", "all": "wandb"}.get(cell.config.track, cell.config.track)  # nobody sees a page here
        self._cell = replace(cell, config=replace(cell.config, runs_dir=Path(self._scratch.name), track=track))
        write(self._cell, files)
        self._known = states(self._cell)
        self._children, self._done = Children(), threading.Event()
        self._state, self._error = "", "stopped"
        threading.Thread(target=self._work, args=(study,), daemon=True).start()

    def _work(self, study: Study) -> None:
        try:
            self._children.run(self._cell, study, lambda state: setattr(self, "_state", state))
            self._error = ""
        except StoppedError:
            pass
        except Exception as error:
            self._error = str(error)
        self._done.set()

    def news(self, stop: bool) -> tuple[Files, str, str | None]:
        """After SECONDS or at the end: the files that have changed; training or evaluating; None while at work, an
        error, or "" when finished. With `stop` the run saves and ends."""
        if stop:
            self._children.stop()
        done, files = self._done.wait(SECONDS), {}
        with contextlib.suppress(FileNotFoundError):  # replaced meanwhile: next time
            files, self._known = changes(self._cell, self._known)
        if done:
            self._scratch.cleanup()
        return files, self._state, self._error if done else None


# --- on the driver -------------------------------------------------------------------------------------------------


class RayWorkers:
    """The nodes of a Ray cluster as workers of a study."""

    def __init__(self, ray: Any, cells: list[Cell], study: Study) -> None:
        """UsageError if a cell fits on no node, or asks for a GPU that is not reserved."""
        if not study.gpus_per_run and any(cell.config.device.startswith("cuda") for cell in cells):
            raise UsageError("--device cuda: reserve a GPU for each run with --gpus-per-run 1, or a share of one")
        self._ray, self._stopped = ray, False
        self._memory = {cell.name: sum(build.expected_bytes(cell.config).values()) for cell in cells}
        needs = {"CPU": study.cpus_per_run, "GPU": study.gpus_per_run, "memory": max(self._memory.values())}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(kind, 0) >= need for kind, need in needs.items()) for node in nodes):
            room = "; ".join(
                f"{n.get('CPU', 0):g} cores, {n.get('GPU', 0):g} GPUs, {n['memory'] / 1e9:.1f} GB" for n in nodes
            )
            raise UsageError(
                f"--cpus-per-run {study.cpus_per_run} --gpus-per-run {study.gpus_per_run:g}: a run, which needs "
                f"{needs['memory'] / 1e9:.1f} GB, fits on no node of the cluster: {room}"
            )

    def stop(self) -> None:
        self._stopped = True

    def run(self, cell: Cell, study: Study, enter: Callable[[str], None]) -> None:
        """Train and score a cell wherever there is room, and elsewhere when its node is lost."""
        errors, state, losses = self._ray.exceptions, "", 0
        resources = {"num_cpus": study.cpus_per_run, "num_gpus": study.gpus_per_run, "memory": self._memory[cell.name]}
        cell.folder.mkdir(exist_ok=True)
        with checkpoints.lock(cell.folder):
            while not self._stopped:
                actor = self._ray.remote(Node).options(**resources).remote(cell, study, to_go_on(cell))
                try:
                    error = None
                    while error is None:
                        files, now, error = self._news(actor, begun=bool(state))
                        write(cell, files)
                        if now != state:
                            enter(now)
                        state, losses = now, 0
                    if error:
                        raise StoppedError if self._stopped else UsageError(error)
                    return
                except errors.RayTaskError as failure:
                    raise UsageError(f"on its node: {reason(failure.cause)}") from None
                except errors.RayError as loss:
                    state, losses = "", losses + 1
                    if losses == LOSSES or getattr(loss, "actor_init_failed", False):  # such as a missing package
                        raise UsageError(f"no node can run the cell: {str(loss).strip().splitlines()[-1]}") from None
                    enter("node lost, waiting for another")
                finally:
                    self._ray.kill(actor)
        raise StoppedError

    def _news(self, actor: Any, begun: bool) -> tuple[Files, str, str | None]:
        """`Node.news` of an actor. StoppedError if it still waits for room when the study is stopped."""
        look = actor.news.remote(self._stopped)
        while not self._ray.wait([look], timeout=1.0)[0]:
            if self._stopped and not begun:
                raise StoppedError
        return self._ray.get(look)


def to_go_on(cell: Cell) -> Files:
    """The files of a run, new or as its newest checkpoint has it. UsageError if they are damaged."""
    position = 0
    with replacing(cell.folder / "config.yaml") as temporary:
        save(cell.config, temporary)
    if checkpoints.saved_frames(cell.folder):
        position = checkpoints.load_latest(cell.folder, training=False, report=print).meta["metrics_position"]
    elif not is_young(cell.folder, cell.config):
        raise UsageError(f"{cell.folder}: holds no checkpoint")
    with refused(cell.folder / "metrics.jsonl", "opened"):
        MetricsFile(cell.folder / "metrics.jsonl", position).close()
    return changes(cell, {})[0]
