"""Films of the game beside the agent's view, values and memory, for the width of a telephone."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from envs.episodes import replay_colour
from experiment.scores.trace import Trace
from experiment.scores.video import Frame

Colour = tuple[int, int, int]

# In pixels. The game has its native height and twice its native width, about the shape on a
# television.
WIDTH, MARGIN, GAME_WIDTH, VIEW = 528, 10, 320, 168
GAME_Y, VIEW_X, LINE_HEIGHT = 42, MARGIN + GAME_WIDTH + 16, 26
MARK, CUT = 6, 3  # widths of the mark on an action's axis, and of the sign of a cut bar
STEP = 4  # pixels of a step in the strips, which show the last WINDOW steps
WINDOW = (WIDTH - 2 * MARGIN) // STEP
CELLS = 32  # rows of the memory strip
SMALL, LARGE = 18, 22  # heights of text, pixels
# Of a line of an action, and its text: for up to nine actions, and for more of them.
ACTION_LINES = ((LINE_HEIGHT, SMALL), (20, 15))
GROUND, PANEL, GREY, WHITE = (14, 16, 22), (26, 30, 40), (150, 156, 168), (238, 240, 244)
BEST, OTHER = (76, 195, 120), (240, 160, 60)  # the action played: the best one, or another
LINE, BAND, RED = (90, 170, 250), (44, 72, 112), (235, 80, 80)
GATES = (LINE, OTHER, BEST)  # in the order of the core's names


def _put(canvas: Frame, tile: Frame, x: int, y: int) -> None:
    """Copy a tile to x, y, cut off at the right edge of the canvas."""
    canvas[y : y + len(tile), x : x + tile.shape[1]] = tile[:, : canvas.shape[1] - x]


@lru_cache(maxsize=8192)  # far faster than new letters in each picture
def _text(text: str, size: int, colour: Colour, ground: Colour) -> Frame:
    font = ImageFont.load_default(size)
    image = Image.new("RGB", (round(font.getlength(text)) + 2, round(size * 1.3)), ground)
    ImageDraw.Draw(image).text((0, 0), text, fill=colour, font=font)
    return np.asarray(image)


def _write(
    canvas: Frame,
    text: str,
    x: int,
    y: int,
    colour: Colour,
    size: int = SMALL,
    right: bool = False,
    ground: Colour = GROUND,
) -> int:
    """Put text at x, y: its upper left corner, or its right one. Returns the left end, pixels."""
    glyphs = _text(text, size, colour, ground)
    left = max(0, x - glyphs.shape[1]) if right else x
    _put(canvas, glyphs, left, y)
    return left


def _legend(canvas: Frame, texts: dict[str, Colour], y: int) -> None:
    """Put texts in their colours at the right end of a line."""
    left = WIDTH - MARGIN
    for text, colour in reversed(texts.items()):
        left = _write(canvas, f"  {text}", left, y, colour, right=True)


def _shortened(text: str, width: int, size: int = SMALL) -> str:
    """The text, or as much of its start as has this width, pixels, with an ellipsis."""
    font = ImageFont.load_default(size)
    cuts = [text, *(f"{text[:n]}…" for n in range(len(text) - 1, 0, -1))]
    return next((cut for cut in cuts if font.getlength(cut) <= width), "")


def _game(screen: Frame) -> Frame:
    """The game GAME_WIDTH pixels wide; Atari keeps its native height at twice its native width."""
    height, width = screen.shape[:2]
    size = GAME_WIDTH, height if 2 * width == GAME_WIDTH else GAME_WIDTH * height // width
    return np.asarray(Image.fromarray(screen).resize(size, Image.Resampling.NEAREST))


def _view(trace: Trace, t: int) -> Frame:
    """The agent's view at step t; a red tint shows the pixels that move Q of the action played."""
    view = Image.fromarray(trace.frames[t]).convert("RGB")
    if trace.saliency is not None:
        strength = trace.saliency[t] / (trace.saliency[t].max() + 1e-12)
        tint = Image.fromarray((255 * strength).astype(np.uint8))
        view.paste(RED, mask=ImageOps.autocontrast(tint.filter(ImageFilter.GaussianBlur(1.5))))
    return np.asarray(view.resize((VIEW, VIEW), Image.Resampling.NEAREST))


# --- scrolling strips -----------------------------------------------------------------------------


def _curves(
    height: int,
    curves: Mapping[Colour, np.ndarray],
    limits: Sequence[float] | np.ndarray,
    band: Sequence[np.ndarray] | np.ndarray = (),
) -> Frame:
    """A strip [height, T STEP, 3] of lines [T] and a band between two, scaled to the limits."""
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
    """A strip [2 CELLS, T STEP, 3] of cells of `state` [T, H], slowly changing ones on top.

    Blue is below the cell's mean, orange above.
    """
    activity = (state - state.mean(0)) / (2 * state.std(0) + 1e-6)
    order = np.argsort(np.abs(np.diff(activity, axis=0)).sum(0))
    cells = order[np.linspace(0, state.shape[1] - 1, CELLS).round().astype(int)]
    level = np.clip(activity[:, cells].T, -1, 1)[..., None]  # [CELLS, T, 1]
    colours = np.where(level > 0, level * np.array(OTHER), -level * np.array(LINE))
    return colours.astype(np.uint8).repeat(2, axis=0).repeat(STEP, axis=1)


def _strips(trace: Trace, cells: int) -> list[tuple[str, dict[str, Colour], Frame]]:
    """Label, legend and strip of the whole episode, each strip after WINDOW empty steps."""
    value, score = trace.q.max(-1), np.cumsum(trace.rewards)
    band = trace.returns[:, np.arange(len(value)), trace.q.argmax(-1)]  # [2, T]
    low, high = min(value.min(), band.min()), max(value.max(), band.max())
    scale = f"score so far, {score.min():g} to {score.max():g}"
    strips: list[tuple[str, dict[str, Colour], Frame]] = [
        (f"highest Q, {low:.2f} to {high:.2f}", {}, _curves(56, {LINE: value}, [low, high], band)),
        (scale, {}, _curves(36, {BEST: score}, score)),
    ]
    if trace.core_states.shape[1]:
        sides: dict[str, Colour] = {"above": OTHER, "below their mean": LINE}
        strips.append(("memory: cells, slow on top", sides, _memory(trace.core_states[:, -cells:])))
    if trace.gates:
        names = dict(zip(trace.gates, GATES, strict=False))
        curves = dict(zip(GATES, trace.gates.values(), strict=False))
        strips.append(("gates, mean, 0 to 1", names, _curves(48, curves, (0, 1))))
    before = np.full((1, WINDOW * STEP, 3), GROUND, np.uint8)
    before[:, -2:] = RED  # the start of the episode resets the core state
    return [
        (label, legend, np.concatenate([before.repeat(len(strip), axis=0), strip], axis=1))
        for label, legend, strip in strips
    ]


# --- the picture ----------------------------------------------------------------------------------


def _bars(trace: Trace) -> tuple[np.ndarray, float, float]:
    """Places on the axis of the 10 % and 90 % quantiles of returns and of Q, [T, A, 3].

    Places 0 and 1 are the ends of the axis, whose values, relative to the highest Q, come with
    them; outliers lie beyond.
    """
    ends = np.stack([*trace.returns, trace.q], axis=-1) - trace.q.max(-1)[:, None, None]
    left = float(np.quantile(ends[..., 0], 0.01))
    right = max(float(np.quantile(ends[..., 1], 0.99)), 1e-3)
    return (ends - left) / (right - left), left, right


def pictures(
    trace: Trace, actions: Sequence[str], title: str, cells: int, fps: int
) -> Iterator[Frame]:
    """The picture [H, WIDTH, 3] of each step, `fps` a second.

    actions: names [A]; cells: the number of cells, which come last in the core's state.
    RuntimeError if the game does not repeat the record.
    """
    line, size = ACTION_LINES[len(actions) > 9]
    axis_x, above = MARGIN + 208, (line - 18) // 2  # of an axis: its left end, its top in the line
    axis = WIDTH - MARGIN - 8 - axis_x  # pixels
    names = [_shortened(name, 128, size) for name in actions]
    # Pooled: some games draw an object in every second frame only.
    screens = replay_colour(trace.record, pooled=True)
    first = next(screens)
    bars_y, right = GAME_Y + len(_game(first)) + 38, WIDTH - MARGIN
    rows = [bars_y + a * line for a in range(len(actions))]  # tops, pixels
    (bars, lowest, highest), strips = _bars(trace), _strips(trace, cells)
    pixels = (bars.clip(0, 1) * (axis - MARK)).astype(int).tolist()  # [T, A, 3]
    cut = (bars != bars.clip(0, 1)).tolist()  # [T, A, 3]
    score = np.cumsum(trace.rewards)
    heights = [LINE_HEIGHT + len(strip) for *_, strip in strips]
    tops = np.cumsum([rows[-1] + line + LINE_HEIGHT + 6, *heights]).tolist()
    longest = max((f"{points:g}" for points in score.tolist()), key=len)
    clock = [f" points   {t // fps // 60}:{t // fps % 60:02d}" for t in range(trace.record.steps)]

    ground = np.full((tops[-1] + 8, WIDTH, 3), GROUND, np.uint8)  # common to all pictures
    left = _write(ground, longest + clock[-1], right, 8, GROUND, LARGE, right=True)
    _write(ground, _shortened(title, left - 2 * MARGIN, LARGE), MARGIN, 8, WHITE, LARGE)
    view = "the agent sees" if trace.saliency is None else "red: moves Q"
    _write(ground, view, VIEW_X, GAME_Y, GREY)
    # Only a head with quantiles tells the returns apart.
    spread = ", and 10-90 % of returns" * bool((trace.returns[0] < trace.returns[1]).any())
    _write(ground, f"Q{spread}", MARGIN, bars_y - 28, GREY)
    _legend(ground, {"played: the best": BEST, "not the best": OTHER}, bars_y - 28)
    scale = f"axis: highest Q {lowest:+.2f} to {highest:+.2f}; white end: cut"
    _write(ground, scale, MARGIN, tops[0] - 6 - LINE_HEIGHT, GREY)
    for name, y in zip(names, rows, strict=True):
        _write(ground, name, MARGIN, y, GREY, size)
        ground[y + above : y + above + 18, axis_x : axis_x + axis] = PANEL
    for (label, legend, _), y in zip(strips, tops, strict=False):
        _write(ground, label, MARGIN, y + 2, GREY)
        _legend(ground, legend, y + 2)

    for t, screen in enumerate(chain([first], screens)):
        if t == trace.record.steps:  # the last screen: no action follows
            continue
        picture, q = ground.copy(), trace.q[t]
        _put(picture, _game(screen), MARGIN, GAME_Y)
        _put(picture, _view(trace, t), VIEW_X, GAME_Y + 28)
        _write(picture, f"{score[t]:g}{clock[t]}", right, 8, WHITE, LARGE, right=True)
        _write(picture, f"{q.max():z.2f}", right, tops[0] + 2, LINE, right=True)
        played = int(trace.actions[t])
        y = rows[played]
        # A filled box and a white mark: of colour in narrow lines the encoder leaves some behind.
        paper = BEST if played == q.argmax() else OTHER
        picture[y : y + line - 2, MARGIN - 3 : axis_x - 5] = paper
        _write(picture, names[played], MARGIN, y, GROUND, size, ground=paper)
        for a, y in enumerate(rows):
            colour, ink, behind = (WHITE, GROUND, paper) if a == played else (GREY, GREY, GROUND)
            _write(picture, f"{q[a]:z.2f}", axis_x - 8, y, ink, size, right=True, ground=behind)
            (low, high, mark), (cut_low, cut_high, _) = pixels[t][a], cut[t][a]
            whole = picture[y + above : y + above + 18, axis_x : axis_x + axis]
            bar = whole[4:14]
            bar[:, low : high + MARK] = BAND
            bar[:, : CUT * cut_low] = WHITE
            bar[:, axis - CUT * cut_high :] = WHITE
            whole[:, mark : mark + MARK] = colour
        for (*_, strip), y in zip(strips, tops, strict=False):
            window = strip[:, (t + 1) * STEP : (t + 1 + WINDOW) * STEP]
            _put(picture, window, MARGIN, y + LINE_HEIGHT)
        yield picture
