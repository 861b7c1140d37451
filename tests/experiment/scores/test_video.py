from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from experiment.scores.video import CAPTION_ROWS, write_video

Frames = NDArray[np.uint8]


def moving_square(count: int, height: int = 210, width: int = 160) -> Frames:
    """A white square on dark blue that moves 2 pixels a frame."""
    frames = np.full((count, height, width, 3), (0, 0, 90), dtype=np.uint8)
    for index in range(count):
        frames[index, 40:72, 2 * index : 2 * index + 32] = 255
    return frames


def decode(path: Path) -> Frames:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames).astype(np.uint8)


def test_every_frame_comes_back_enlarged(tmp_path: Path) -> None:
    frames = moving_square(20)
    write_video(iter(frames), tmp_path / "a.mp4")
    decoded = decode(tmp_path / "a.mp4")
    assert decoded.shape == (20, 420, 320, 3)
    expected = frames.repeat(2, axis=1).repeat(2, axis=2)
    difference = np.abs(decoded.astype(int) - expected)
    assert difference.mean() < 3
    # The square is where it was in each frame, not one frame off: its edges move by 4 pixels.
    for index in range(20):
        row = decoded[index, 110, :, 0]
        assert row[4 * index + 4 : 4 * index + 60].min() > 200
        assert row[4 * index + 68 :].max() < 60


def test_the_format_plays_in_a_browser(tmp_path: Path) -> None:
    write_video(moving_square(30), tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 60
        assert stream.frames == 30
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # the index first: it starts before it is loaded


def test_the_file_is_small(tmp_path: Path) -> None:
    write_video(moving_square(60), tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").stat().st_size < 50_000  # a second; raw it is 24 MB


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    for name in range(8):
        write_video(moving_square(10), tmp_path / f"{name}.mp4", caption="drqn, pong")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_caption_is_below_the_picture(tmp_path: Path) -> None:
    write_video(moving_square(4), tmp_path / "a.mp4", caption="score 10")
    decoded = decode(tmp_path / "a.mp4")
    assert decoded.shape == (4, 420 + CAPTION_ROWS, 320, 3)
    bands = decoded[:, 420:]
    assert (bands.max((1, 2, 3)) > 150).all()
    assert np.median(bands) < 50
    assert decoded[3, :420].mean() == pytest.approx(moving_square(4)[3].mean(), abs=3)


def test_a_caption_that_is_too_long_is_cut_off(tmp_path: Path) -> None:
    write_video(moving_square(2), tmp_path / "a.mp4", caption="long " * 100)
    assert decode(tmp_path / "a.mp4").shape == (2, 420 + CAPTION_ROWS, 320, 3)


def test_odd_sizes_are_made_even(tmp_path: Path) -> None:
    write_video(moving_square(2, 85, 83), tmp_path / "a.mp4", scale=1)
    assert decode(tmp_path / "a.mp4").shape == (2, 86, 84, 3)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "best.mp4"
    path.write_bytes(b"old")

    def broken() -> Iterator[Frames]:
        yield from moving_square(3)
        raise RuntimeError("the emulator is gone")

    with pytest.raises(RuntimeError, match="the emulator is gone"):
        write_video(broken(), path)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("best.mp4", b"old")]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "no frames"),
        ([np.zeros((84, 84, 4), np.uint8)], r"shape \(84, 84, 4\) of uint8"),
        ([np.zeros((84, 84, 3), np.float32)], "of float32"),
        ([np.zeros((84, 84, 3), np.uint8), np.zeros((90, 84, 3), np.uint8)], "frame 1 has shape"),
    ],
)
def test_frames_that_make_no_video_are_named(frames: list[Frames], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_video(frames, tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_planes_whose_height_the_encoder_would_cut_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a multiple of 4"):
        write_video([np.zeros((6 * 3 // 2, 8), np.uint8)], tmp_path / "a.mp4")
