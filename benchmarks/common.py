"""Shared by the commands: rows of the table, measurements in turn, and real runs to measure."""

import agents  # isort: skip  # noqa: F401  (sets OpenMP: before anything imports torch)

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from experiment.runs.run import Run
from experiment.runs.session import open_run
from experiment.settings import config as settings
from experiment.settings.config import Config
from experiment.store.provenance import machine
from train import train

ROOT = Path(__file__).resolve().parents[1]
SCRATCH = ROOT / ".bench-venv" / "scratch"  # on the disk that runs are kept on
FOREVER = 10**12
LEARNING = 2_000  # rows of a preset's run before it learns
console = Console(width=150, highlight=False)


@dataclass(frozen=True)
class Effort:
    """How long and how often is measured."""

    pairs: int = 5
    seconds: float = 5.0  # of a turn against a peer
    rows: int = 1_000_000  # of a replay


QUICK = Effort(1, 2.0, 50_000)  # shows that the commands work; its figures mean nothing


@dataclass(frozen=True)
class Row:
    """One line of the table: `ratio` is ours / other."""

    name: str
    ours: float
    other: float
    unit: str
    ratio: float
    sense: str  # ">=" or "<=": the side of the target where the ratio should be
    target: float
    pairs: int
    note: str = ""

    @property
    def met(self) -> bool:
        return self.ratio >= self.target if self.sense == ">=" else self.ratio <= self.target


def compare(
    name: str,
    ours: Sequence[float],
    other: Sequence[float],
    unit: str,
    sense: str,
    target: float,
    note: str = "",
) -> Row:
    """A row from measurements that alternated: the median ratio of the pairs, and both medians."""
    ratio = median(a / b for a, b in zip(ours, other, strict=True))
    return Row(name, median(ours), median(other), unit, ratio, sense, target, len(ours), note)


def better(sides: Mapping[str, Sequence[float]]) -> str:
    """The name of the side with the highest median."""
    return max(sides, key=lambda name: median(sides[name]))


def alternate(*sides: Callable[[], float], pairs: int) -> list[list[float]]:
    """Measure every side in turn, `pairs` times: a list of measurements for each side."""
    rounds = [[side() for side in sides] for _ in range(pairs)]
    return [list(measurements) for measurements in zip(*rounds, strict=True)]


def seconds(act: Callable[[], object], times: int = 1) -> float:
    """Seconds that one call takes, from `times` calls."""
    start = time.perf_counter()
    for _ in range(times):
        act()
    return (time.perf_counter() - start) / times


def to_json(row: Row, about: Mapping[str, object]) -> dict[str, object]:
    return {**asdict(row), "met": row.met, **about}


def from_json(data: Mapping[str, Any]) -> Row:
    return Row(**{name: data[name] for name in Row.__dataclass_fields__})


def show(rows: list[Row]) -> None:
    """Print the table and the notes below it."""
    columns = "what", "ours", "other", "unit", "ratio", "target", "met", "pairs"
    shown = Table(*columns, title="medians; sides in turn")
    for row in rows:
        figures = f"{row.ours:,.4g}", f"{row.other:,.4g}", row.unit, f"{row.ratio:.3g}"
        met = f"{row.sense} {row.target:.3g}", "yes" if row.met else "NO"
        shown.add_row(row.name, *figures, *met, str(row.pairs))
    console.print(shown)
    for row in rows:
        console.print(f"{row.name}: {row.note}", markup=False)


def describe_machine() -> dict[str, object]:
    """Machine, versions and commit, as kept beside every row."""
    about, memory = machine(), round(psutil.virtual_memory().total / 2**30)
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    pins = (ROOT / "benchmarks" / "requirements.txt").read_text().splitlines()
    pins = [pin.split("#")[0].strip() for pin in pins]
    peers = dict(pin.split("==") for pin in pins if pin.startswith(("stable", "sb3", "pfrl")))
    return {
        "machine": f"{about.pop('cpu')}, {os.cpu_count()} cores, {memory} GiB, {platform.system()}",
        "versions": {**about, "gymnasium": version("gymnasium"), **peers},
        "commit": done.stdout.strip() or "unknown",
    }


@contextmanager
def running(source: str | Config, **changes: Any) -> Iterator[Run]:
    """A real run, of a preset or of settings, in a folder that goes away.

    It neither evaluates nor saves by itself.
    """
    SCRATCH.mkdir(parents=True, exist_ok=True)
    if isinstance(source, str):
        source = replace(settings.preset(source), start_rows=LEARNING)
    fixed: dict[str, Any] = dict(frames=FOREVER, checkpoint_frames=FOREVER, eval_frames=0)
    with TemporaryDirectory(dir=SCRATCH) as folder:
        fixed |= dict(track="none", runs_dir=Path(folder), name="run")
        with open_run(replace(source, **(fixed | changes)), quiet=True) as run:
            yield run


@contextmanager
def after_each_step(run: Run, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` after every step of all envs of the training loop."""
    advance = run.advance

    def advance_and_act(*arguments: Any) -> None:
        advance(*arguments)
        act()

    vars(run)["advance"] = advance_and_act
    try:
        yield
    finally:
        del vars(run)["advance"]


def updates_per_step(config: Config) -> Fraction:
    """Updates for one step of all envs; its denominator is the steps of a whole number of them."""
    return Fraction(config.samples_per_step) * config.num_envs / (config.batch_size * config.unroll)


def go(run: Run, steps: int) -> None:
    """`steps` steps of all envs of the training loop itself.

    KeyboardInterrupt if the run is told to stop.
    """
    left = [steps]

    def count() -> None:
        left[0] -= 1
        run.stop_asked = run.stop_asked or left[0] == 0

    with after_each_step(run, count):
        train(run)
    if left[0] > 0:
        raise KeyboardInterrupt
    run.stop_asked = False


def warm_up(run: Run, updates: int = 10) -> None:
    """Train until learning is under way."""
    while run.learner.updates < updates:
        go(run, 4)
