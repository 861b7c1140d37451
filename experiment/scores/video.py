"""Videos as small H.264 files that every browser plays. The only module that imports av."""

from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from experiment.store.files import replacing

Frame = NDArray[np.uint8]  # RGB [H, W, 3]

FPS = 60  # the console's
CAPTION_ROWS = 24  # pixels below the picture
CAPTION_TEXT = 14  # pixels
# `cpu-independent`: without it x264's macroblock tree, in AVX-512 code, gives other bytes for the
# same frames from one run to the next (measured with av 18.1).
ENCODER = {"preset": "veryfast", "crf": "23", "x264-params": "cpu-independent=1"}
# Half the time of `superfast`: `ultrafast`, with three options that save size and cost no time.
SMALLER = "cpu-independent=1:cabac=1:aq-mode=1:bframes=3"
FAST = {"preset": "ultrafast", "crf": "30", "x264-params": SMALLER}


def write_video(
    frames: Iterable[Frame],
    path: Path,
    caption: str | None = None,
    scale: int = 2,
    fps: int = FPS,
    poster: int | None = None,
    fast: bool = False,
) -> None:
    """Write `frames` as an mp4. Atari's 160x210 becomes 320x420 at the default scale.

    `caption` is a line of text below the picture. `fast` encodes with FAST. Players can jump to
    every fourth second. Frame number `poster` also becomes a picture, PATH with the suffix .jpg.
    The files appear only as a whole; the same frames give the same bytes. ValueError without
    frames, OSError if a file cannot be written.
    """
    pictures = (_compose(frame, caption, scale) for frame in frames)
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
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            if index == poster:
                with replacing(path.with_suffix(".jpg")) as still:
                    Image.fromarray(picture).save(still, format="jpeg", quality=90)
        container.mux(stream.encode())


def _compose(frame: Frame, text: str | None, scale: int) -> Frame:
    """The frame enlarged to even height and width (for yuv420p), with its caption below."""
    picture = frame if scale == 1 else frame.repeat(scale, axis=0).repeat(scale, axis=1)
    odd = len(picture) % 2, picture.shape[1] % 2
    if any(odd):
        picture = np.pad(picture, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
    return picture if text is None else np.concatenate([picture, _caption(text, picture.shape[1])])


@lru_cache(maxsize=4)  # the same for every frame
def _caption(text: str, width: int) -> Frame:
    """White text on black [CAPTION_ROWS, width, 3], cut off at the right edge."""
    band = Image.new("RGB", (width, CAPTION_ROWS))
    ImageDraw.Draw(band).text(
        (6, CAPTION_ROWS // 2),
        text,
        fill="white",
        font=ImageFont.load_default(CAPTION_TEXT),
        anchor="lm",
    )
    return np.asarray(band)
