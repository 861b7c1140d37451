"""Films that teach: beside the game, what the agent saw, expected and remembered. Drawn for a telephone's width."""

from collections.abc import Iterator, Sequence
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
    def of(picture: Picture, across: int = 1) -> "Tile":
        """Of RGB, each pixel `across` times as wide."""
        planes = np.asarray(Image.fromarray(picture).convert("YCbCr"))
        chroma = CHROMA[planes[::2, :: 2 // across, 1:]].transpose(2, 0, 1)
        return Tile(LUMA[planes[..., 0]].repeat(across, axis=1), chroma)

    def put(self, tile: "Tile", x: int, y: int) -> None:
        """Copy a tile to x, y; what does not fit below or to the right is cut off."""
        luma = self.luma[y : y + tile.luma.shape[0], x : x + tile.luma.shape[1]]
        chroma = self.chroma[:, y // 2 : y // 2 + tile.chroma.shape[1], x // 2 : x // 2 + tile.chroma.shape[2]]
        luma[:] = tile.luma[: luma.shape[0], : luma.shape[1]]
        chroma[:] = tile.chroma[:, : chroma.shape[1], : chroma.shape[2]]

    def fill(self, colour: Colour, x: int, y: int, width: int, height: int) -> None:
        one = _plain(colour)
        self.luma[y : y + height, x : x + width] = one.luma
        self.chroma[:, y // 2 : (y + height) // 2, x // 2 : (x + width) // 2] = one.chroma

    def write(self, text: str, x: int, y: int, size: int = SMALL, colour: Colour = WHITE, right: bool = False) -> None:
        """Put text at x, y (its left or right upper corner)."""
        glyphs = _text(text, size, colour)
        self.put(glyphs, max(0, x - glyphs.luma.shape[1]) if right else x, y)


@lru_cache
def _plain(colour: Colour) -> Tile:
    tile = Tile.of(np.full((2, 2, 3), colour, np.uint8))
    return Tile(tile.luma[:1, :1], tile.chroma)


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
    if 2 * width == GAME_WIDTH:
        return Tile.of(screen[: height // 2 * 2], across=2)
    size = GAME_WIDTH, GAME_WIDTH * height // width // 2 * 2
    return Tile.of(np.asarray(Image.fromarray(screen).resize(size, Image.Resampling.NEAREST)))


def _curves(height: int, curves: Sequence[tuple[np.ndarray, Colour]], low: float, high: float,
            band: tuple[np.ndarray, np.ndarray] | None = None) -> Picture:  # fmt: skip
    """A strip [height, T STEP, 3] of lines [T] between the levels `low` and `high`."""
    steps = len(curves[0][0])
    image = Image.new("RGB", (steps * STEP, height), PANEL)
    draw = ImageDraw.Draw(image)
    x = np.arange(steps) * STEP + STEP // 2

    def points(y: np.ndarray) -> list[tuple[float, float]]:
        level = np.clip((y - low) / max(high - low, 1e-6), 0, 1)
        return list(zip(x.tolist(), (4 + (height - 9) * (1 - level)).tolist(), strict=True))

    if band and steps > 1:
        draw.polygon(points(band[0]) + points(band[1])[::-1], fill=BAND)
    for y, colour in curves:
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


class Overlay:
    """Draws the pictures of one episode. All that stays the same, and the strips, are drawn once."""

    def __init__(self, record: EpisodeRecord, trace: Trace, actions: Sequence[str], title: str, cells: int) -> None:
        """actions: names [A]; cells: the last so many numbers of the core's state are its cells."""
        self.record, self.trace, self.actions, self.q = record, trace, actions, trace.q
        value = self.q.max(-1)  # [T]
        self.low, self.high = (np.quantile(trace.samples, share, axis=-1) for share in (0.1, 0.9))  # [T, A]
        self.value, self.score = value, np.cumsum(trace.reward)
        lows, highs = self.low - value[:, None], self.high - value[:, None]
        left, right = float(np.quantile(lows, 0.01)), max(float(np.quantile(highs, 0.99)), 1e-3)
        # Places on the axis of the bars, 0 to 1: of the low end, the high end and Q itself.
        shares = np.stack([lows, highs, self.q - value[:, None]], axis=-1)  # [T, A, 3]
        self.share = ((shares - left) / (right - left)).clip(0, 1)
        self.distribution = trace.samples.shape[-1] > 1

        played = (np.arange(len(value)), trace.action)
        band = (self.low[played], self.high[played])
        extent = np.concatenate([value, *(band if self.distribution else ())])
        strips = [("value: the highest Q", _curves(56, [(value, LINE)], extent.min(), extent.max(),
                                                   band if self.distribution else None))]  # fmt: skip
        strips.append(("score so far", _curves(36, [(self.score, PLAYED)], self.score.min(), self.score.max())))
        if trace.state.shape[1]:
            strips.append(("memory: cells, slow ones on top", _memory(trace.state[:, -cells:])))
        if trace.gates:
            lines = list(zip(trace.gates.values(), GATES, strict=False))
            strips.append(("gates, mean", _curves(48, lines, 0, 1)))
        self._lay_out(title, strips)

    def _lay_out(self, title: str, strips: list[tuple[str, Picture]]) -> None:
        """Places, the picture of all that never changes, and the strips one below the other as one long tile."""
        columns = 1 if len(self.actions) <= 9 else 2
        lines = -(-len(self.actions) // columns)
        self.game_y, self.view_x = 42, MARGIN + GAME_WIDTH + 16
        self.q_y = self.game_y + _game(next(replay_colour(self.record))).luma.shape[0] + 38
        column = (WIDTH - 2 * MARGIN) // columns // 2 * 2
        self.places = [
            (MARGIN + i // lines * column, self.q_y + i % lines * 26, column - 8) for i in range(len(self.actions))
        ]
        self.strip_y = y = self.q_y + lines * 26 + 6
        self.labels, long = [], []
        for label, strip in strips:
            self.labels.append((label, y))
            long += [np.full((26, strip.shape[1], 3), GROUND, np.uint8), strip]
            y += 26 + strip.shape[0]
        strip = np.concatenate(long)
        before = np.full((len(strip), WINDOW * STEP, 3), GROUND, np.uint8)
        before[:, -2:] = RED  # the core state is reset where the episode starts
        self.strip = Tile.of(np.concatenate([before, strip], axis=1))
        self.height = (y + 11) // 4 * 4  # PyAV takes planes of such a height only
        self.planes = np.empty((self.height * 3 // 2, WIDTH), np.uint8)
        luma, chroma = np.split(self.planes.reshape(-1), [self.height * WIDTH])
        canvas = self.canvas = Tile(luma.reshape(self.height, WIDTH), chroma.reshape(2, self.height // 2, WIDTH // 2))
        canvas.fill(GROUND, 0, 0, WIDTH, self.height)
        canvas.write(title, MARGIN, 8, LARGE)
        tinted = self.trace.saliency is not None
        canvas.write("red: moves Q" if tinted else "the agent sees", self.view_x, self.game_y, colour=GREY)
        head = "Q, and 10-90 % of returns" if self.distribution else "Q"
        canvas.write(head, MARGIN, self.q_y - 28, colour=GREY)
        canvas.write("played by chance", WIDTH - MARGIN, self.q_y - 28, colour=CHANCE, right=True)
        canvas.write("played", WIDTH - MARGIN - 160, self.q_y - 28, colour=PLAYED, right=True)

    def __iter__(self) -> Iterator[Planes]:
        """The picture [3 H / 2, WIDTH] of each step, drawn over the one before.

        RuntimeError if the episode does not come out as recorded.
        """
        # Some games draw a thing in every second frame only.
        for t, screen in enumerate(replay_colour(self.record, pooled=True)):
            if t < self.record.steps:
                self.canvas.put(_game(screen), MARGIN, self.game_y)
                self.draw(t)
                yield self.planes

    def draw(self, t: int) -> None:
        """All but the game at step t."""
        canvas, trace, right = self.canvas, self.trace, WIDTH - MARGIN
        canvas.put(self._view(t), self.view_x, self.game_y + 28)
        canvas.write(f"   {self.score[t]:g} points   {t // 900}:{t // 15 % 60:02d}", right, 8, LARGE, right=True)
        best, action = int(self.q[t].argmax()), int(trace.action[t])
        for a, (name, place) in enumerate(zip(self.actions, self.places, strict=True)):
            colour = GREY if a != action else PLAYED if a == best else CHANCE
            self._row(t, a, name, place, colour)
        now = (t + 1) * STEP
        window = slice(now, now + WINDOW * STEP), slice(now // 2, (now + WINDOW * STEP) // 2)
        canvas.put(Tile(self.strip.luma[:, window[0]], self.strip.chroma[:, :, window[1]]), MARGIN, self.strip_y)
        for label, y in self.labels:
            canvas.write(label, MARGIN, y + 2, colour=GREY)
        canvas.write(f"{self.value[t]:.2f}", right, self.labels[0][1] + 2, colour=LINE, right=True)
        for (name, opening), colour in reversed(list(zip(trace.gates.items(), GATES, strict=False))):
            word = f"  {name} {opening[t]:.2f}"
            canvas.write(word, right, self.labels[-1][1] + 2, colour=colour, right=True)
            right -= _text(word, SMALL, colour).luma.shape[1]

    def _view(self, t: int) -> Tile:
        """The agent's view, enlarged; tinted red where a pixel moves the value of the action played."""
        view = self.trace.frames[t]
        enlarge = max(1, VIEW // view.shape[1])
        if self.trace.saliency is None:
            luma = LUMA[view].repeat(enlarge, axis=0).repeat(enlarge, axis=1)[:VIEW, :VIEW]
            return Tile(luma, np.full((2, luma.shape[0] // 2, luma.shape[1] // 2), 128, np.uint8))
        strength = self.trace.saliency[t] / (self.trace.saliency[t].max() + 1e-12)
        blurred = Image.fromarray((255 * strength).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.5))
        tint = np.asarray(blurred)[..., None]  # [H, W, 1]
        share = tint / max(float(tint.max()), 1.0)
        tinted = (view[..., None] * (1 - share) + np.array(RED) * share).astype(np.uint8)
        return Tile.of(tinted.repeat(enlarge, axis=0).repeat(enlarge, axis=1)[:VIEW, :VIEW])

    def _row(self, t: int, a: int, name: str, place: tuple[int, int, int], colour: Colour) -> None:
        """An action's name, its Q, and a bar relative to the best action's Q: [low, high] of the returns, Q a mark."""
        canvas, (x, y, width) = self.canvas, place
        left, right = x + 208, x + width
        low, high, q = (left + int(share * (right - left - 6)) // 2 * 2 for share in self.share[t, a].tolist())
        canvas.fill(GROUND, x, y, 208, 24)
        canvas.write(name, x, y, colour=colour)
        canvas.write(f"{self.q[t, a]:.2f}", x + 200, y, colour=colour, right=True)
        canvas.fill(PANEL, left, y + 4, right - left, 18)
        canvas.fill(
            BAND, low if self.distribution else left, y + 8, high + 6 - low if self.distribution else q - left, 10
        )
        canvas.fill(colour, q, y + 4, 6, 18)
