"""Films that teach: beside the game, what the agent saw, expected and remembered. Drawn for a telephone's width."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from envs.episodes import EpisodeRecord, replay_colour
from experiment.scores.trace import Trace

Picture = NDArray[np.uint8]  # [H, W, 3]
Planes = NDArray[np.uint8]  # [3 H / 2, W]: luma [H, W], then two planes of chroma [H / 2, W / 2], as video keeps them
Colour = tuple[int, int, int]

FPS = 15  # pictures a second, one for each step of the agent
# In pixels. All places and sizes are even: chroma has half the resolution. The height of the game is native, its width
# twice that: about the shape that a television gave it.
WIDTH, MARGIN, GAME_WIDTH, VIEW = 528, 10, 320, 168
GAME_Y, VIEW_X, LINE_HEIGHT = 42, MARGIN + GAME_WIDTH + 16, 26
STEP = 4  # pixels of a step in the strips, which show the last WINDOW steps
WINDOW = (WIDTH - 2 * MARGIN) // STEP
CELLS = 32  # rows of the memory strip
SMALL, LARGE = 18, 22  # heights of text, pixels
GROUND, PANEL, GREY, WHITE = (14, 16, 22), (26, 30, 40), (150, 156, 168), (238, 240, 244)
PLAYED, CHANCE, LINE, BAND, RED = (76, 195, 120), (240, 160, 60), (90, 170, 250), (44, 72, 112), (235, 80, 80)
GATES = ((90, 170, 250), (240, 160, 60), (76, 195, 120))  # in the order of the core's names


# Of video: luma is 16 to 235, chroma 16 to 240.
LUMA = (16 + np.arange(256) * 219 / 255).round().astype(np.uint8)
CHROMA = (128 + (np.arange(256) - 128) * 224 / 255).round().astype(np.uint8)


class Tile(NamedTuple):
    """A part of a picture as luma [H, W] and chroma [2, H / 2, W / 2].

    What repeats is converted once, then copied: several times faster than to convert each whole picture of a film.
    """

    luma: NDArray[np.uint8]
    chroma: NDArray[np.uint8]

    @staticmethod
    def of(picture: Picture, size: tuple[int, int] | None = None) -> "Tile":
        """Of RGB, enlarged to this width and height."""
        image = Image.fromarray(picture)
        planes = np.asarray(image.resize(size or image.size, Image.Resampling.NEAREST).convert("YCbCr"))
        return Tile(LUMA[planes[..., 0]], CHROMA[planes[::2, ::2, 1:]].transpose(2, 0, 1))

    def put(self, tile: "Tile", x: int, y: int) -> None:
        """Copy a tile to x, y; what does not fit to the right is cut off."""
        height, width = tile.luma.shape
        luma = self.luma[y : y + height, x : x + width]
        luma[:] = tile.luma[:, : luma.shape[1]]
        chroma = self.chroma[:, y // 2 : (y + height) // 2, x // 2 : (x + width) // 2]
        chroma[:] = tile.chroma[..., : chroma.shape[2]]

    def fill(self, colour: Colour, x: int, y: int, width: int, height: int) -> None:
        self.put(_plain(colour, width, height), x, y)

    def write(self, text: str, x: int, y: int, size: int = SMALL, colour: Colour = WHITE, right: bool = False) -> int:
        """Put text at x, y (its left or right upper corner). Returns its left end."""
        glyphs = _text(text, size, colour)
        left = max(0, x - glyphs.luma.shape[1]) if right else x
        self.put(glyphs, left, y)
        return left


@lru_cache(maxsize=8192)
def _plain(colour: Colour, width: int, height: int) -> Tile:
    return Tile.of(np.full((height, width, 3), colour, np.uint8))


@lru_cache(maxsize=8192)
def _text(text: str, size: int, colour: Colour) -> Tile:
    """The text as a tile of its own size."""
    font = ImageFont.load_default(size)
    image = Image.new("RGB", (2 * round(font.getlength(text) / 2 + 1), 2 * round(size * 0.65)), GROUND)
    ImageDraw.Draw(image).text((0, 0), text, fill=colour, font=font)
    return Tile.of(np.asarray(image))


def _game(screen: Picture) -> Tile:
    """The game GAME_WIDTH pixels wide: twice the native width of Atari, which leaves the height as it is."""
    height, width = screen.shape[:2]
    return Tile.of(screen, (GAME_WIDTH, (height if 2 * width == GAME_WIDTH else GAME_WIDTH * height // width) // 2 * 2))


def _view(trace: Trace, t: int) -> Tile:
    """The agent's view at step t; tinted red where a pixel moves the value of the action played."""
    view, share = trace.frames[t][..., None].repeat(3, axis=2), np.zeros(1)
    if trace.saliency is not None:
        strength = trace.saliency[t] / (trace.saliency[t].max() + 1e-12)
        blurred = np.asarray(Image.fromarray((255 * strength).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.5)))
        share = blurred[..., None] / max(float(blurred.max()), 1.0)  # [H, W, 1]
    return Tile.of((view * (1 - share) + np.array(RED) * share).astype(np.uint8), (VIEW, VIEW))


# --- strips, which scroll ------------------------------------------------------------------------------------------


def _curves(height: int, curves: Mapping[Colour, np.ndarray], limits: Sequence[float] | np.ndarray,
            band: Sequence[np.ndarray] = ()) -> Picture:  # fmt: skip
    """A strip [height, T STEP, 3] of lines [T], and of a band between two, from the lowest limit to the highest."""
    steps, low, high = len(next(iter(curves.values()))), np.min(limits), np.max(limits)
    image = Image.new("RGB", (steps * STEP, height), PANEL)
    draw = ImageDraw.Draw(image)
    x = np.arange(steps) * STEP + STEP // 2

    def points(y: np.ndarray) -> list[tuple[float, float]]:
        level = (y - low) / max(high - low, 1e-6)
        return list(zip(x.tolist(), (4 + (height - 9) * (1 - level)).tolist(), strict=True))

    if len(band) and steps > 1:
        draw.polygon(points(band[0]) + points(band[1])[::-1], fill=BAND)
    for colour, y in curves.items():
        draw.line(points(y), fill=colour, width=3)
    return np.array(image)


def _memory(state: np.ndarray) -> Picture:
    """A strip of cell activity [T, H]: blue below the cell's mean, orange above; cells that change slowly on top."""
    activity = (state - state.mean(0)) / (2 * state.std(0) + 1e-6)
    order = np.argsort(np.abs(np.diff(activity, axis=0)).sum(0))
    shown = activity[:, order[np.linspace(0, state.shape[1] - 1, CELLS).round().astype(int)]].T  # [CELLS, T]
    level = np.clip(shown, -1, 1)[..., None]
    colours = np.where(level > 0, level * np.array(CHANCE), -level * np.array(LINE)).astype(np.uint8)
    return colours.repeat(2, axis=0).repeat(STEP, axis=1)


def _strips(trace: Trace, cells: int) -> dict[str, Tile]:
    """The strips of the whole episode by their label, WINDOW empty steps before each."""
    value, score = trace.q.max(-1), np.cumsum(trace.reward)
    band = trace.returns[:, np.arange(len(value)), trace.action]  # [2, T]
    strips = {
        "value: the highest Q": _curves(56, {LINE: value}, [value, *band], [*band]),
        "score so far": _curves(36, {PLAYED: score}, score),
    }
    if trace.state.shape[1]:
        strips["memory: cells, slow ones on top"] = _memory(trace.state[:, -cells:])
    if trace.gates:
        strips["gates, mean"] = _curves(48, dict(zip(GATES, trace.gates.values(), strict=False)), (0, 1))
    for label, strip in strips.items():
        before = np.full((len(strip), WINDOW * STEP, 3), GROUND, np.uint8)
        before[:, -2:] = RED  # the core state is reset where the episode starts
        strips[label] = np.concatenate([before, strip], axis=1)
    return {label: Tile.of(strip) for label, strip in strips.items()}


# --- the picture ---------------------------------------------------------------------------------------------------


def _bars(trace: Trace) -> np.ndarray:
    """Places on the axis of the bars, 0 to 1, relative to the best action: of the 10 % and 90 % quantiles of the
    returns and of Q, [T, A, 3]."""
    ends = np.stack([*trace.returns, trace.q], axis=-1) - trace.q.max(-1)[:, None, None]
    left, right = float(np.quantile(ends[..., 0], 0.01)), max(float(np.quantile(ends[..., 1], 0.99)), 1e-3)
    return ((ends - left) / (right - left)).clip(0, 1)


def pictures(record: EpisodeRecord, trace: Trace, actions: Sequence[str], title: str, cells: int) -> Iterator[Planes]:
    """The picture [3 H / 2, WIDTH] of each step, drawn over the one before.

    actions: names [A]; cells: the last so many numbers of the core's state are its cells. RuntimeError if the episode
    does not come out as recorded.
    """
    lines = len(actions) if len(actions) <= 9 else -(-len(actions) // 2)
    bars_y, width = GAME_Y + _game(next(replay_colour(record))).luma.shape[0] + 38, WIDTH - 2 * MARGIN
    column = width if lines == len(actions) else width // 4 * 2
    bars, strips, score, right = _bars(trace), _strips(trace, cells), np.cumsum(trace.reward), WIDTH - MARGIN
    tops = np.cumsum([bars_y + lines * LINE_HEIGHT + 6, *(LINE_HEIGHT + len(s.luma) for s in strips.values())]).tolist()
    height = (tops[-1] + 11) // 4 * 4  # PyAV takes planes of such a height only
    planes = np.empty((height * 3 // 2, WIDTH), np.uint8)
    luma, chroma = np.split(planes.reshape(-1), [height * WIDTH])
    canvas = Tile(luma.reshape(height, WIDTH), chroma.reshape(2, height // 2, WIDTH // 2))

    canvas.fill(GROUND, 0, 0, WIDTH, height)
    canvas.write(title, MARGIN, 8, LARGE)
    canvas.write("the agent sees" if trace.saliency is None else "red: moves Q", VIEW_X, GAME_Y, colour=GREY)
    canvas.write("Q, and 10-90 % of returns", MARGIN, bars_y - 28, colour=GREY)
    left = canvas.write("  played by chance", right, bars_y - 28, colour=CHANCE, right=True)
    canvas.write("played", left, bars_y - 28, colour=PLAYED, right=True)
    for label, y in zip(strips, tops, strict=False):
        canvas.write(label, MARGIN, y + 2, colour=GREY)
    left = right
    for name, colour in reversed([*zip(trace.gates, GATES, strict=False)]):
        left = canvas.write(f"  {name}", left, tops[-2] + 2, colour=colour, right=True)

    # Some games draw a thing in every second frame only.
    for t, screen in enumerate(replay_colour(record, pooled=True)):
        if t == record.steps:  # the last screen: no action follows
            continue
        canvas.put(_game(screen), MARGIN, GAME_Y)
        canvas.put(_view(trace, t), VIEW_X, GAME_Y + 28)
        canvas.write(f"   {score[t]:g} points   {t // 900}:{t // 15 % 60:02d}", right, 8, LARGE, right=True)
        canvas.write(f"   {trace.q[t].max():.2f}", right, tops[0] + 2, colour=LINE, right=True)
        for a, name in enumerate(actions):
            best = a == trace.q[t].argmax()
            colour = GREY if a != trace.action[t] else PLAYED if best else CHANCE
            x, y = MARGIN + a // lines * column, bars_y + a % lines * LINE_HEIGHT
            _row(canvas, (x, y, column - 8), name, trace.q[t, a], bars[t, a], colour)
        at = slice((t + 1) * STEP, (t + 1 + WINDOW) * STEP)
        for strip, y in zip(strips.values(), tops, strict=False):
            shown = Tile(strip.luma[:, at], strip.chroma[..., at.start // 2 : at.stop // 2])
            canvas.put(shown, MARGIN, y + LINE_HEIGHT)
        yield planes


def _row(canvas: Tile, place: tuple[int, int, int], name: str, q: float, bar: np.ndarray, colour: Colour) -> None:
    """An action's name, its Q, and on an axis the band of its returns and the mark of Q."""
    x, y, width = place
    low, high, mark = (x + 208 + int(share * (width - 214)) // 2 * 2 for share in bar.tolist())
    canvas.fill(GROUND, x, y, 208, 24)
    canvas.write(name, x, y, colour=colour)
    canvas.write(f"{q:.2f}", x + 200, y, colour=colour, right=True)
    canvas.fill(PANEL, x + 208, y + 4, width - 208, 18)
    canvas.fill(BAND, low, y + 8, high + 6 - low, 10)
    canvas.fill(colour, mark, y + 4, 6, 18)
