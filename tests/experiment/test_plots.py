"""Figures are PNG files of one look, whatever the names in them."""

import warnings

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from envs.screens import parse_screen
from experiment.plots import Line, draw_bars, draw_lines, draw_sweep, style

NAMES = ["$^$", "cost $5 and $6", "_hidden", "dqn:frame_stack=1", "\\alpha & 100 %"]


@pytest.fixture
def drawn(monkeypatch) -> list[Axes]:
    """The first panel of each figure that is saved."""
    axes, save = [], Figure.savefig

    def savefig(figure, *arguments, **options):
        axes.append(figure.axes[0])
        save(figure, *arguments, **options | {"dpi": 40})

    monkeypatch.setattr(Figure, "savefig", savefig)
    return axes


def test_the_first_28_styles_differ() -> None:
    assert len({tuple(style(i).values()) for i in range(28)}) == 28


def test_names_are_drawn_as_they_are(tmp_path, drawn) -> None:
    lines = [Line(name, [0, 1], [0, i]) for i, name in enumerate(NAMES)]
    title, label = NAMES[:2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        levels = dict.fromkeys(NAMES, 1.0)
        draw_lines(tmp_path / "a.png", lines, levels=levels, title=title, xlabel=label)
        draw_bars(tmp_path / "b.png", dict.fromkeys(NAMES, (0, -1, 1)), xlabel=label)
    texts = drawn[0].get_legend().get_texts()
    assert [text.get_text().strip() for text in texts] == NAMES
    assert not any(text.get_parse_math() for text in texts)
    assert [text.get_text() for text in drawn[1].get_yticklabels()] == NAMES


def test_values_give_the_scale_and_a_place_in_the_names_the_style(tmp_path, drawn) -> None:
    spread, runs = dict(low=[-1000, 9], high=[1000, np.nan]), [([1, 2], [0.0, 20.0])]
    line = Line("drqn", [1, 2], [0.0, 10.0], runs=runs, **spread)
    draw_lines(tmp_path / "a.png", [line], names=["dqn", "drqn"], levels={"random": -5.0})
    # A wide interval is cut.
    assert drawn[0].get_ylim() == pytest.approx((-5 - 0.08 * 25, 20 + 0.08 * 25))
    (shown,) = (shown for shown in drawn[0].lines if shown.get_label() == "drqn")
    assert (shown.get_color(), shown.get_marker()) == (style(1)["color"], style(1)["marker"])


def test_bars_show_value_interval_and_single_values_in_the_same_bytes(tmp_path, drawn) -> None:
    paths, singles = [tmp_path / "a.png", tmp_path / "b.png"], {"dqn": [1.5, 2.5]}
    for path in paths:
        draw_bars(path, {"dqn": (2.0, 1.0, 3.0)}, singles=singles, levels={"random": 0.0})
    shown = [list(line.get_xdata()) for line in drawn[0].lines]
    assert shown == [[1.0, 3.0], [1.5, 2.5], [2.0], [0.0, 0.0]]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths
    # something is drawn
    assert np.asarray(Image.open(paths[0]).convert("L"), float).std() > 5


def test_a_sweep_shows_scores_and_shares_of_the_score_in_full_view(tmp_path, drawn) -> None:
    screens = [parse_screen(word) for word in ("flicker:0", "flicker:0.75", "flicker:0.25")]
    scores = {"dqn": [[10.0, 10.0], [1.0, 3.0], [4.0, 6.0]]}
    scores["drqn"] = [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]  # a share of 0 has no meaning
    points = {name: dict(zip(screens, own, strict=True)) for name, own in scores.items()}
    draw_sweep(tmp_path / "a.png", points, "breakout")
    left, right = drawn[0].figure.axes
    line = next(line for line in left.lines if line.get_label() == "dqn")
    # The probability that a frame is shown.
    assert np.ravel(line.get_xdata()).tolist() == [1.0, 0.75, 0.25]
    assert np.ravel(line.get_ydata()).tolist() == [10.0, 5.0, 2.0]
    (share,) = right.lines
    assert np.ravel(share.get_ydata()).tolist() == [100.0, 50.0, 20.0]
    assert share.get_color() == line.get_color()
