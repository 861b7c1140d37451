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

# The metrics in a plain line, and the seconds between such lines.
LINE = (
    "frames frames_per_second actors_alive weight_age stretches_waiting actor_restarts "
    "return_mean loss epsilon eval_score evaluated"
).split()
LINE_SECONDS = 10.0


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds: 3725 -> '1:02:05'."""
    return str(timedelta(seconds=int(max(seconds, 0))))


def text(value: Any) -> str:
    """A metric as text, for the panel and the reports."""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


class Screen:
    """A console, on a terminal with one live panel. A closed terminal does not end the program."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, emoji=False)
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
        except (OSError, SystemExit):  # a closed terminal or pipe: rich exits on a broken pipe
            self.console.quiet = True

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._try(lambda: self.console.print(text, markup=False, soft_wrap=True))

    def update(self, panel: Callable[[], RenderableType]) -> bool:
        """Show the panel, on a terminal. Returns whether the output is one."""
        self._try(lambda: self._live.update(panel()))
        return self.console.is_terminal


class Display(Screen):
    """Shows every metric of a run; without a terminal, a line at most every LINE_SECONDS."""

    def __init__(self, title: str, total_frames: int, console: Console | None = None) -> None:
        super().__init__(console)
        self._title, self._total, self._last_line = title, total_frames, -LINE_SECONDS
        self._values: dict[str, Any] = {}
        self._progress = Progress(
            TextColumn("frames"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            auto_refresh=False,
        )
        self._task = self._progress.add_task("frames", total=total_frames)

    def show(self, row: Mapping[str, Any]) -> None:
        """Show a row of metrics; those that it lacks keep their last values."""
        values = self._values
        values |= {name: value for name, value in row.items() if value is not None}
        self._progress.update(self._task, completed=values.get("frames", 0))
        if not self.update(self._panel) and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            words = [f"{name} {text(values[name])}" for name in LINE if name in values]
            if rate := values.get("frames_per_second"):
                words.append(f"time left {duration((self._total - values['frames']) / rate)}")
            self.say(", ".join(words))

    def _panel(self) -> RenderableType:
        cells = [Text.assemble((f"{k} ", "cyan"), text(v)) for k, v in self._values.items()]
        return Group(Columns(cells, equal=True, title=self._title), self._progress)
