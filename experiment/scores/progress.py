"""A progress bar for work that takes minutes: evaluations and films."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 60.0


def so_far(scores: Sequence[float], steps: int) -> str:
    """The state of an evaluation: the mean of the finished episodes, and the number of steps."""
    mean = f"mean {np.mean(scores):.1f}  " if scores else ""
    return f"{mean}{steps:,} steps"


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Callable[[int, str], None]]:
    """A bar on standard error, or a line a minute if that is no terminal.

    Yields `report(done, note)`, with done from 0 to `total`.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn(f"{escape(unit)}  {{task.fields[note]}}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task, last_line = bar.add_task(escape(title), total=total, note=""), time.monotonic()

        def report(done: int, note: str) -> None:
            nonlocal last_line
            bar.update(task, completed=done, note=escape(note))
            if bar.disable and time.monotonic() - last_line > LINE_SECONDS:
                last_line = time.monotonic()
                print(f"{title}: {done} of {total} {unit}  {note}", file=sys.stderr, flush=True)

        yield report
