"""Figures are PNG files of one look, whatever the names in them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from envs.screens import parse_screen
from experiment.plots import Bar, Line, draw_bars, draw_lines, draw_sweep, style

NAMES = ["$^$", "cost $5 and $6", "_hidden", "dqn:frame_stack=1", "\\alpha & 100 %"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The first panel of each figure that is saved."""
    axes: list[Axes] = []
    save = Figure.savefig

    def savefig(figure: Figure, *arguments: Any, **options: Any) -> None:
        axes.append(figure.axes[0])
        save(figure, *arguments, **options | {"dpi": 40})

    monkeypatch.setattr(Figure, "savefig", savefig)
    return axes


def test_the_first_28_styles_differ() -> None:
    assert len({tuple(style(i).values()) for i in range(28)}) == 28


def test_names_are_drawn_as_they_are(tmp_path: Path, drawn: list[Axes]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = [Line(name, [0, 1], [0, i]) for i, name in enumerate(NAMES)]
        draw_lines(
            tmp_path / "lines.png",
            lines,
            levels=dict.fromkeys(NAMES, 1.0),
            title=NAMES[0],
            xlabel=NAMES[1],
        )
        draw_bars(tmp_path / "bars.png", [Bar(name, 0, -1, 1) for name in NAMES], xlabel=NAMES[1])
    legend = drawn[0].get_legend()
    assert legend is not None
    assert [text.get_text().strip() for text in legend.get_texts()] == NAMES
    assert not any(text.get_parse_math() for text in legend.get_texts())
    assert [text.get_text() for text in drawn[1].get_yticklabels()] == NAMES


def test_the_scale_is_that_of_the_values_and_a_line_has_the_style_of_its_place_in_the_names(
    tmp_path: Path, drawn: list[Axes]
) -> None:
    line = Line(
        "drqn",
        [1, 2],
        [0.0, 10.0],
        low=[-1000, 9],
        high=[1000, np.nan],
        runs=[([1, 2], [0.0, 20.0])],
    )
    draw_lines(tmp_path / "a.png", [line], names=["dqn", "drqn"], levels={"random": -5.0})
    # A wide interval is cut.
    assert drawn[0].get_ylim() == pytest.approx((-5 - 0.08 * 25, 20 + 0.08 * 25))
    (shown,) = (shown for shown in drawn[0].lines if shown.get_label() == "drqn")
    assert (shown.get_color(), shown.get_marker()) == (style(1)["color"], style(1)["marker"])


def test_bars_show_value_interval_and_single_values_and_the_same_figure_is_the_same_file(
    tmp_path: Path, drawn: list[Axes]
) -> None:
    for name in ("a.png", "b.png"):
        draw_bars(tmp_path / name, [Bar("dqn", 2.0, 1.0, 3.0, [1.5, 2.5])], levels={"random": 0.0})
    interval, values, value, level = (list(line.get_xdata()) for line in drawn[0].lines)  # type: ignore[arg-type]
    assert (interval, values, value, level) == ([1.0, 3.0], [1.5, 2.5], [2.0], [0.0, 0.0])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
    # something is drawn
    assert np.asarray(Image.open(tmp_path / "a.png").convert("L"), float).std() > 5


def test_a_sweep_shows_scores_and_their_shares_of_the_score_when_nothing_is_hidden(
    tmp_path: Path, drawn: list[Axes]
) -> None:
    screens = [parse_screen(word) for word in ("flicker:0", "flicker:0.75", "flicker:0.25")]
    scores = {
        "dqn": dict(zip(screens, ([10.0, 10.0], [1.0, 3.0], [4.0, 6.0]), strict=True)),
        # A share of 0 has no meaning.
        "drqn": dict(zip(screens, ([0.0, 0.0], [1.0, 1.0], [2.0, 2.0]), strict=True)),
    }
    draw_sweep(tmp_path / "a.png", scores, "breakout")
    left, right = drawn[0].figure.axes
    lines = {str(line.get_label()): line for line in left.lines}
    # The probability that a frame is shown.
    assert np.ravel(lines["dqn"].get_xdata()).tolist() == [1.0, 0.75, 0.25]
    assert np.ravel(lines["dqn"].get_ydata()).tolist() == [10.0, 5.0, 2.0]
    (share,) = right.lines
    assert np.ravel(share.get_ydata()).tolist() == [100.0, 50.0, 20.0]
    assert share.get_color() == lines["dqn"].get_color()
