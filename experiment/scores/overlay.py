"""Films that teach: beside the game, what the agent saw, expected and remembered. Drawn for a
telephone's width."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from envs.episodes import EpisodeRecord, replay_colour
from experiment.scores.trace import Trace
from experiment.scores.video import Frame

Colour = tuple[int, int, int]

FPS = 15  # pictures a second, one for each step of the agent
# In pixels. The height of the game is native, its width twice that: about the shape that a
# television gave it.
WIDTH, MARGIN, GAME_WIDTH, VIEW = 528, 10, 320, 168
GAME_Y, VIEW_X, LINE_HEIGHT = 42, MARGIN + GAME_WIDTH + 16, 26
AXIS_X, MARK = 208, 6  # where the axis of an action's line begins; width of the mark on it
STEP = 4  # pixels of a step in the strips, which show the last WINDOW steps
WINDOW = (WIDTH - 2 * MARGIN) // STEP
CELLS = 32  # rows of the memory strip
SMALL, LARGE = 18, 22  # heights of text, pixels
GROUND, PANEL, GREY, WHITE = (14, 16, 22), (26, 30, 40), (150, 156, 168), (238, 240, 244)
PLAYED, CHANCE, LINE, BAND, RED = (
    (76, 195, 120),
    (240, 160, 60),
    (90, 170, 250),
    (44, 72, 112),
    (235, 80, 80),
)
GATES = (LINE, CHANCE, PLAYED)  # in the order of the core's names


def _put(canvas: Frame, tile: Frame, x: int, y: int) -> None:
    """Copy a tile to x, y; what does not fit to the right is cut off."""
    canvas[y : y + len(tile), x : x + tile.shape[1]] = tile[:, : canvas.shape[1] - x]


@lru_cache(maxsize=8192)  # far faster than to draw the letters of each picture anew
def _text(text: str, size: int, colour: Colour) -> Frame:
    font = ImageFont.load_default(size)
    image = Image.new("RGB", (round(font.getlength(text)) + 2, round(size * 1.3)), GROUND)
    ImageDraw.Draw(image).text((0, 0), text, fill=colour, font=font)
    return np.asarray(image)


def _write(
    canvas: Frame, text: str, x: int, y: int, colour: Colour, size: int = SMALL, right: bool = False
) -> int:
    """Put text at x, y (its left or right upper corner). Returns its left end."""
    glyphs = _text(text, size, colour)
    left = max(0, x - glyphs.shape[1]) if right else x
    _put(canvas, glyphs, left, y)
    return left


def _game(screen: Frame) -> Frame:
    """The game GAME_WIDTH pixels wide: twice the native width of Atari, which leaves the height as
    it is."""
    height, width = screen.shape[:2]
    size = GAME_WIDTH, height if 2 * width == GAME_WIDTH else GAME_WIDTH * height // width
    return np.asarray(Image.fromarray(screen).resize(size, Image.Resampling.NEAREST))


def _view(trace: Trace, t: int) -> Frame:
    """The agent's view at step t; tinted red where a pixel moves the value of the action played."""
    view = Image.fromarray(trace.frames[t]).convert("RGB")
    if trace.saliency is not None:
        strength = trace.saliency[t] / (trace.saliency[t].max() + 1e-12)
        blurred = Image.fromarray((255 * strength).astype(np.uint8)).filter(
            ImageFilter.GaussianBlur(1.5)
        )
        view.paste(RED, mask=ImageOps.autocontrast(blurred))
    return np.asarray(view.resize((VIEW, VIEW), Image.Resampling.NEAREST))


# --- strips, which scroll -------------------------------------------------------------------------


def _curves(
    height: int,
    curves: Mapping[Colour, np.ndarray],
    limits: Sequence[float] | np.ndarray,
    band: Sequence[np.ndarray] = (),
) -> Frame:
    """A strip [height, T STEP, 3] of lines [T], and of a band between two, from the lowest limit to
    the highest."""
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
    return np.asarray(image)


def _memory(state: np.ndarray) -> Frame:
    """A strip of cell activity [T, H]: blue below the cell's mean, orange above; cells that change
    slowly on top."""
    activity = (state - state.mean(0)) / (2 * state.std(0) + 1e-6)
    order = np.argsort(np.abs(np.diff(activity, axis=0)).sum(0))
    # [CELLS, T]
    shown = activity[:, order[np.linspace(0, state.shape[1] - 1, CELLS).round().astype(int)]].T
    level = np.clip(shown, -1, 1)[..., None]
    colours = np.where(level > 0, level * np.array(CHANCE), -level * np.array(LINE)).astype(
        np.uint8
    )
    return colours.repeat(2, axis=0).repeat(STEP, axis=1)


def _strips(trace: Trace, cells: int) -> dict[str, Frame]:
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
        strips["gates, mean"] = _curves(
            48, dict(zip(GATES, trace.gates.values(), strict=False)), (0, 1)
        )
    for label, strip in strips.items():
        before = np.full((len(strip), WINDOW * STEP, 3), GROUND, np.uint8)
        before[:, -2:] = RED  # the core state is reset where the episode starts
        strips[label] = np.concatenate([before, strip], axis=1)
    return strips


# --- the picture ----------------------------------------------------------------------------------


def _bars(trace: Trace) -> np.ndarray:
    """Places on the axis of the bars, 0 to 1, relative to the best action: of the 10 % and 90 %
    quantiles of the returns and of Q, [T, A, 3]."""
    ends = np.stack([*trace.returns, trace.q], axis=-1) - trace.q.max(-1)[:, None, None]
    left, right = (
        float(np.quantile(ends[..., 0], 0.01)),
        max(float(np.quantile(ends[..., 1], 0.99)), 1e-3),
    )
    return ((ends - left) / (right - left)).clip(0, 1)


def pictures(
    record: EpisodeRecord, trace: Trace, actions: Sequence[str], title: str, cells: int
) -> Iterator[Frame]:
    """The picture [H, WIDTH, 3] of each step.

    actions: names [A]; cells: the last so many numbers of the core's state are its cells.
    RuntimeError if the episode does not come out as recorded.
    """
    columns = 1 if len(actions) <= 9 else 2
    lines, column = -(-len(actions) // columns), (WIDTH - 2 * MARGIN) // columns
    axis = column - 8 - AXIS_X  # pixels
    # Some games draw a thing in every second frame only.
    screens = replay_colour(record, pooled=True)
    first = next(screens)
    bars_y, right = GAME_Y + len(_game(first)) + 38, WIDTH - MARGIN
    places = [
        (MARGIN + a // lines * column, bars_y + a % lines * LINE_HEIGHT)
        for a in range(len(actions))
    ]
    bars, strips, score = _bars(trace), _strips(trace, cells), np.cumsum(trace.reward)
    tops = np.cumsum(
        [bars_y + lines * LINE_HEIGHT + 6, *(LINE_HEIGHT + len(s) for s in strips.values())]
    ).tolist()

    ground = np.full((tops[-1] + 8, WIDTH, 3), GROUND, np.uint8)  # what is the same in all pictures
    _write(ground, title, MARGIN, 8, WHITE, LARGE)
    _write(
        ground, "the agent sees" if trace.saliency is None else "red: moves Q", VIEW_X, GAME_Y, GREY
    )
    _write(ground, "Q, and 10-90 % of returns", MARGIN, bars_y - 28, GREY)
    left = _write(ground, "  played by chance", right, bars_y - 28, CHANCE, right=True)
    _write(ground, "played", left, bars_y - 28, PLAYED, right=True)
    for x, y in places:
        ground[y + 4 : y + 22, x + AXIS_X : x + AXIS_X + axis] = PANEL
    for label, y in zip(strips, tops, strict=False):
        _write(ground, label, MARGIN, y + 2, GREY)
    left = right
    for name, colour in reversed([*zip(trace.gates, GATES, strict=False)]):
        left = _write(ground, f"  {name}", left, tops[-2] + 2, colour, right=True)

    for t, screen in enumerate(chain([first], screens)):
        if t == record.steps:  # the last screen: no action follows
            continue
        picture, q = ground.copy(), trace.q[t]
        _put(picture, _game(screen), MARGIN, GAME_Y)
        _put(picture, _view(trace, t), VIEW_X, GAME_Y + 28)
        _write(
            picture,
            f"{score[t]:g} points   {t // 900}:{t // 15 % 60:02d}",
            right,
            8,
            WHITE,
            LARGE,
            right=True,
        )
        _write(picture, f"{q.max():.2f}", right, tops[0] + 2, LINE, right=True)
        for a, (x, y) in enumerate(places):
            colour = GREY if a != trace.action[t] else PLAYED if a == q.argmax() else CHANCE
            low, high, mark = (
                x + AXIS_X + int(share * (axis - MARK)) for share in bars[t, a].tolist()
            )
            _write(picture, actions[a], x, y, colour)
            _write(picture, f"{q[a]:.2f}", x + AXIS_X - 8, y, colour, right=True)
            picture[y + 8 : y + 18, low : high + MARK] = BAND
            picture[y + 4 : y + 22, mark : mark + MARK] = colour
        for strip, y in zip(strips.values(), tops, strict=False):
            _put(
                picture, strip[:, (t + 1) * STEP : (t + 1 + WINDOW) * STEP], MARGIN, y + LINE_HEIGHT
            )
        yield picture
