"""Trains and scores the cells of a study, several at once, each in processes of its own."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.progress_bar import ProgressBar
from rich.table import Table

from experiment.runs.console import Screen, duration
from experiment.runs.session import stop_signals
from experiment.settings.config import UsageError, flag, save
from experiment.store.files import replacing
from experiment.store.metrics import read_rows
from experiment.studies.study import Cell, Result, Study, collect, finished

ROOT = Path(__file__).resolve().parents[2]
LINE_SECONDS = 60.0  # between lines about a run, where the output is no terminal


class StoppedError(Exception):
    """The user asked to stop."""


class Workers(Protocol):
    """Where the cells of a study are trained and scored."""

    def run(self, cell: Cell, study: Study, enter: Callable[[str], None]) -> None:
        """Train and score one cell, in its folder; `enter` is told what begins. Many threads call it at once.

        StoppedError after `stop`, UsageError if the cell fails.
        """

    def stop(self) -> None:
        """Let the cells at work save, and start no more."""


class Children:
    """Child processes of this one, which save and stop when this one dies."""

    def __init__(self) -> None:
        self._stopped = False
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()  # between starting a child and stopping all

    def run(self, cell: Cell, study: Study, enter: Callable[[str], None]) -> None:
        enter("training")
        self._call(cell, "train.py", *train_words(cell))
        enter("evaluating")
        rules = ["--episodes", study.episodes, "--epsilon", study.epsilon, "--seed", study.eval_seed]
        rules += ["--threads", cell.config.threads, "--video", study.video]
        self._call(cell, "evaluate.py", str(cell.folder), *map(str, rules))

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.terminate()

    def _call(self, cell: Cell, program: str, *words: str) -> None:
        """Run one of our programs to its end. UsageError with its last line if it fails."""
        with self._lock, cell.log.open("ab") as log:
            if self._stopped:
                raise StoppedError
            command = [sys.executable, "-c", FOLLOW_PARENT, str(os.getpid()), str(ROOT / program), *words]
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            self._children.add(child)
        status = child.wait()
        with self._lock:
            self._children.remove(child)
        if self._stopped:
            raise StoppedError
        if status:
            lines = cell.log.read_text("utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "no output").removeprefix("error: ")
            raise UsageError(f"{program} ended with status {status}: {last:.300}")


# A signal of the kernel (Linux) when the parent dies, however it dies, so that no run goes on unattended.
FOLLOW_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG; execv keeps it
    os.getppid() == int(sys.argv[1]) or sys.exit("the parent is dead")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def train_words(cell: Cell) -> list[str]:
    """The arguments that begin a run, or go on with it."""
    config = cell.config
    if cell.folder.exists():
        changes = {k: str(getattr(config, k)) for k in ("frames", "checkpoint_frames", "threads", "track")}
        return ["--resume", str(cell.folder), *(word for k, v in changes.items() for word in (flag(k), v))]
    path = config.runs_dir / f"{cell.name}.yaml"
    with replacing(path) as temporary:
        save(config, temporary)
    return ["--config", str(path)]


class Jobs:
    """The work of a study. A cell that fails does not stop the others; after a signal all of them save and stop."""

    def __init__(self, cells: list[Cell], study: Study) -> None:
        self.cells, self.study = cells, study
        self.results: dict[str, Result] = {}
        self.failures: dict[str, str] = {}
        self.stopped = False
        self._running: dict[str, str] = {}  # name of a cell -> training or evaluating
        self._screen, self._last_line = Screen(), time.monotonic()

    def run(self, workers: Workers | None, at_a_time: int) -> None:
        """Return when every cell is finished, has failed or is stopped. Without workers: take the results that are
        there."""
        stop = workers.stop if workers else lambda: None
        with stop_signals(stop), self._screen, ThreadPoolExecutor(at_a_time) as pool:
            waiting = {pool.submit(self._finish, cell, workers) for cell in self.cells}
            while waiting:
                waiting = wait(waiting, timeout=1.0).not_done
                self._show()

    def _finish(self, cell: Cell, workers: Workers | None) -> None:
        """Train one cell to its last frame and score it, unless its result is there."""
        try:
            result = finished(cell, self.study)
            if workers and not result:
                workers.run(cell, self.study, partial(self._enter, cell))
                result = collect(cell, self.study)
                self._enter(cell, f"finished, score {result.mean:.1f}")
            if result:
                self.results[cell.name] = result
        except StoppedError:
            self.stopped = True
            self._enter(cell, "stopped")
        except Exception as error:  # of whatever kind: it concerns this cell only
            self.failures[cell.name] = f"{error}; see {cell.log}"
            self._enter(cell, f"failed: {error}")
        self._running.pop(cell.name, None)

    # --- what the user sees ----------------------------------------------------------------------------------------

    def _enter(self, cell: Cell, state: str) -> None:
        self._running[cell.name] = state
        self._screen.say(f"{cell.name}: {state}")

    def _show(self) -> None:
        """Update the table; without a terminal, print a line about each running cell once in a while."""
        running = dict(self._running)  # threads change it
        rows = [(f"{cell.name} {running[cell.name]}", *_progress(cell)) for cell in self.cells if cell.name in running]
        if self._screen.update(lambda: self._table(rows)) or time.monotonic() - self._last_line < LINE_SECONDS:
            return
        self._last_line = time.monotonic()
        for name, share, score, left in rows:
            self._screen.say(f"{name}: {share:.0%}, score so far {score}, {left} left")

    def _table(self, rows: list[tuple[str, float, str, str]]) -> Table:
        done = len(self.results) + len(self.failures)
        table = Table.grid(padding=(0, 1))
        table.caption = f"{done} of {len(self.cells)} runs; stop with Ctrl-C, repeat the command to continue"
        for name, share, score, left in rows:
            table.add_row(name, ProgressBar(1.0, share, width=20), f"score {score}", f"{left} left")
        return table


def _progress(cell: Cell) -> tuple[float, str, str]:
    """The share of its frames that a run has made, its newest score, and the time left; before its first metrics 0."""
    try:
        rows, _ = read_rows(cell.folder / "metrics.jsonl")
        row = {key: value for row in rows for key, value in row.items() if value is not None}  # the newest of each
        left = duration((cell.config.frames - row["frames"]) / row["frames_per_second"])
        score = row.get("eval_score", row.get("return_mean", float("nan")))
        return row["frames"] / cell.config.frames, f"{score:.1f}", left
    except (OSError, ValueError, KeyError):
        return 0.0, "-", "?"
