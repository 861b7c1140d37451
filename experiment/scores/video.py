"""Episodes as small H.264 files that every browser plays. The only file that imports av."""

from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from experiment.store.files import replacing

Frame = NDArray[np.uint8]  # RGB [H, W, 3], or the planes [3 H / 2, W] of yuv420p, which need no conversion

FPS = 60  # the console's
CAPTION_ROWS = 24  # pixels below the picture
CAPTION_TEXT = 14  # pixels
# One thread: the other cores stay with training. `cpu-independent`: without it x264's AVX-512 code gives
# other bytes for the same frames from one run to the next (its macroblock tree does; measured with av 18.1).
ENCODER = {"threads": "1", "preset": "veryfast", "crf": "23", "x264-params": "cpu-independent=1"}
# `ultrafast`, with the three of its savings undone that cost size and no time: half the time of `superfast`.
FAST = {"preset": "ultrafast", "crf": "30", "x264-params": "cpu-independent=1:cabac=1:aq-mode=1:bframes=3"}


def write_video(
    frames: Iterable[Frame],
    path: Path,
    caption: str | None = None,
    scale: int = 2,
    fps: int = FPS,
    poster: int | None = None,
    fast: bool = False,
) -> None:
    """Write `frames` as an mp4. Atari's 160x210 becomes 320x420 at the default scale; planes are not scaled.

    `caption` is a line of text below the picture. `fast` encodes with FAST. Players
    can jump to every fourth second. Frame number `poster` also becomes a picture, PATH with the suffix .jpg. The files
    appear under their names only when they are whole; the same frames give the same bytes.
    """
    stream: VideoStream | None = None
    with (
        replacing(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        for index, frame in enumerate(frames):
            image = _image(frame if frame.ndim == 2 else _compose(frame, caption, scale))
            if stream is None:
                options = ENCODER | (FAST if fast else {}) | {"g": str(4 * fps)}
                stream = container.add_stream("libx264", rate=fps, options=options)
                stream.height, stream.width, stream.pix_fmt = image.height, image.width, "yuv420p"
                stream.time_base = Fraction(1, fps)
            image.pts, image.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(image))
            if index == poster:
                with replacing(path.with_suffix(".jpg")) as still:
                    image.to_image().save(still, format="jpeg", quality=90)
        if stream is None:
            raise ValueError(f"{path}: no frames")
        container.mux(stream.encode())


def _image(frame: Frame) -> av.VideoFrame:
    """Planes are not copied: the encoder reads them before it asks for the next frame. Their H is a multiple of 4:
    else PyAV would read the colours from a wrong place."""
    if frame.ndim == 2:
        return av.VideoFrame.from_numpy_buffer(frame, format="yuv420p")
    return av.VideoFrame.from_ndarray(frame, format="rgb24")


def in_colour(frame: Frame) -> Frame:
    """The frame as RGB [H, W, 3]."""
    return frame if frame.ndim == 3 else _image(frame).to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def _compose(frame: Frame, text: str | None, scale: int) -> Frame:
    """The frame enlarged, even in both sizes (yuv420p asks for it), with its caption below."""
    picture = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    picture = np.pad(picture, ((0, len(picture) % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")
    return picture if text is None else np.concatenate([picture, _caption(text, picture.shape[1])])


@lru_cache(maxsize=4)  # the same for every frame
def _caption(text: str, width: int) -> Frame:
    """White text on black [CAPTION_ROWS, width, 3]; what does not fit is cut off."""
    band = Image.new("RGB", (width, CAPTION_ROWS))
    font = ImageFont.load_default(CAPTION_TEXT)
    ImageDraw.Draw(band).text((6, CAPTION_ROWS // 2), text, fill="white", font=font, anchor="lm")
    return np.asarray(band)
