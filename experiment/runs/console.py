"""The output of a run: a live panel on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Self

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE = (
    "frames",
    "frames_per_second",
    "actors_alive",
    "return_mean",
    "loss",
    "epsilon",
    "eval_score",
)  # of a plain line
LINE_SECONDS = 10.0  # between plain lines


def duration(seconds: float) -> str:
    """3725 -> '1:02:05'."""
    return str(timedelta(seconds=int(max(seconds, 0))))


def text(value: Any) -> str:
    """A metric as the panel and reports show it."""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


class Screen:
    """A console with one live panel, where it is a terminal. One that was closed must not end the
    program."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._live = Live(console=self.console, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._try(self._live.start)
        return self

    def __exit__(self, *_: object) -> None:
        self._try(self._live.stop)

    def _try(self, write: Callable[[], object]) -> None:
        try:
            if not self.console.quiet:
                write()
        # The terminal or the pipe was closed; rich itself exits on a broken pipe.
        except (OSError, SystemExit):
            self.console.quiet = True

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._try(lambda: self.console.print(text, markup=False, soft_wrap=True))

    def update(self, panel: Callable[[], RenderableType]) -> bool:
        """Show the panel. False where there is none."""
        self._try(lambda: self._live.update(panel()))
        return self.console.is_terminal


class Display(Screen):
    """Shows every metric as rows come. A plain line at most every LINE_SECONDS where the output is
    no terminal."""

    def __init__(self, title: str, total_frames: int, console: Console | None = None) -> None:
        super().__init__(console)
        self._title, self._total, self._last_line = title, total_frames, -LINE_SECONDS
        self._values: dict[str, Any] = {}
        columns = TextColumn("frames"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        self._progress = Progress(*columns, auto_refresh=False)
        self._task = self._progress.add_task("frames", total=total_frames)

    def show(self, row: Mapping[str, Any]) -> None:
        """The newest metrics; those that `row` lacks stay as they were."""
        values = self._values
        values |= {k: v for k, v in row.items() if v is not None}
        self._progress.update(self._task, completed=values.get("frames", 0))
        if not self.update(self._panel) and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            words = [f"{name} {text(values[name])}" for name in LINE if name in values]
            if rate := values.get("frames_per_second"):
                words.append(f"time left {duration((self._total - values['frames']) / rate)}")
            self.say(", ".join(words))

    def _panel(self) -> RenderableType:
        cells = [
            Text.assemble((f"{name} ", "cyan"), text(value)) for name, value in self._values.items()
        ]
        return Group(Columns(cells, equal=True, title=self._title), self._progress)
