"""Videos as small H.264 files that every browser plays. The only module that imports av."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from envs.emulator import FPS
from envs.episodes import EpisodeRecord, replay_colour
from envs.families import rules, task
from experiment.store.files import replacing

Frame = NDArray[np.uint8]  # RGB [H, W, 3]

CLIP_SECONDS = 30
CAPTION_ROWS = 24  # pixels below the picture
CAPTION_TEXT = 14  # pixels
# `cpu-independent`: without it x264's macroblock tree, in AVX-512 code, gives other bytes for the
# same frames from one run to the next (measured with av 18.1).
ENCODER = {"preset": "veryfast", "crf": "23", "x264-params": "cpu-independent=1"}
# Half the time of `superfast`: `ultrafast`, with three options that save size and cost no time.
SMALLER = "cpu-independent=1:cabac=1:aq-mode=1:bframes=3"
# The ceiling, in kbit/s and kbit: five minutes of any game take less than 15 MB (400 kbit/s).
CEILING = ":vbv-maxrate=360:vbv-bufsize=1440"
FAST = {"preset": "ultrafast", "crf": "30", "x264-params": SMALLER + CEILING}


def write_video(
    frames: Iterable[Frame],
    path: Path,
    captions: Sequence[str] = (),
    scale: int = 2,
    fps: int = FPS,
    poster: int | None = None,
    fast: bool = False,
) -> None:
    """Write `frames` as an mp4. Atari's 160x210 becomes 320x420 at the default scale.

    `captions` are texts in one line below the picture, each in an equal share of the width. `fast`
    encodes with FAST, at 360 kbit/s at most. Players can jump to every fourth second. Frame number
    `poster` also becomes a picture, PATH with the suffix .jpg. The files appear only as a whole;
    the same frames give the same bytes. ValueError without frames, OSError if a file cannot be
    written.
    """
    pictures = (_compose(frame, tuple(captions), scale) for frame in frames)
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"{path}: no frames")
    with (
        replacing(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream(
            "libx264", rate=fps, options=(FAST if fast else ENCODER) | {"g": str(4 * fps)}
        )
        stream.thread_count = 1  # the other cores are training's
        stream.height, stream.width = first.shape[:2]
        for index, picture in enumerate(chain([first], pictures)):
            # Without a copy of the picture, unlike from_ndarray.
            frame = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
            if index == poster:
                with replacing(path.with_suffix(".jpg")) as still:
                    Image.fromarray(picture).save(still, format="jpeg", quality=90)
        container.mux(stream.encode())


def write_clip(record: EpisodeRecord, path: Path, scale: int = 2, fast: bool = False) -> None:
    """Write the first CLIP_SECONDS of an episode, in colour and at the game's own speed.

    RuntimeError if the game does not repeat the record, OSError if the file cannot be written.
    """
    fps = task(record.game, rules(record.game, record.protocol)).fps
    pictures = islice(replay_colour(record, every_frame=True), CLIP_SECONDS * fps)
    write_video(pictures, path, scale=scale, fps=fps, fast=fast)


def _compose(frame: Frame, texts: tuple[str, ...], scale: int) -> Frame:
    """The frame enlarged to even height and width (for yuv420p), with its captions below."""
    picture = frame if scale == 1 else frame.repeat(scale, axis=0).repeat(scale, axis=1)
    odd = len(picture) % 2, picture.shape[1] % 2
    if any(odd):
        picture = np.pad(picture, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
    return np.concatenate([picture, _caption(texts, picture.shape[1])]) if texts else picture


@lru_cache(maxsize=4)  # the same for every frame
def _caption(texts: tuple[str, ...], width: int) -> Frame:
    """White texts on black [CAPTION_ROWS, width, 3], each cut off at the end of its share."""
    band, share = Image.new("RGB", (width, CAPTION_ROWS)), width // len(texts)
    font = ImageFont.load_default(CAPTION_TEXT)
    for i, text in enumerate(texts):
        part = Image.new("RGB", (share - 6, CAPTION_ROWS))
        ImageDraw.Draw(part).text((0, CAPTION_ROWS // 2), text, "white", font, anchor="lm")
        band.paste(part, (i * share + 6, 0))
    return np.asarray(band)
