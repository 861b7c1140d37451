"""Films as files: what is decoded is what was written, in the format that browsers play."""

from pathlib import Path

import av
import numpy as np
import pytest

from experiment.scores.video import CAPTION_ROWS, _caption, write_video


def moving_square(count: int, height: int = 210, width: int = 160) -> np.ndarray:
    """A white square on dark blue that moves 2 pixels a frame."""
    frames = np.full((count, height, width, 3), (0, 0, 90), dtype=np.uint8)
    for index in range(count):
        frames[index, 40:72, 2 * index : 2 * index + 32] = 255
    return frames


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "a.mp4"


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_every_frame_comes_back_enlarged_from_a_small_file_that_a_browser_plays(path) -> None:
    frames = moving_square(20)
    write_video(frames, path)
    decoded = decode(path)
    assert decoded.shape == (20, 420, 320, 3)
    assert np.abs(decoded.astype(int) - frames.repeat(2, axis=1).repeat(2, axis=2)).mean() < 3
    for index in range(20):  # not one frame off: the edges of the square move by 4 pixels
        row = decoded[index, 110, :, 0]
        assert row[4 * index + 4 : 4 * index + 60].min() > 200
        assert row[4 * index + 68 :].max() < 60
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context.name, stream.pix_fmt, stream.average_rate
    assert codec == ("h264", "yuv420p", 60)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # it starts before it is loaded
    assert len(data) < 20_000  # raw it is 8 MB


def test_the_same_frames_give_the_same_bytes(path) -> None:
    contents = set()
    for _ in range(4):
        write_video(moving_square(10), path, captions=["drqn, pong"])
        contents.add(path.read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("caption", ["score 10", "long " * 100])
def test_a_caption_is_below_the_picture_and_cut_off_where_it_is_too_long(caption, path) -> None:
    write_video(moving_square(2), path, [caption])
    decoded = decode(path)
    assert decoded.shape == (2, 420 + CAPTION_ROWS, 320, 3)
    assert (decoded[:, 420:].max((1, 2, 3)) > 150).all()
    assert np.median(decoded[:, 420:]) < 50
    assert decoded[1, :420].mean() == pytest.approx(moving_square(2)[1].mean(), abs=3)


def test_each_of_two_captions_is_below_its_own_half() -> None:
    first, second = (_caption((text, ""), 648) for text in ("long " * 100, ""))
    assert first[:, :324].max() > 150
    assert not (first - second)[:, 324:].any()
    assert _caption(("", "dqn"), 648)[:, 330:].max() > 150


def test_five_minutes_of_a_busy_game_stay_below_15_megabytes(path) -> None:
    rng = np.random.default_rng(0)
    grids = (rng.integers(256, size=(64, 64, 3)).astype(np.uint8) for _ in range(600))
    noise = (grid.repeat(4, axis=0).repeat(4, axis=1) for grid in grids)
    write_video(noise, path, scale=1, fps=15, fast=True)
    assert path.stat().st_size / (600 / 15) < 15e6 / 300  # bytes a second


def test_odd_sizes_are_made_even(path) -> None:
    write_video(moving_square(2, 85, 83), path, scale=1)
    assert decode(path).shape == (2, 86, 84, 3)


def test_a_failure_leaves_the_old_file_and_nothing_else(path) -> None:
    path.write_bytes(b"old")

    def broken():
        yield from moving_square(3)
        raise RuntimeError("the emulator is gone")

    for frames, message in ((broken(), "the emulator is gone"), ([], "no frames")):
        with pytest.raises((RuntimeError, ValueError), match=message):
            write_video(frames, path)
        assert {file: file.read_bytes() for file in path.parent.iterdir()} == {path: b"old"}
