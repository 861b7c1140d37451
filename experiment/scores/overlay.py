"""Films that teach: beside the game, what the agent saw, expected and remembered. Drawn for a telephone's width."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from envs.episodes import EpisodeRecord, replay_colour
from envs.families import rules, task
from experiment.scores.trace import Trace

Picture = NDArray[np.uint8]  # [H, W, 3]
Colour = tuple[int, int, int]

FPS = 15  # pictures a second, one for each step of the agent
WIDTH, MARGIN, GAME_WIDTH, VIEW = 540, 10, 320, 168  # pixels
STEP = 4  # pixels of a step in the strips, which show the last WINDOW steps
WINDOW = (WIDTH - 2 * MARGIN) // STEP
CELLS = 48  # rows of the memory strip
SMALL, LARGE = 18, 30  # heights of text, pixels
GROUND, PANEL, GREY, WHITE = (14, 16, 22), (26, 30, 40), (150, 156, 168), (238, 240, 244)
PLAYED, CHANCE, LINE, BAND, RED = (76, 195, 120), (240, 160, 60), (90, 170, 250), (44, 72, 112), (235, 80, 80)
GATES = ((90, 170, 250), (240, 160, 60), (76, 195, 120))  # in the order of the core's names


@lru_cache(maxsize=8192)
def _text(text: str, size: int, colour: Colour, ground: Colour) -> Picture:
    """The text as a picture of its own size."""
    font = ImageFont.load_default(size)
    image = Image.new("RGB", (max(1, round(font.getlength(text))), round(size * 1.3)), ground)
    ImageDraw.Draw(image).text((0, 0), text, fill=colour, font=font)
    return np.asarray(image)


def _write(picture: Picture, text: str, x: int, y: int, size: int = SMALL, colour: Colour = WHITE,
           ground: Colour = GROUND, right: bool = False) -> None:  # fmt: skip
    """Put text at x, y (its left or right upper corner); what does not fit is cut off."""
    glyphs = _text(text, size, colour, ground)
    x = max(0, x - glyphs.shape[1]) if right else x
    place = picture[y : y + glyphs.shape[0], x : x + glyphs.shape[1]]
    place[:] = glyphs[: place.shape[0], : place.shape[1]]


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
        self.skip = task(record.game, rules(record.game, record.protocol)).frame_skip
        value = self.q.max(-1)  # [T]
        self.low, self.high = (np.quantile(trace.samples, share, axis=-1) for share in (0.1, 0.9))  # [T, A]
        self.value, self.score = value, np.cumsum(trace.reward)
        lows, highs = self.low - value[:, None], self.high - value[:, None]
        self.axis = float(np.quantile(lows, 0.01)), max(float(np.quantile(highs, 0.99)), 1e-3)
        self.distribution = trace.samples.shape[-1] > 1

        played = (np.arange(len(value)), trace.action)
        band = (self.low[played], self.high[played])
        extent = np.concatenate([value, *(band if self.distribution else ())])
        strips = [("value: the highest Q", _curves(76, [(value, LINE)], extent.min(), extent.max(),
                                                   band if self.distribution else None))]  # fmt: skip
        strips.append(("score so far", _curves(50, [(self.score, PLAYED)], self.score.min(), self.score.max())))
        if trace.state.shape[1]:
            strips.append(("memory: cells, slow ones on top", _memory(trace.state[:, -cells:])))
        if trace.gates:
            lines = list(zip(trace.gates.values(), GATES, strict=False))
            strips.append(("gates, mean", _curves(64, lines, 0, 1)))
        self._lay_out(title, strips)

    def _lay_out(self, title: str, strips: list[tuple[str, Picture]]) -> None:
        """Places, the picture of all that never changes, and the strips one below the other as one long picture."""
        game = next(replay_colour(self.record))
        self.enlarge = max(1, GAME_WIDTH // game.shape[1])
        columns = 1 if len(self.actions) <= 9 else 2
        lines = -(-len(self.actions) // columns)
        self.game_y = 46
        self.view_x = MARGIN + game.shape[1] * self.enlarge + 16
        self.q_y = self.game_y + game.shape[0] * self.enlarge + 10 + 28
        column = (WIDTH - 2 * MARGIN) // columns
        self.places = [
            (MARGIN + i // lines * column, self.q_y + i % lines * 27, column - 8) for i in range(len(self.actions))
        ]
        y = self.q_y + lines * 27 + 6
        self.strip_y, long = y, []
        labels = []
        for label, strip in strips:
            labels.append((label, y))
            head = np.full((28, strip.shape[1], 3), GROUND, np.uint8)
            long += [head, strip]
            y += 28 + strip.shape[0]
        self.labels = labels
        strip = np.concatenate(long)
        before = np.full((len(strip), WINDOW * STEP, 3), GROUND, np.uint8)
        before[:, -2:] = RED  # the core state is reset where the episode starts
        self.strip = np.concatenate([before, strip], axis=1)
        self.base = np.full((y + y % 2 + 8, WIDTH, 3), GROUND, np.uint8)
        _write(self.base, title, MARGIN, 8, 24)
        tinted = self.trace.saliency is not None
        _write(self.base, "red: moves Q" if tinted else "the agent sees", self.view_x, self.game_y, colour=GREY)
        head = "Q, and 10-90 % of returns" if self.distribution else "Q"
        _write(self.base, head, MARGIN, self.q_y - 28, colour=GREY)
        _write(self.base, "played by chance", WIDTH - MARGIN, self.q_y - 28, colour=CHANCE, right=True)
        _write(self.base, "played", WIDTH - MARGIN - 160, self.q_y - 28, colour=PLAYED, right=True)

    def __iter__(self) -> Iterator[Picture]:
        """A picture [H, 540, 3] for each step. RuntimeError if the episode does not come out as recorded."""
        shown: Picture | None = None
        for i, screen in enumerate(replay_colour(self.record, every_frame=True)):
            # Some games draw a thing in every second frame only: a step shows what is bright in any of its frames.
            shown = screen if shown is None else np.maximum(shown, screen)
            if i % self.skip == 0 and i < self.record.steps * self.skip:
                picture, game = self.draw(i // self.skip), shown.repeat(self.enlarge, axis=1)
                for row in range(self.enlarge):
                    rows = slice(self.game_y + row, self.game_y + len(game) * self.enlarge, self.enlarge)
                    picture[rows, MARGIN : MARGIN + game.shape[1]] = game
                yield picture
                shown = None

    def draw(self, t: int) -> Picture:
        """All but the game at step t."""
        picture, trace, x = self.base.copy(), self.trace, self.view_x
        y = self.game_y + 28
        view = self._view(t)
        picture[y : y + len(view), x : x + view.shape[1]] = view
        _write(picture, f"score {self.score[t]:g}", x, y + VIEW + 14, LARGE)
        _write(picture, f"{t // 900}:{t // 15 % 60:02d}", x, y + VIEW + 56, SMALL, GREY)
        best, action = int(self.q[t].argmax()), int(trace.action[t])
        for a, (name, place) in enumerate(zip(self.actions, self.places, strict=True)):
            colour = GREY if a != action else PLAYED if a == best else CHANCE
            self._row(picture, t, a, name, place, colour)
        now = (t + 1) * STEP
        window = self.strip[:, now : now + WINDOW * STEP]
        picture[self.strip_y : self.strip_y + len(window), MARGIN : MARGIN + window.shape[1]] = window
        for label, y in self.labels:
            _write(picture, label, MARGIN, y + 3, colour=GREY)
        right = WIDTH - MARGIN
        _write(picture, f"{self.value[t]:.2f}", right, self.labels[0][1] + 3, colour=LINE, right=True)
        if trace.gates:
            for (name, opening), colour in reversed(list(zip(trace.gates.items(), GATES, strict=False))):
                word = f"  {name} {opening[t]:.2f}"
                _write(picture, word, right, self.labels[-1][1] + 3, colour=colour, right=True)
                right -= _text(word, SMALL, colour, GROUND).shape[1]
        return picture

    def _view(self, t: int) -> Picture:
        """What the agent saw, twice enlarged; tinted red where a pixel moves the value of the action played."""
        view = self.trace.frames[t][..., None].repeat(3, axis=-1)
        if self.trace.saliency is not None:
            strength = self.trace.saliency[t] / (self.trace.saliency[t].max() + 1e-12)
            blurred = Image.fromarray((255 * strength).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.5))
            tint = np.asarray(blurred)[..., None]  # [H, W, 1]
            share = tint / max(float(tint.max()), 1.0)
            view = (view * (1 - share) + np.array(RED) * share).astype(np.uint8)
        enlarge = max(1, VIEW // view.shape[1])
        return view.repeat(enlarge, axis=0).repeat(enlarge, axis=1)[:VIEW, :VIEW]

    def _row(self, picture: Picture, t: int, a: int, name: str, place: tuple[int, int, int], colour: Colour) -> None:
        """An action's name, its Q, and a bar relative to the best action's Q: [low, high] of the returns, Q a mark."""
        x, y, width = place
        _write(picture, name, x, y, colour=colour)
        _write(picture, f"{self.q[t, a]:.2f}", x + 200, y, colour=colour, right=True)
        left, right = x + 208, x + width
        low, high = self.axis

        def at(value: float) -> int:
            share = (value - self.value[t] - low) / (high - low)
            return left + int(np.clip(share, 0, 1) * (right - left - 6))

        picture[y + 4 : y + 22, left:right] = PANEL
        q = at(self.q[t, a])
        if self.distribution:
            picture[y + 8 : y + 18, at(self.low[t, a]) : at(self.high[t, a]) + 6] = BAND
        else:
            picture[y + 8 : y + 18, left:q] = BAND
        picture[y + 4 : y + 22, q : q + 6] = colour
