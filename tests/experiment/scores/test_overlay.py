from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from envs.episodes import replay_colour
from experiment.scores import overlay


def test_an_overlay_shows_at_each_step_the_game_and_the_agents_view(record, numbers) -> None:
    t, plain = 12, replace(numbers, saliency=None)
    drawn = overlay.pictures(plain, ["NOOP"] * 4, "title $^$", 8, 15)
    (picture,) = islice(drawn, t, t + 1)
    view = picture[overlay.GAME_Y + 28 :, overlay.VIEW_X :][: overlay.VIEW : 2, : overlay.VIEW : 2]
    assert (view == numbers.frames[t][..., None]).all()
    game = picture[overlay.GAME_Y :, overlay.MARGIN :][:210, : overlay.GAME_WIDTH : 2]
    (colour,) = islice(replay_colour(record, pooled=True), t, t + 1)
    assert (game == colour).all()
    hidden = ~numbers.frames.any(axis=(1, 2))
    assert 0.3 < hidden.mean() < 0.7  # what the agent saw, not what the game showed


@pytest.mark.parametrize(("actions", "quantiles"), [(4, True), (18, True), (18, False)])
def test_an_overlay_names_each_actions_value_and_a_band_only_where_there_is_one(
    actions, quantiles, record, numbers, monkeypatch
) -> None:
    q = np.random.default_rng(1).normal(size=(record.steps, actions))
    q[0, 1] = -0.001
    texts, bands, curves = [], [], overlay._curves
    monkeypatch.setattr(
        overlay, "_write", lambda canvas, text, x, *_, **__: texts.append(text) or x
    )
    monkeypatch.setattr(
        overlay,
        "_curves",
        lambda size, lines, limits, band=(): (
            bands.append(band) or curves(size, lines, limits, band)
        ),
    )
    drawn = replace(numbers, q=q, returns=np.stack([q - 0.5 * quantiles, q]))
    next(overlay.pictures(drawn, [*map(str, range(actions))], "title", 8, 15))
    assert ("Q, and 10-90 % of returns" in texts, "Q" in texts) == (quantiles, not quantiles)
    values = [f"{value:.2f}" for value in q[0]]
    values[1] = "0.00"  # not -0.00
    assert [text for text in texts if text in values][-actions:] == values
    assert (bands[0][1] == q.max(1)).all()  # of the best action, as the line


def test_text_is_cut_where_its_space_ends() -> None:
    assert overlay._shortened("dqn", 100) == "dqn"
    assert overlay._shortened("MiniGrid-MemoryS7-v0", 100).startswith("MiniGr")
    assert (
        overlay._text(overlay._shortened("long " * 9, 90), 18, (9, 9, 9), (0, 0, 0)).shape[1] < 93
    )
