"""Figures are PNG files of one look, whatever the names in them."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from envs.screens import parse_screen
from experiment import plots
from experiment.plots import Bar, Line, draw_bars, draw_lines, draw_sweep, style

NAMES = ["$^$", "cost $5 and $6", "_hidden", "dqn:frame_stack=1", "\\alpha & 100 %"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of each figure that is saved."""
    axes: list[Axes] = []
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda plot, path: (axes.append(plot), save(plot, path)))
    return axes


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"), float)


def test_the_first_28_styles_differ() -> None:
    assert len({tuple(style(i).values()) for i in range(28)}) == 28


def test_names_are_drawn_as_they_are(tmp_path: Path, drawn: list[Axes]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = [Line(name, [0, 1], [0, i]) for i, name in enumerate(NAMES)]
        draw_lines(tmp_path / "lines.png", lines, levels=dict.fromkeys(NAMES, 1.0), title=NAMES[0], xlabel=NAMES[1])
        draw_bars(tmp_path / "bars.png", [Bar(name, 0, -1, 1) for name in NAMES], xlabel=NAMES[1])
    legend = drawn[0].get_legend()
    assert legend is not None
    assert [text.get_text().strip() for text in legend.get_texts()] == NAMES
    assert not any(text.get_parse_math() for text in legend.get_texts())
    assert [text.get_text() for text in drawn[1].get_yticklabels()] == NAMES


def test_a_line_has_the_same_style_in_figures_of_the_same_names(tmp_path: Path, drawn: list[Axes]) -> None:
    for names in (["dqn", "drqn"], ["drqn"]):
        draw_lines(tmp_path / "a.png", [Line(name, [0, 1], [0, 1]) for name in names], names=["dqn", "drqn"])
    first, second = (next(line for line in axes.lines if line.get_label() == "drqn") for axes in drawn)
    assert first.get_color() == second.get_color() == style(1)["color"]
    assert first.get_marker() == second.get_marker() == style(1)["marker"]


def test_the_scale_is_that_of_the_values_and_a_wide_interval_is_cut(tmp_path: Path, drawn: list[Axes]) -> None:
    line = Line("dqn", [1, 2], [0.0, 10.0], low=[-1000, 9], high=[1000, np.nan], runs=[([1, 2], [0.0, 20.0])])
    draw_lines(tmp_path / "a.png", [line], levels={"random": -5.0})
    assert drawn[0].get_ylim() == pytest.approx((-5 - 0.08 * 25, 20 + 0.08 * 25))


def test_bars_show_value_interval_and_single_values(tmp_path: Path, drawn: list[Axes]) -> None:
    draw_bars(tmp_path / "a.png", [Bar("dqn", 2.0, 1.0, 3.0, [1.5, 2.5])], levels={"random": 0.0})
    interval, values, value, level = (list(line.get_xdata()) for line in drawn[0].lines)  # type: ignore[arg-type]
    assert (interval, values, value, level) == ([1.0, 3.0], [1.5, 2.5], [2.0], [0.0, 0.0])


def test_the_same_figure_is_the_same_file_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_bars(tmp_path / name, [Bar("dqn", 2.0, 1.0, 3.0)])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
    assert pixels(tmp_path / "a.png").std() > 5  # something is drawn


def test_a_sweep_shows_scores_and_their_shares_of_the_score_when_nothing_is_hidden(
    tmp_path: Path, drawn: list[Axes]
) -> None:
    screens = [parse_screen(word) for word in ("flicker:0", "flicker:0.75", "flicker:0.25")]
    scores = {
        "dqn": dict(zip(screens, ([10.0, 10.0], [1.0, 3.0], [4.0, 6.0]), strict=True)),
        "drqn": dict(zip(screens, ([0.0, 0.0], [1.0, 1.0], [2.0, 2.0]), strict=True)),  # a share of 0 has no meaning
    }
    draw_sweep(tmp_path / "a.png", scores, "breakout")
    left, right = drawn[0].figure.axes
    lines = {str(line.get_label()): line for line in left.lines}
    assert np.ravel(lines["dqn"].get_xdata()).tolist() == [1.0, 0.75, 0.25]  # the probability that a frame is shown
    assert np.ravel(lines["dqn"].get_ydata()).tolist() == [10.0, 5.0, 2.0]
    (share,) = right.lines
    assert np.ravel(share.get_ydata()).tolist() == [100.0, 50.0, 20.0]
    assert share.get_color() == lines["dqn"].get_color()
