"""Screens: observers that hide a part of the images, so that memory helps the agent.

An observer stands between one environment and the agent. Its result depends only on its seed and on
the frames and `is_first` flags so far, so a replay of an episode shows exactly what the agent saw.
A new kind is one class and one entry in `KINDS`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from envs.games import choose


@dataclass(frozen=True)
class Observe:
    """A screen: a kind in `KINDS` and its parameter. ValueError on others.

    `parse_screen` reads the result of str().
    """

    kind: str = "full"
    parameter: float = 0

    def __post_init__(self) -> None:
        kind, value = choose("screen", self.kind, KINDS), self.parameter
        if not kind.lowest <= value <= kind.highest or (kind.whole and value != int(value)):
            raise ValueError(
                f"{self.kind} takes {kind.allowed()}, not {value:g} (default {kind.default:g})"
            )

    def __str__(self) -> str:
        text = f"{self.kind}:{float(self.parameter)}"
        return self.kind if self.kind == "full" else text.removesuffix(".0")


def parse_screen(text: str) -> Observe:
    """The screen of `KIND:PARAMETER`, such as flicker:0.5, or of `KIND` with its default.

    ValueError with the allowed values, and with the nearest name.
    """
    name, colon, number = text.partition(":")
    kind = choose("screen", name, KINDS)
    try:
        parameter = float(number) if colon else kind.default
    except ValueError:
        raise ValueError(f"{name} takes {kind.allowed()}, not {number!r}") from None
    return Observe(name, parameter)


class Observer:
    """Hides nothing. The base of the other kinds."""

    def __init__(self, parameter: float, seed: int) -> None:
        self.parameter = parameter
        self.rng = np.random.default_rng(seed)

    def __call__(self, frame: np.ndarray, is_first: bool) -> np.ndarray:
        """The agent's image, uint8 [height, width], from the environment's image `frame`.

        The result may be `frame` itself, which the observer never changes.
        """
        return frame


class Flicker(Observer):
    """Each frame is black with this probability, independently (Hausknecht & Stone 2015: 0.5)."""

    def __call__(self, frame: np.ndarray, is_first: bool) -> np.ndarray:
        return np.zeros_like(frame) if self.rng.random() < self.parameter else frame


class Blackout(Observer):
    """Stretches of exactly n black frames.

    At every frame outside a stretch a new one begins with probability 1 / (2n + 1). So the mean
    number of frames between two stretches is 2n, and a third of all frames is black for every n.
    A stretch ends with its episode.
    """

    left = 0  # frames still to hide

    def __call__(self, frame: np.ndarray, is_first: bool) -> np.ndarray:
        if is_first:
            self.left = 0
        if self.left == 0 and self.rng.random() < 1 / (2 * self.parameter + 1):
            self.left = int(self.parameter)
        if self.left == 0:
            return frame
        self.left -= 1
        return np.zeros_like(frame)


class Delay(Observer):
    """The screen of n steps ago; black during the first n steps of an episode."""

    frames: tuple[np.ndarray, ...] = ()  # of this episode, oldest first, at most n + 1

    def __call__(self, frame: np.ndarray, is_first: bool) -> np.ndarray:
        earlier = () if is_first else self.frames
        # A view would hold the frames of all other environments in memory.
        self.frames = (*earlier, frame.copy())[-int(self.parameter) - 1 :]
        return self.frames[0] if len(self.frames) > self.parameter else np.zeros_like(frame)


class Blinkered(Observer):
    """Only a band in the middle of the screen, of this share of its height, at least one row."""

    def __call__(self, frame: np.ndarray, is_first: bool) -> np.ndarray:
        rows = max(1, round(len(frame) * self.parameter))
        top = (len(frame) - rows) // 2
        view = np.zeros_like(frame)
        view[top : top + rows] = frame[top : top + rows]
        return view


class Noise(Observer):
    """Gaussian noise on every pixel, of this standard deviation in grey levels; clips to 0..255."""

    def __call__(self, frame: np.ndarray, is_first: bool) -> np.ndarray:
        noise = self.parameter * self.rng.standard_normal(frame.shape, dtype=np.float32)
        return np.clip(np.rint(frame + noise), 0, 255).astype(np.uint8)


class Kind(NamedTuple):
    """A kind of screen, and the range of its parameter."""

    observer: type[Observer]
    meaning: str  # of the parameter, for the axis of a figure
    default: float
    lowest: float
    highest: float
    whole: bool = True  # the parameter is a whole number
    clear: float | None = 0  # the parameter that hides nothing, if there is one

    def allowed(self) -> str:
        """The range of the parameter, in words."""
        number = "a whole number" if self.whole else "a number"
        span = f"{number} from {self.lowest:g} to {self.highest:g}"
        return span if self.highest > 0 else "no parameter but 0"


KINDS = {
    "full": Kind(Observer, "", 0, 0, 0),
    "flicker": Kind(Flicker, "probability that a frame is hidden", 0.5, 0, 1, whole=False),
    "blackout": Kind(
        Blackout, "frames hidden at a time, a third of all in the mean", 8, 1, 1000, clear=None
    ),
    "delay": Kind(Delay, "steps that the screen is late", 4, 0, 1000),
    "blinkered": Kind(
        Blinkered, "share of the screen's height that is seen", 0.5, 0, 1, whole=False, clear=1
    ),
    "noise": Kind(Noise, "standard deviation of the noise, grey levels", 25, 0, 255, whole=False),
}


def make_observer(observe: Observe, seed: int) -> Observer:
    """A new observer of this screen, for the start of a tape."""
    return KINDS[observe.kind].observer(observe.parameter, seed)
