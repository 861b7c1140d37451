"""The output of a run: its settings before it starts, a live panel on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from experiment import build

if TYPE_CHECKING:
    from experiment.runs.run import Run

LINE = (
    "frames",
    "frames_per_second",
    "actors_alive",
    "return_mean",
    "loss",
    "epsilon",
    "eval_score",
)  # of a plain line
COLUMNS = 3  # of the panel: metrics side by side


def duration(seconds: float) -> str:
    """3725 -> '1:02:05'."""
    whole = int(max(seconds, 0))
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


class Screen:
    """A console with one live panel, where it is a terminal. One that was closed must not end the program."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._gone = False  # the terminal or the pipe was closed
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
        """Print a line that stays."""
        self._try(lambda: self.console.print(text, markup=False, soft_wrap=True))

    def update(self, panel: Callable[[], RenderableType]) -> bool:
        """Show the panel. False where there is none."""
        live = self._live
        if live:
            self._try(lambda: live.update(panel()))
        return live is not None


class Display(Screen):
    """Shows every metric as rows come. A plain line at most every `line_seconds` where the output is no terminal."""

    def __init__(self, title: str, total_frames: int, console: Console | None = None, line_seconds: float = 10.0):
        super().__init__(console)
        self._line_seconds, self._last_line = line_seconds, -float("inf")
        self._title, self._total = title, total_frames
        self._values: dict[str, Any] = {}
        columns = TextColumn("frames"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        self._progress = Progress(*columns, auto_refresh=False)
        self._task = self._progress.add_task("frames", total=total_frames)

    def show(self, row: Mapping[str, Any]) -> None:
        """The newest metrics; those that `row` lacks stay as they were."""
        self._values |= {k: v for k, v in row.items() if v is not None}
        self._progress.update(self._task, completed=self._values.get("frames", 0))
        if not self.update(self._panel) and time.monotonic() - self._last_line >= self._line_seconds:
            self._last_line = time.monotonic()
            self.say(", ".join([f"{k} {_text(self._values[k])}" for k in LINE if k in self._values] + self._left()))

    def _left(self) -> list[str]:
        rate, frames = self._values.get("frames_per_second"), self._values.get("frames", 0)
        return [f"time left {duration((self._total - frames) / rate)}"] if rate else []

    def _panel(self) -> RenderableType:
        table = Table(title=self._title, show_header=False)
        cells = [cell for name, value in self._values.items() for cell in (name, _text(value))]
        for _ in range(COLUMNS):
            table.add_column(style="cyan")
            table.add_column(justify="right")
        for i in range(0, len(cells), 2 * COLUMNS):
            table.add_row(*cells[i : i + 2 * COLUMNS])
        return Group(table, self._progress)


def announce(run: "Run") -> None:
    """Print game, protocol, network, replay, learning, device and length."""
    c = run.config
    core = c.core if c.core == "identity" else f"{c.core} {c.core_size}"
    print(f"run         {run.folder}" + (f", resumed at {run.frames:,} frames" if run.frames else ""))
    print(f"game        {c.game}, protocol {run.protocol.name}, seed {c.seed}, observe {build.observe(c)}")
    print(
        f"network     {c.preset}: {c.torso} torso, {c.frame_stack} frame{'s' * (c.frame_stack > 1)}, "
        f"core {core}, {run.parameters:,} parameters, {len(run.task.action_names)} actions"
    )
    print(f"replay      {c.replay_rows:,} rows, about {build.expected_bytes(c)['replay'] / 1e9:.2f} GB when full")
    print(f"learning    {c.samples_per_step:g} samples a step, {c.batch_size} x {c.unroll} rows an update")
    print(f"device      {c.device}, {build.precision(c)}, {build.threads(c)} threads")
    print(f"length      {c.frames:,} frames; the first row of metrics tells the speed", flush=True)
