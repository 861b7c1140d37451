"""Screens: observers that hide a part of the images, so that memory helps the agent.

An observer stands between one environment and the agent. Its result depends only on its seed and on
the frames and `is_first` flags so far, so a replay of an episode shows exactly what the agent saw.
A new kind is one class and one line in `KINDS`.
"""

from dataclasses import dataclass

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
        number = f":{float(self.parameter)}".removesuffix(".0")
        return self.kind if self.kind == "full" else self.kind + number


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

    default: float = 0  # the default parameter
    clear: float | None = 0  # the parameter that hides nothing, if there is one
    meaning: str = ""  # of the parameter, for the axis of a figure
    lowest: float = 0
    highest: float = 0
    whole: bool = True  # the parameter is a whole number

    def __init__(self, parameter: float, seed: int) -> None:
        self.parameter = parameter
        self.rng = np.random.default_rng(seed)

    def __call__(self, frame: np.ndarray, is_first: bool) -> np.ndarray:
        """The agent's image, uint8 [height, width], from the environment's image `frame`.

        The result may be `frame` itself, which the observer never changes.
        """
        return frame

    @classmethod
    def allowed(cls) -> str:
        """The range of the parameter, in words."""
        number = "a whole number" if cls.whole else "a number"
        return (
            f"{number} from {cls.lowest:g} to {cls.highest:g}"
            if cls.highest > 0
            else "no parameter but 0"
        )


class Flicker(Observer):
    """Each frame is black with this probability, independently (Hausknecht & Stone 2015: 0.5)."""

    meaning = "probability that a frame is hidden"
    default, lowest, highest, whole = 0.5, 0.0, 1.0, False

    def __call__(self, frame: np.ndarray, is_first: bool) -> np.ndarray:
        return np.zeros_like(frame) if self.rng.random() < self.parameter else frame


class Blackout(Observer):
    """Stretches of exactly n black frames.

    At every frame outside a stretch a new one begins with probability 1 / (2n + 1). So the mean
    number of frames between two stretches is 2n, and a third of all frames is black for every n.
    A stretch ends with its episode.
    """

    meaning = "frames hidden at a time, a third of all in the mean"
    default, lowest, highest, clear = 8, 1, 1000, None

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

    meaning = "steps that the screen is late"
    default, lowest, highest = 4, 0, 1000

    frames: tuple[np.ndarray, ...] = ()  # of this episode, oldest first, at most n + 1

    def __call__(self, frame: np.ndarray, is_first: bool) -> np.ndarray:
        earlier = () if is_first else self.frames
        # A view would hold the frames of all other environments in memory.
        self.frames = (*earlier, frame.copy())[-int(self.parameter) - 1 :]
        return self.frames[0] if len(self.frames) > self.parameter else np.zeros_like(frame)


class Blinkered(Observer):
    """Only a band in the middle of the screen, of this share of its height, at least one row."""

    meaning = "share of the screen's height that is seen"
    default, lowest, highest, whole, clear = 0.5, 0.0, 1.0, False, 1

    def __call__(self, frame: np.ndarray, is_first: bool) -> np.ndarray:
        height = len(frame)
        rows = max(1, round(height * self.parameter))
        top = (height - rows) // 2
        view = np.zeros_like(frame)
        view[top : top + rows] = frame[top : top + rows]
        return view


class Noise(Observer):
    """Gaussian noise on every pixel, of this standard deviation in grey levels; clips to 0..255."""

    meaning = "standard deviation of the noise, grey levels"
    default, lowest, highest, whole = 25.0, 0.0, 255.0, False

    def __call__(self, frame: np.ndarray, is_first: bool) -> np.ndarray:
        noise = self.parameter * self.rng.standard_normal(frame.shape, dtype=np.float32)
        return np.clip(np.rint(frame + noise), 0, 255).astype(np.uint8)


KINDS: dict[str, type[Observer]] = {
    "full": Observer,
    "flicker": Flicker,
    "blackout": Blackout,
    "delay": Delay,
    "blinkered": Blinkered,
    "noise": Noise,
}


def make_observer(observe: Observe, seed: int) -> Observer:
    """A new observer of this screen, for the start of a tape."""
    return KINDS[observe.kind](observe.parameter, seed)
