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

Frame = NDArray[np.uint8]  # [H, W, 3]

FPS = 60  # the console's
CAPTION_ROWS = 24  # pixels below the picture
CAPTION_TEXT = 14  # pixels
# One thread: the other cores stay with training. `cpu-independent`: without it x264's AVX-512 code gives
# other bytes for the same frames from one run to the next (its macroblock tree does; measured with av 18.1).
ENCODER = {"threads": "1", "x264-params": "cpu-independent=1"}


def write_video(
    frames: Iterable[Frame],
    path: Path,
    caption: str | None = None,
    scale: int = 2,
    crf: int = 23,
    fps: int = FPS,
    poster: int | None = None,
    preset: str = "veryfast",
) -> None:
    """Write RGB `frames` [H, W, 3] as an mp4. Atari's 160x210 becomes 320x420 at the default scale.

    `caption` is a line of text below the picture. `crf` and `preset` are x264's: 6 more of crf halve the size. Players
    can jump to every fourth second. Frame number `poster` also becomes a picture, PATH with the suffix .jpg. The files
    appear under their names only when they are whole; the same frames give the same bytes.
    """
    with (
        replacing(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream: VideoStream | None = None
        for index, frame in enumerate(frames):
            picture = _compose(frame, caption, scale)
            if stream is None:
                options = ENCODER | {"preset": preset, "crf": str(crf), "g": str(4 * fps)}
                stream = container.add_stream("libx264", rate=fps, options=options)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.time_base = Fraction(1, fps)
            if picture.shape[:2] != (stream.height, stream.width):
                raise ValueError(f"frame {index} has shape {frame.shape}, unlike the first")
            image = av.VideoFrame.from_ndarray(picture, format="rgb24")
            image.pts, image.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(image))
            if index == poster:
                with replacing(path.with_suffix(".jpg")) as still:
                    Image.fromarray(picture).save(still, format="jpeg", quality=90)
        if stream is None:
            raise ValueError(f"{path}: no frames")
        container.mux(stream.encode())


def _compose(frame: Frame, text: str | None, scale: int) -> Frame:
    """The frame enlarged, even in both sizes (yuv420p asks for it), with its caption below."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame has shape {frame.shape} of {frame.dtype}; expected [H, W, 3] of uint8")
    picture = frame if scale == 1 else frame.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width, _ = picture.shape
    if height % 2 or width % 2:
        picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return picture if text is None else np.concatenate([picture, _caption(text, picture.shape[1])])


@lru_cache(maxsize=4)  # the same for every frame
def _caption(text: str, width: int) -> Frame:
    """White text on black [CAPTION_ROWS, width, 3]; what does not fit is cut off."""
    band = Image.new("RGB", (width, CAPTION_ROWS))
    font = ImageFont.load_default(CAPTION_TEXT)
    ImageDraw.Draw(band).text((6, CAPTION_ROWS // 2), text, fill="white", font=font, anchor="lm")
    return np.asarray(band)
