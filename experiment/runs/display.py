"""What a run says while it goes: a live panel on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

LABELS = {
    "frames": "frames",
    "frames_per_second": "frames/s",
    "return_mean": "return, last episodes",
    "loss": "loss",
    "epsilon": "epsilon",
    "eval_score": "evaluation score",
    "eta": "time left",
}


def duration(seconds: float) -> str:
    """3725 -> '1:02:05'."""
    whole = int(max(seconds, 0))
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


class Screen:
    """A console with one live panel, where it is a terminal. One that was closed must not end the program."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._gone = False  # nobody reads any more: the terminal was closed, or the pipe
        self._live = Live(console=self.console, refresh_per_second=4) if self.console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._try(self._live.start)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._try(self._live.stop)

    def _try(self, write: Callable[[], object]) -> None:
        """rich itself exits on a broken pipe."""
        if self._gone:
            return
        try:
            write()
        except (OSError, SystemExit):
            self._gone = True

    def say(self, text: str) -> None:
        """A line that stays."""
        self._try(lambda: self.console.print(text, markup=False, soft_wrap=True))

    def update(self, panel: Callable[[], Table]) -> bool:
        """Show the panel. False where there is none."""
        live = self._live
        if live:
            self._try(lambda: live.update(panel()))
        return live is not None


class Display(Screen):
    """Shows metric rows as they come. A plain line at most every `line_seconds` when the output is no terminal."""

    def __init__(self, title: str, total_frames: int, console: Console | None = None, line_seconds: float = 10.0):
        super().__init__(console)
        self._title, self._total, self._line_seconds = title, total_frames, line_seconds
        self._values: dict[str, Any] = {}
        self._last_line = -float("inf")

    def show(self, row: Mapping[str, Any]) -> None:
        """The newest figures."""
        self._values |= {k: v for k, v in row.items() if k in LABELS and v is not None}
        rate, frames = self._values.get("frames_per_second"), self._values.get("frames", 0)
        if rate:
            self._values["eta"] = duration((self._total - frames) / rate)
        if not self.update(self._panel) and time.monotonic() - self._last_line >= self._line_seconds:
            self._last_line = time.monotonic()
            parts = (f"{label} {_text(self._values[k])}" for k, label in LABELS.items() if k in self._values)
            self.say(", ".join(parts))

    def _panel(self) -> Table:
        table = Table(title=self._title, min_width=48)
        table.add_column("", style="cyan")
        table.add_column("", justify="right")
        for key, label in LABELS.items():
            table.add_row(label, _text(self._values.get(key)))
        return table
