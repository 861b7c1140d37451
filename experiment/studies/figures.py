"""The plots of a study, as SVG for its page and as one PNG.

Arms differ in colour, line and mark, so that the plots can be read in print and by colour-blind readers: the colours
are those of Okabe and Ito. Every run is drawn by itself beside the mean of its arm.
"""

import io
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from envs.episodes import replay_colour
from envs.games import human_score, random_score
from experiment.scores.evaluation import middle_and_best
from experiment.scores.intervals import mean_interval
from experiment.studies.study import load_record

# Okabe and Ito's, without the yellow that white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES, MARKS = ("-", "--", "-.", ":"), "osD^vPX*<>phd"
WIDTH = 4.3  # inches of a plot: one fits a telephone, three a wide window
LOOK: dict[Any, Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "svg.hashsalt": "recall", "savefig.bbox": "tight", "legend.frameon": False, "axes.axisbelow": True,
}  # fmt: skip
matplotlib.rcParams.update(LOOK)


def styles(arms: list[str]) -> dict[str, tuple[str, str, str]]:
    """The colour, line and mark of each arm: no two the same, up to 28 arms. The eighth has the first one's colour."""
    lines = [LINES[(i + i // len(COLOURS)) % len(LINES)] for i in range(len(arms))]
    return {a: (COLOURS[i % len(COLOURS)], lines[i], MARKS[i % len(MARKS)]) for i, a in enumerate(arms)}


def _axes(height: float) -> Axes:
    """Axes to draw on, `height` inches."""
    return Figure(figsize=(WIDTH, height)).add_subplot()


def _svg(axes: Axes) -> str:
    """The drawing without an XML header, to lie in a page."""
    text, figure = io.StringIO(), axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _legend(axes: Axes) -> None:
    """Above the plot, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, fontsize=8, borderaxespad=0.2, handlelength=2.6)


def curve_means(runs: list[dict[str, Any]]) -> list[list[float]]:
    """[frames, mean, low, high] over the runs of one arm at every frame that all of them evaluated.

    One run: the interval over the episodes of that evaluation.
    """
    if len(runs) == 1:
        return [[float("nan") if x is None else x for x in point] for point in runs[0]["curve"]]
    scores = [{point[0]: point[1] for point in run["curve"]} for run in runs]
    shared = sorted(set.intersection(*map(set, scores)))
    return [[at, float(np.mean(s)), *mean_interval(s)] for at in shared if (s := [run[at] for run in scores])]


def _draw_curves(axes: Axes, runs: list[dict[str, Any]], arms: list[str]) -> None:
    """Runs thin, means thick, bands about them. The scale is that of the runs: a wide band is cut."""
    game, seen = runs[0]["game"], []
    for arm, (colour, line, mark) in styles(arms).items():
        own = [r for r in runs if r["arm"] == arm]
        for r in own:
            points = np.array([point[:2] for point in r["curve"]], float).reshape(-1, 2)
            seen += points[:, 1].tolist()
            axes.plot(points[:, 0] / 1e6, points[:, 1], color=colour, ls=line, lw=0.7, marker=mark, ms=3, alpha=0.55)
        if own and (mean := np.array(curve_means(own), float)).size:
            axes.plot(mean[:, 0] / 1e6, mean[:, 1], color=colour, ls=line, lw=2, label=arm)
            axes.fill_between(mean[:, 0] / 1e6, mean[:, 2], mean[:, 3], color=colour, alpha=0.13, lw=0)
    for name, score in (("random", random_score(game)), ("human", human_score(game))):
        top = max(seen, default=0)
        if score is not None and (name == "random" or top > score / 3):  # else it would flatten the curves
            axes.axhline(score, color="#666666", lw=0.9, ls=(0, (1, 2)))
            axes.annotate(name, (1, score), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                          fontsize=7.5, color="#555555")  # fmt: skip
            seen.append(score)
    if seen:
        margin = 0.08 * (max(seen) - min(seen)) or 1
        axes.set_ylim(min(seen) - margin, max(seen) + margin)
    axes.set_xlabel("million frames")
    axes.set_ylabel("score")
    _legend(axes)


def curves(runs: list[dict[str, Any]], arms: list[str]) -> str:
    """Learning curves of one game on one screen."""
    axes = _axes(3.1)
    _draw_curves(axes, runs, arms)
    return _svg(axes)


def _rows(axes: Axes, rows: list[tuple[str, float, float, float, list[float]]], look: list[tuple]) -> None:
    """One line a row: value, interval, and single points where there are any."""
    for y, ((_, value, low, high, points), (colour, _, mark)) in enumerate(zip(rows, look, strict=True)):
        axes.plot([low, high], [y, y], color=colour, lw=5, alpha=0.3, solid_capstyle="butt")
        axes.plot(points, [y + 0.22] * len(points), mark, color=colour, ms=5, mfc="none", ls="none")
        axes.plot([value], [y], mark, color=colour, ms=7)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _height(rows: int) -> float:
    return 0.75 + 0.42 * rows


def finals(table: list[dict[str, Any]], arms: list[str]) -> str:
    """Final scores of one game on one screen: each run's mean, the mean over runs, its interval."""
    axes = _axes(_height(len(table)))
    _draw_finals(axes, table, arms)
    return _svg(axes)


def _draw_finals(axes: Axes, table: list[dict[str, Any]], arms: list[str]) -> None:
    look, rows = styles(arms), []
    for row in table:
        low, high = (float("nan") if end is None else end for end in row["interval_95"])
        rows.append((row["arm"], row["mean"], low, high, row["spread_of"] if row["seeds"] > 1 else []))
    _rows(axes, rows, [look[row["arm"]] for row in table])
    axes.set_xlabel("final score")


def interquartile_means(over: dict[str, Any], arms: list[str]) -> str:
    """Human-normalised interquartile means with their bootstrap intervals."""
    look = styles(arms)
    axes = _axes(_height(len(over["iqm"])))
    _rows(axes, [(arm, *ends, []) for arm, ends in over["iqm"].items()], [look[arm] for arm in over["iqm"]])
    axes.set_xlabel("interquartile mean; 0 random, 1 human")
    return _svg(axes)


def improvement(over: dict[str, Any]) -> str:
    """Probabilities that a run of one arm beats one of another, with their intervals."""
    rows = [(f"{x}\nover {y}", value, low, high, []) for x, y, value, low, high in over["improvement"]]
    axes = _axes(_height(len(rows)) + 0.1 * len(rows))
    _rows(axes, rows, [("#333333", "-", "o")] * len(rows))
    axes.axvline(0.5, color="#666666", lw=0.9, ls=(0, (1, 2)))
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("probability of a higher score")
    return _svg(axes)


def profile(over: dict[str, Any], arms: list[str]) -> str:
    """The share of runs above each human-normalised score."""
    axes = _axes(2.7)
    for arm, (colour, line, _) in styles(arms).items():
        value, low, high = over["profile"][arm]
        axes.plot(over["levels"], value, color=colour, ls=line, lw=1.8, label=arm)
        axes.fill_between(over["levels"], low, high, color=colour, alpha=0.13, lw=0)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("human-normalised score")
    axes.set_ylabel("share of runs above")
    _legend(axes)
    return _svg(axes)


def picture(study: dict[str, Any], folder: Path, path: Path) -> None:
    """A PNG of the study: a row for each game and screen, its learning curves and a moment of each arm's best.

    Final scores stand where nothing was evaluated on the way.
    """
    arms = study["arms"]
    tasks = list(dict.fromkeys((r["game"], r["screen"]) for r in study["runs"]))
    figure = Figure(figsize=(5 + 2 * len(arms), 3.4 * len(tasks)), layout="tight")
    grid = figure.subplots(len(tasks), 1 + len(arms), squeeze=False, width_ratios=[3, *[1] * len(arms)])
    for (game, screen), (curve, *screens) in zip(tasks, grid, strict=True):
        runs = [r for r in study["runs"] if (r["game"], r["screen"]) == (game, screen)]
        if any(r["curve"] for r in runs):
            _draw_curves(curve, runs, arms)
            measured = f"{runs[0]['curve_episodes']} episodes a point"
        else:
            _draw_finals(curve, [r for r in study["table"] if (r["game"], r["screen"]) == (game, screen)], arms)
            measured = f"{runs[0]['episodes']} episodes a run"
        about = f"{game}, {screen}, {runs[0]['protocol']}, {measured}"
        curve.set_title(f"{about}, 95 % interval", fontsize=9, pad=8 + 14 * -(-len(arms) // 2))
        for arm, axes in zip(arms, screens, strict=True):
            axes.axis("off")
            _draw_moment(axes, [r for r in runs if r["arm"] == arm], folder)
    figure.savefig(path, dpi=110)


def _draw_moment(axes: Axes, runs: list[dict[str, Any]], folder: Path) -> None:
    """A screen from the last quarter of the best episode; nothing where its record cannot be played again."""
    if not runs:
        return
    best = runs[middle_and_best([max(r["scores"]) for r in runs])[1]]
    try:
        _, record = load_record(best, folder, middle_and_best(best["scores"])[1])
        axes.imshow(next(islice(replay_colour(record), record.steps * 3 // 4, None)))
    except (ValueError, RuntimeError):
        return
    axes.set_title(f"{best['arm']}, best: {record.score:g}", fontsize=9)
