"""Films that play anywhere, and in a terminal."""

import io
import os
import shutil
from itertools import pairwise

import av
import numpy as np
import pytest
from PIL import Image

from envs.episodes import replay_colour
from experiment.scores import films, overlay


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
