"""Films that teach: values of the network itself, in the pictures, in files that play anywhere."""

import io
import os
import shutil
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from envs.episodes import EpisodeRecord, replay_colour, replay_grey
from envs.protocols import PROTOCOLS
from experiment import build
from experiment.scores import films, overlay
from experiment.scores.agent import Agent
from experiment.scores.evaluation import evaluate
from experiment.scores.trace import Trace, inputs_of, trace
from experiment.settings.config import Config

NETWORK = dict(torso="nature", hidden=16, core_size=8, frame_stack=2, precision="fp32", threads=1)
PLAY = dict(game="breakout", observe="flicker:0.5", eval_episodes=1, eval_epsilon=0.5, seed=4)
CONFIG = Config(**NETWORK | PLAY)


@pytest.fixture(scope="module")
def agent() -> Agent:
    network = build.make_network(CONFIG, 4)
    return Agent(Path("runs/x"), CONFIG, PROTOCOLS["v5"], network, {"frames": 0})


@pytest.fixture(scope="module")
def record(agent) -> EpisodeRecord:
    return evaluate(agent.network, CONFIG, agent.protocol).records[0]


@pytest.fixture(scope="module")
def numbers(agent, record) -> Trace:
    return trace(agent.network, CONFIG, record, saliency=True)


def close(a, b, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(a, b.numpy(), rtol=rtol, atol=atol)


def test_the_values_are_those_of_an_actor_that_plays_the_record(agent, record, numbers) -> None:
    actor = build.make_actor(CONFIG, agent.network, 1, np.random.default_rng(0))
    frames, rewards = replay_grey(record)
    actions = record.actions[record.start :].astype(np.int64)
    before = np.concatenate([[0], rewards[:-1]]).astype(np.float32)
    assert before.any()
    for t, action in enumerate(actions):
        actor.act(frames[t, None], np.array([t == 0]), before[t, None], np.zeros(1))
        actor.state()["action"][:] = int(action)  # the record's in place of the actor's own
        np.testing.assert_allclose(numbers.q[t], actor.q[0], rtol=1e-4, atol=1e-5)
        close(numbers.core_states[t], actor.core_state[0], rtol=1e-4, atol=1e-5)
    assert (numbers.actions == actions).all()
    assert numbers.rewards.sum() == record.score
    assert list(numbers.gates) == ["input", "forget", "output"]
    gates = np.array([*numbers.gates.values()])
    assert gates.shape == (3, record.steps)
    assert ((gates > 0) & (gates < 1)).all()


def test_saliency_is_the_gradient_of_the_played_actions_value(agent, record, numbers) -> None:
    inputs, action = inputs_of(record, CONFIG.frame_stack)
    view = agent.network.prepare(inputs.rows(0, 1))
    view.frames.requires_grad_()
    out, _ = agent.network.outputs(view, agent.network.initial_state(1))
    q = agent.network.head.samples(out).mean(-1)
    (gradient,) = torch.autograd.grad(q[0, 0, action[0]], view.frames)
    # 4 x 4 pixels as channels: row 4 y + 2, column 4 x + 1 is channel 4 * 2 + 1
    newest = gradient[0, 0, ..., -16:]
    close(numbers.saliency[0][2::4, 1::4], newest[..., 9].abs(), rtol=1e-3, atol=1e-7)


def test_an_overlay_shows_at_each_step_the_game_and_the_agents_view(record, numbers) -> None:
    t, plain = 12, replace(numbers, saliency=None)
    drawn = overlay.pictures(plain, ["NOOP"] * 4, "title $^$", CONFIG.core_size, 15)
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


def test_a_film_is_seekable_small_and_has_a_poster(agent, record, tmp_path) -> None:
    path = films.overlay_film(agent, record, saliency=True).write(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        # A picture a step.
        assert (stream.average_rate, stream.frames) == (15, record.steps)
        keys = [packet for packet in container.demux(stream) if packet.is_keyframe]
        times = [float((packet.pts or 0) * packet.time_base) for packet in keys]
    assert max(b - a for a, b in pairwise(times)) <= 4
    assert path.stat().st_size < 15e6 * record.steps / (300 * 15)  # five minutes: 15 MB
    assert Image.open(tmp_path / "a.jpg").size[0] == overlay.WIDTH


def picture(height: int, level: int) -> np.ndarray:
    return np.full((height, 4, 3), level, np.uint8)


def test_two_films_stand_side_by_side_and_the_shorter_one_waits_at_its_end() -> None:
    long = films.Film([picture(4, 1), picture(4, 2)], 15, 2)
    one, two = films.beside(long, films.Film([picture(6, 3)], 15, 1)).pictures
    assert one.shape == two.shape == (6, 16, 3)
    # Left, the gap, right, below the smaller one.
    assert [one[0, 3, 0], *one[0, 4:12, 0], one[0, 12, 0], one[5, 0, 0]] == [1, *[0] * 8, 3, 0]
    assert [two[0, 0, 0], two[0, 12, 0]] == [2, 3]


@pytest.mark.parametrize("size", [(80, 46), (60, 38)])
def test_a_terminal_shows_the_largest_size_that_fits_and_the_ball_in_each_picture(
    record, size
) -> None:
    balls = 0
    for screen in replay_colour(record):
        small = films.fitted(screen, *size)
        assert small.shape == (size[1], round(160 * size[1] / 210), 3)
        if screen[100:180, 12:148].max() > 150:  # between bricks and paddle, without the walls
            balls += 1
            scale = size[1] / 210
            inside = small[int(100 * scale) : int(180 * scale) + 1, 2:-2]
            assert inside.max() > 150
    assert balls > 20
    assert films.fitted(picture(4, 9), 80, 46).shape == (46, 46, 3)


def test_text_is_cut_where_its_space_ends() -> None:
    assert overlay._shortened("dqn", 100) == "dqn"
    assert overlay._shortened("MiniGrid-MemoryS7-v0", 100).startswith("MiniGr")
    assert (
        overlay._text(overlay._shortened("long " * 9, 90), 18, (9, 9, 9), (0, 0, 0)).shape[1] < 93
    )


def test_a_terminal_shows_two_pixels_a_character_not_faster_than_real_time(monkeypatch) -> None:
    out, waits = io.StringIO(), []
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((9, 3)))
    films.Film([picture(4, i) for i in range(8)], 60, 8).show(out, waits.append)
    assert len(waits) == 2  # 15 pictures a second of 60
    assert 0 < waits[-1] <= 2 * 4 / 60
    text = out.getvalue()
    assert text.count("▀") == 2 * 2 * 4  # two pictures of two lines of four
    assert "\x1b[38;2;4;4;4;48;2;4;4;4m▀" in text
    assert text.endswith("\x1b[0m\x1b[?25h\n")  # colours and cursor are as before
