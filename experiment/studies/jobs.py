"""Runs the cells of a study, several at once, each on its own cores, and shows how far they are."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rich.console import Console
from rich.table import Table

from experiment.runs.console import Screen, duration
from experiment.runs.session import stop_signals
from experiment.settings import config as settings
from experiment.settings.config import UsageError, flag
from experiment.studies.study import Cell, Terms, is_number, result, rows

ROOT = Path(__file__).resolve().parents[2]
LINE_SECONDS = 60.0  # between lines on a run, where there is no live table


def core_shares(jobs: int) -> list[list[int]]:
    """As many cores for each job, no core for two. UsageError if there are fewer cores than jobs."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if jobs > len(cores):
        raise UsageError(f"--jobs {jobs}: this process may use {len(cores)} cores")
    size = len(cores) // max(jobs, 1)
    return [cores[i * size : (i + 1) * size] for i in range(jobs)]


class _StoppedError(Exception):
    """The user wants to stop."""


class Grid:
    """Trains and scores every cell that is not done yet. A cell that fails does not stop the others."""

    def __init__(self, cells: list[Cell], terms: Terms, video: str, console: Console | None = None) -> None:
        self.cells, self.terms, self.video = cells, terms, video
        self.states = {cell.folder: "waiting" for cell in cells}
        self.failures: dict[Path, str] = {}
        self.results: dict[Path, dict[str, Any]] = {}
        self.stopped = False
        self._screen = Screen(console)
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()  # of the children, and of what is asked of them
        self._last_line = time.monotonic()
        self._newest: dict[Path, tuple[int, dict[str, float]]] = {}  # size of metrics.jsonl, newest of each figure

    def run(self, jobs: int) -> None:
        """Until every cell is done, has failed or, after a signal, has saved and left."""
        shares: SimpleQueue[list[int]] = SimpleQueue()
        for share in core_shares(jobs):
            shares.put(share)

        def pin() -> None:
            """This thread's cores, and so those of the programs it starts: two on one core would slow each other."""
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, shares.get())

        for cell in self.cells:  # first, so that they count as done from the beginning
            with contextlib.suppress(UsageError):  # said where its turn comes
                self.states[cell.folder] = "done" if self.collect(cell) else "waiting"
        with stop_signals(self.stop), self._screen, ThreadPoolExecutor(jobs, initializer=pin) as pool:
            self._screen.say(f"{len(self.results)} of {len(self.cells)} runs are finished")
            left, told = {pool.submit(self._finish, cell) for cell in self.cells}, False
            while left:
                left = wait(left, timeout=1.0).not_done
                if self.stopped and not told:
                    told = True
                    with self._lock:
                        for child in self._children:
                            child.terminate()  # train.py saves and leaves
                self._show()

    def stop(self) -> None:
        """Let the runs save, and begin no more."""
        self.stopped = True

    # --- one cell ----------------------------------------------------------------------------------------------

    def _finish(self, cell: Cell) -> None:
        """Train it to its last frame, or as far as is missing, and score it."""
        try:
            if self.stopped:
                raise _StoppedError
            if not self.collect(cell):
                if not cell.is_trained:
                    self._enter(cell, "training")
                    self._call(cell, "train.py", _train_words(cell))
                    if not cell.is_trained:
                        raise UsageError(f"stopped at {cell.frames:,} frames")
                self._enter(cell, "evaluating")
                words = [str(cell.folder), "--episodes", str(self.terms.episodes), "--epsilon", str(self.terms.epsilon)]
                words += ["--seed", str(self.terms.seed), "--threads", cell.settings["threads"], "--video", self.video]
                self._call(cell, "evaluate.py", words)
                if not self.collect(cell):
                    raise UsageError("its evaluation cannot be read, or is of an older checkpoint")
            self._enter(cell, "done")
        except _StoppedError:
            self._enter(cell, "stopped" if self.states[cell.folder] != "waiting" else "waiting")
        except Exception as error:  # whatever it is, it is this cell's, and the others go on
            self.failures[cell.folder] = str(error)
            self._enter(cell, "failed", str(error))

    def collect(self, cell: Cell) -> bool:
        """Take its result, if it is finished."""
        if found := result(cell, self.terms):
            self.results[cell.folder] = found
            self.failures.pop(cell.folder, None)  # another process may have finished what failed here
        return bool(found)

    def _enter(self, cell: Cell, state: str, why: str = "") -> None:
        if self.states[cell.folder] != state:
            self.states[cell.folder] = state
            self._screen.say(f"{cell.folder.name}: {state}" + (f" ({why}); see {cell.log}" if why else ""))

    def _call(self, cell: Cell, program: str, words: list[str]) -> None:
        """A program of ours, to its end. UsageError with its own last line if it fails."""
        with self._lock, cell.log.open("ab") as log:
            if self.stopped:
                raise _StoppedError
            command = [sys.executable, str(ROOT / program), *words]
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            self._children.add(child)
        status = child.wait()
        with self._lock:
            self._children.discard(child)
        if self.stopped and (status or not cell.is_trained):
            raise _StoppedError
        if status:
            said = cell.log.read_text(errors="replace").strip().splitlines()
            reason = said[-1].removeprefix("error: ") if said else "without a word"
            raise UsageError(f"{program} ended with status {status}: {reason:.300}")

    # --- what the user sees ------------------------------------------------------------------------------------

    def _show(self) -> None:
        if self._screen.update(self._table) or time.monotonic() - self._last_line < LINE_SECONDS:
            return
        self._last_line = time.monotonic()
        for cell in self.cells:
            if self.states[cell.folder] == "training":
                frames, score, left, _ = self._progress(cell)
                self._screen.say(f"{cell.folder.name}: {frames:,} frames, score so far {score}, {left} left")

    def _progress(self, cell: Cell) -> tuple[int, str, str, float]:
        """Frames so far, the last evaluation's score, time left, frames a second; from the newest rows."""
        path = cell.folder / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        seen, newest = self._newest.get(cell.folder, (0, {}))
        if size != seen:
            with contextlib.suppress(UsageError):  # its last row is half written: next time
                newest = {k: v for row in rows(cell, tail=True) for k, v in row.items() if is_number(v)}
                self._newest[cell.folder] = size, newest
        frames, rate = int(newest.get("frames", 0)), float(newest.get("frames_per_second", 0))
        score = newest.get("eval_score", newest.get("return_mean"))
        left = duration((cell.config.frames - frames) / rate) if rate else "-"
        return frames, "-" if score is None else f"{score:.1f}", left, rate

    def _table(self) -> Table:
        """The grid; where it is higher than the terminal, first what runs and what failed."""
        table = Table(min_width=72)
        for name in ("run", "state", "frames", "score so far", "time left"):
            table.add_column(name, justify="left" if name in ("run", "state") else "right")
        order = ("training", "evaluating", "failed", "stopped", "waiting", "done")
        lines, missing, speed = [], 0, 0.0
        for cell in sorted(self.cells, key=lambda cell: order.index(self.states[cell.folder])):
            state = self.states[cell.folder]
            frames, score, left, rate = self._progress(cell)
            if done := self.results.get(cell.folder):
                frames, score = done["frames"], f"{done['mean']:.1f}"
            missing += max(cell.config.frames - frames, 0) if state in ("training", "waiting") else 0
            speed += rate if state == "training" else 0
            lines.append((cell.folder.name, state, f"{frames:,}", score, left if state == "training" else ""))
        room = max(self._screen.console.height - 8, 4)
        for line in lines[:room]:
            table.add_row(*line)
        finished = sum(state == "done" for state in self.states.values())
        hidden = f", {len(lines) - room} not shown" if len(lines) > room else ""
        left = f", about {duration(missing / speed)} left" if speed else ""
        table.caption = f"{finished} of {len(lines)} done{hidden}{left}; stop with Ctrl-C, the same command goes on"
        return table


def flags(settings: dict[str, str]) -> list[str]:
    """{"frame_stack": "4"} -> ["--frame-stack", "4"]."""
    return [word for k, v in settings.items() for word in (flag(k), v)]


def _train_words(cell: Cell) -> list[str]:
    """The words that begin a run, or go on with it; its folder says the preset, its name and its place."""
    if not cell.folder.exists():
        settings.save(cell.config, cell.log.with_suffix(".yaml"))
        return ["--config", str(cell.log.with_suffix(".yaml"))]
    kept = {k: v for k, v in cell.settings.items() if k not in ("name", "runs_dir")}
    return ["--resume", str(cell.folder), *flags(kept)]
