"""All figures: PNG files in one style.

Lines differ in colour, dashes and marker, for print and for colour-blind readers: the colours are
those of Okabe and Ito. Names appear literally: matplotlib's markup is off.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from envs.screens import KINDS, Observe
from experiment.scores.intervals import mean_interval
from experiment.store.files import replacing

# Okabe and Ito's, without the yellow, which is faint on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES, MARKERS = ("-", "--", "-.", ":"), "osD^vPX*<>phd"
WIDTH, DPI = 5.6, 130  # of a panel in inches; dots an inch
LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "axes.ymargin": 0.08,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "savefig.bbox": "tight",
    "text.parse_math": False,  # "$" in a name is a dollar
}
DOTTED: dict[str, Any] = {"color": "#666666", "lw": 0.9, "ls": (0, (1, 2))}
BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)}
SMALL: dict[str, Any] = {"fontsize": 7.5, "color": "#555555"}


@dataclass(frozen=True)
class Line:
    """Values against x with their interval; sequences of one length. Words as x are categories."""

    name: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float]
    low: Sequence[float] = ()  # NaN, or an empty sequence: no interval
    high: Sequence[float] = ()
    # (x, y) of each run in the mean
    runs: Sequence[tuple[Sequence[float], Sequence[float]]] = ()


def style(index: int) -> dict[str, Any]:
    """Colour, dashes and marker of a figure's line; the first 28 all differ."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "ls": DASHES[(index + index // len(COLOURS)) % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


@contextmanager
def figure(path: Path, height: float, panels: int = 1) -> Iterator[tuple[Axes, ...]]:
    """The panels of a PNG, side by side; the block draws them, its end writes the file.

    `height` in inches. OSError if the file cannot be written.
    """
    with matplotlib.rc_context(LOOK):
        image = Figure(figsize=(panels * WIDTH, height))
        yield tuple(image.add_subplot(1, panels, 1 + i) for i in range(panels))
        with replacing(path) as temporary:
            image.savefig(temporary, format="png", dpi=DPI)


def draw_lines(
    path: Path,
    lines: Sequence[Line],
    *,
    names: Sequence[str] = (),
    levels: Mapping[str, float] = {},
    **axes: Any,
) -> None:
    """A PNG of lines: means thick, intervals as bands, single runs thin.

    A line's style follows from its place in `names` (default: the lines' names), so that it is the
    same in several figures. `levels` are named dotted lines. `axes` are matplotlib's: title,
    xlabel, ylabel, yscale, ylim, ... OSError if the file cannot be written.
    """
    with figure(path, 3.6) as (plot,):
        _draw_lines(plot, lines, names, levels, **axes)
        if len(lines) > 1:
            plot.legend(**BESIDE)


def draw_sweep(
    path: Path, scores: Mapping[str, Mapping[Observe, Sequence[float]]], title: str
) -> None:
    """A PNG of scores against the parameter of a screen: agent -> screen -> scores [episodes].

    The generalisation figure of Hausknecht & Stone 2015, a line for each agent. The first screen of
    each agent hides nothing; the right panel shows scores as shares of the score on that screen.
    OSError if the file cannot be written.
    """
    absolute, shares, kind = [], [], ""
    for name, of_screen in scores.items():
        clear, kind = next(iter(of_screen)), list(of_screen)[-1].kind
        screens = sorted((s for s in of_screen if s.kind == kind), key=lambda s: s.parameter)
        # The paper's axis is the probability that a frame is shown.
        x = [1 - s.parameter if kind == "flicker" else s.parameter for s in screens]
        mean, low, high = np.array(
            [(np.mean(of_screen[s]), *mean_interval(of_screen[s])) for s in screens]
        ).T
        absolute.append(Line(name, x, mean, low, high))
        # A share of a score of 0 or less has no meaning.
        if (whole := float(np.mean(of_screen[clear]))) > 0:
            shares.append(Line(name, x, 100 * mean / whole))
    axis = "probability that a frame is shown" if kind == "flicker" else KINDS[kind].meaning
    with figure(path, 3.6, panels=2) as (left, right):
        _draw_lines(
            left, absolute, [*scores], {}, xlabel=axis, ylabel="score, 95 % interval over episodes"
        )
        _draw_lines(
            right,
            shares,
            [*scores],
            {},
            xlabel=axis,
            ylabel="% of the score when nothing is hidden",
        )
        left.figure.suptitle(title)
        right.legend(*left.get_legend_handles_labels(), **BESIDE)


def draw_bars(
    path: Path,
    bars: Mapping[str, Sequence[float]],
    *,
    singles: Mapping[str, Sequence[float]] = {},
    names: Sequence[str] = (),
    levels: Mapping[str, float] = {},
    **axes: Any,
) -> None:
    """A PNG of `bars`, name -> value, low, high of its interval, one below the other.

    `singles` are the single values in a bar, by its name; other arguments as of `draw_lines`.
    OSError if the file cannot be written.
    """
    with figure(path, 0.8 + 0.42 * len(bars)) as (plot,):
        for row, (name, (value, *interval)) in enumerate(bars.items()):
            look: dict[str, Any] = style((names or [*bars]).index(name)) | {"ls": "none"}
            plot.plot(
                interval,
                [row, row],
                lw=5,
                color=look["color"],
                alpha=0.3,
                solid_capstyle="butt",
            )
            single = singles.get(name, ())
            plot.plot(single, [row + 0.22] * len(single), **look, ms=4, mfc="none")
            plot.plot([value], [row], **look, ms=7)
        for name, level in levels.items():
            plot.axvline(level, **DOTTED)
            plot.annotate(
                name,
                (level, 0.02),
                xycoords=("data", "axes fraction"),
                rotation=90,
                ha="right",
                **SMALL,
            )
        plot.set_yticks(range(len(bars)), [*bars])
        plot.grid(axis="y", visible=False)
        plot.set(ylim=(len(bars) - 0.5, -0.5), **axes)


def _draw_lines(
    plot: Axes,
    lines: Sequence[Line],
    names: Sequence[str],
    levels: Mapping[str, float],
    **axes: Any,
) -> None:
    looks = [style((names or [line.name for line in lines]).index(line.name)) for line in lines]
    for line, look in zip(lines, looks, strict=True):
        for x, y in line.runs:
            plot.plot(x, y, **look, lw=0.7, ms=3, alpha=0.5)
        plot.plot(
            line.x,
            line.y,
            **look,
            lw=2,
            ms=5,
            markevery=max(1, -(-len(line.x) // 12)),  # a marker at each point would hide the line
            # The legend leaves out labels that begin with an underscore.
            label=f" {line.name}" if line.name.startswith("_") else line.name,
        )
    for index, (name, level) in enumerate(levels.items(), 1):
        plot.axhline(level, **DOTTED)
        plot.annotate(
            name,
            (index % 2, level),
            xycoords=("axes fraction", "data"),
            ha=("left", "right")[index % 2],  # in turn: levels may be close to each other
            va="bottom",
            **SMALL,
        )
    plot.set(**axes)
    plot.set_ylim(plot.get_ylim())  # of the values alone: they cut a wide interval
    for line, look in zip(lines, looks, strict=True):
        if len(line.low):
            plot.fill_between(line.x, line.low, line.high, color=look["color"], alpha=0.15, lw=0)  # type: ignore[arg-type]
    if plot.get_yscale() == "log":  # matplotlib writes powers of ten in its markup, which is off
        plot.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
