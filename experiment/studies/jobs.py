"""The work of a study: training and scoring its cells, several at once, in their own processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from rich.text import Text

from experiment import IS_INSTALLED, ROOT
from experiment.runs.console import Screen, duration
from experiment.runs.session import FREE_ON_RESUME, stop_signals
from experiment.settings.config import UsageError, differences, flag, load, to_yaml
from experiment.store.files import refused, write_text
from experiment.store.metrics import read_rows
from experiment.studies.study import Cell, Result, Study, collect

LOOK_SECONDS = 0.5  # between two looks at the cells at work
LINE_SECONDS = 60.0  # between lines about a run, without a terminal


class Workers:
    """The processes that train and score the cells: children of this one.

    After the death of this process they save and stop (on Linux, which tells them).
    """

    stopped = False

    def stop(self) -> None:
        """Let the cells at work save, and start no more."""
        self.stopped = True

    def run(self, cell: Cell, study: Study) -> Iterator[str]:
        """Train and score one cell, in its folder, side by side with others.

        Yields the state of the work, without waiting, and ends early after `stop`. UsageError if
        the cell fails.
        """
        yield from self._call(cell, "training", "train", *train_words(cell))
        yield from self._call(
            cell,
            "evaluating",
            "evaluate",
            str(cell.folder),
            *_words(
                episodes=study.episodes,
                epsilon=study.epsilon,
                seed=study.eval_seed,
                video=study.video,
                threads=cell.config.threads,
            ),
        )

    def _call(self, cell: Cell, state: str, program: str, *words: str) -> Iterator[str]:
        """Run one of our programs to its end. UsageError with its last line if it fails."""
        if self.stopped:
            return
        # Of an installed copy no script: its folder would come first in the path.
        script = ["-m", "recall", program] if IS_INSTALLED else [str(ROOT / f"{program}.py")]
        with cell.log.open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-c", FOLLOW_PARENT, str(os.getpid()), *script, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONIOENCODING": "utf-8"},  # of the log, in any locale
            )
        while child.poll() is None:
            if self.stopped:
                child.terminate()
            yield state
        if child.returncode and not self.stopped:
            lines = cell.log.read_text("utf-8", errors="replace").rstrip().split("\n")
            reason = lines[-1].removeprefix("error: ") or "no output"
            raise UsageError(f"{program}.py ended with status {child.returncode}: {reason:.300}")


# On Linux the kernel sends a signal at any death of the parent: no run goes on unattended.
FOLLOW_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG; execv keeps it
    os.getppid() == int(sys.argv[1]) or sys.exit("the parent is dead")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def train_words(cell: Cell) -> list[str]:
    """The arguments of train.py that begin a run, or go on with it."""
    config, is_new = cell.config, not cell.folder.exists()
    path = config.runs_dir / f"{cell.name}.yaml" if is_new else cell.folder / "config.yaml"
    if is_new or not path.exists():  # the command was killed before the run's first file
        write_text(path, to_yaml(config))
    if is_new:
        return _words(config=path)
    changed = differences(load(path), config).keys() & FREE_ON_RESUME - {"name", "runs_dir"}
    return _words(resume=cell.folder, **{name: getattr(config, name) for name in sorted(changed)})


def _words(**settings: object) -> list[str]:
    """Settings as the words of a command line."""
    return [word for name, value in settings.items() for word in (flag(name), str(value))]


class Jobs:
    """The work of a study: cells fail separately; after a signal all of them save and stop."""

    def __init__(self, cells: list[Cell], study: Study) -> None:
        self.cells, self.study = cells, study
        self.results: dict[str, Result] = {}
        self.failures: dict[str, str] = {}  # name of a cell -> error
        self._states: dict[str, str] = {}  # name of a cell at work -> its state
        self._screen, self._last_line = Screen(), time.monotonic()

    @property
    def stopped(self) -> bool:
        """Whether a cell has neither finished nor failed."""
        return len(self.results) + len(self.failures) < len(self.cells)

    def run(self, workers: Workers, at_a_time: int) -> None:
        """Work until every cell has finished, failed or stopped. UsageError without a folder."""
        with refused(f"--out {self.study.out}", "made"):
            (self.study.out / "runs").mkdir(parents=True, exist_ok=True)
        waiting, at_work = list(self.cells), dict[str, Iterator[str]]()
        with stop_signals(workers.stop), self._screen:
            while at_work or (waiting and not workers.stopped):
                while waiting and len(at_work) < at_a_time and not workers.stopped:
                    cell = waiting.pop(0)
                    at_work[cell.name] = self._work(cell, workers)
                for name, states in list(at_work.items()):
                    state = next(states, None)
                    if state is None:
                        del at_work[name], self._states[name]
                    elif state != self._states.get(name):
                        self._states[name] = state
                        self._screen.say(f"{name}: {state}")
                self._show()
                time.sleep(LOOK_SECONDS)

    def _work(self, cell: Cell, workers: Workers) -> Iterator[str]:
        """Train one cell to its last frame and score it, yielding its state."""
        try:
            yield from workers.run(cell, self.study)
            if workers.stopped:
                yield "stopped"
            else:
                result = self.results[cell.name] = collect(cell, self.study)
                yield f"finished, score {result.mean:.1f}"
        except Exception as error:  # of any kind: it concerns this cell only
            self.failures[cell.name] = f"{error}; see {cell.log}"
            yield f"failed: {error}"

    def _show(self) -> None:
        """Update the panel; without a terminal, print a line a minute about each cell at work."""
        lines = [
            f"{cell.name}: {self._states[cell.name]}{_progress(cell)}"
            for cell in self.cells
            if cell.name in self._states
        ]
        hint = (
            f"{len(self.results) + len(self.failures)} of {len(self.cells)} runs; "
            "stop with Ctrl-C, repeat the command to continue"
        )
        has_panel = self._screen.update(lambda: Text("\n".join([*lines, hint])))
        if lines and not has_panel and time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            self._screen.say("\n".join(lines))


def _progress(cell: Cell) -> str:
    """A run's share of its frames, newest score and time left; "" before its first metrics."""
    try:
        last = {  # the newest value of each metric
            key: value
            for row in read_rows(cell.folder / "metrics.jsonl")[0]
            for key, value in row.items()
            if value is not None
        }
        done, total = last["frames"], cell.config.frames
        score = last.get("eval_score", last.get("return_mean", float("nan")))
        seconds = (total - done) / last["frames_per_second"]
        return f", {done / total:.0%}, score so far {score:.1f}, {duration(seconds)} left"
    except (OSError, ValueError, KeyError):
        return ""
