"""Films of recorded episodes: the game, the agent's view and values, two games, in a terminal."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import TextIO

import numpy as np

from envs.episodes import EpisodeRecord, replay_colour
from envs.families import rules, task
from experiment import build
from experiment.scores import overlay
from experiment.scores.agent import Agent
from experiment.scores.evaluation import middle_and_best, ranked
from experiment.scores.progress import progress
from experiment.scores.trace import trace
from experiment.scores.video import Frame, write_video

GAP = 8  # pixels between two films side by side


@dataclass(frozen=True)
class Film:
    """About `length` pictures of one size, `fps` a second."""

    pictures: Iterable[Frame]
    fps: int
    length: int
    scale: int = 1
    fast: bool = False  # encode fast, to a larger file
    captions: Sequence[str] = ()

    def write(self, path: Path) -> Path:
        """Encode under a progress bar; beside the film lies a still at three quarters of it.

        OSError if a file cannot be written.
        """
        with progress(path.name, self.length, "pictures") as bar:

            def frames() -> Iterator[Frame]:
                for i, picture in enumerate(self.pictures, start=1):
                    yield picture
                    bar(i, "")

            poster = self.length * 3 // 4
            write_video(frames(), path, self.captions, self.scale, self.fps, poster, self.fast)
        return path

    def show(self, out: TextIO, sleep: Callable[[float], None] = time.sleep) -> None:
        """Play in a terminal with 24-bit colours, at most at the film's own speed."""
        size, every = shutil.get_terminal_size(), max(1, self.fps // 15)
        out.write("\x1b[?25l\x1b[2J")  # hide the cursor, clear
        due = time.monotonic()
        try:
            for picture in islice(self.pictures, 0, None, every):
                out.write("\x1b[H" + blocks(picture, size.columns, 2 * size.lines - 2))
                out.flush()
                due += every / self.fps
                sleep(max(0.0, due - time.monotonic()))
        finally:
            out.write("\x1b[0m\x1b[?25h\n")


def film_of(
    records: Sequence[EpisodeRecord], agents: Sequence[Agent], with_overlay: bool, saliency: bool
) -> Film:
    """A film of one record, or of the records of two agents side by side, under their names."""
    films = (
        [overlay_film(*pair, saliency) for pair in zip(agents, records, strict=True)]
        if with_overlay
        else [game_film(record) for record in records]
    )
    if len(films) == 1:
        return films[0]
    captions = [
        f"{agent.config.preset}  {agent.folder.resolve().name}  {_caption(record)}"
        for agent, record in zip(agents, records, strict=True)
    ]
    return replace(beside(*films), captions=captions)


def _caption(record: EpisodeRecord) -> str:
    return f"{record.game} {record.observe}  {record.score:g}"


def game_film(record: EpisodeRecord) -> Film:
    """A film of every frame of the game, in colour."""
    _, frame_skip, _, fps = task(record.game, rules(record.game, record.protocol))
    pictures, length = replay_colour(record, every_frame=True), record.steps * frame_skip
    return Film(pictures, fps, length, scale=2, captions=[_caption(record)])


def overlay_film(agent: Agent, record: EpisodeRecord, saliency: bool = False) -> Film:
    """A film of one picture a step: the game, and beside it this agent's view, Q and memory."""
    c, played = agent.config, build.task(agent.config)
    fps = max(1, played.fps // played.frame_skip)  # one picture a step
    images = overlay.pictures(
        trace(agent.network, c, record, saliency),
        played.action_names,
        title=f"{c.preset}  {record.game.rpartition(':')[2]}  {record.observe}",
        cells=c.core_size,
        fps=fps,
    )
    return Film(images, fps, record.steps, fast=True)


def beside(one: Film, other: Film) -> Film:
    """Two films next to each other, GAP apart; the shorter one stays at its last picture."""

    def pictures() -> Iterator[Frame]:
        pair: list[Frame] = []
        for new in zip_longest(one.pictures, other.pictures):
            pair = [pair[i] if picture is None else picture for i, picture in enumerate(new)]
            height = max(map(len, pair))
            padded = [
                np.pad(p, ((0, height - len(p)), (0, GAP // one.scale), (0, 0))) for p in pair
            ]
            yield np.concatenate(padded, axis=1)[:, : -GAP // one.scale]

    return replace(one, pictures=pictures(), length=max(one.length, other.length))


def chosen(scores: list[float], which: str) -> list[int]:
    """The indices of the best, the median, all (the best first) or none of the episodes."""
    middle, best = middle_and_best(scores)
    return {"best": [best], "median": [middle], "all": ranked(scores), "none": []}[which]


def fitted(picture: Frame, columns: int, rows: int) -> Frame:
    """A picture [H, W, 3] in the largest size of its aspect with at most these columns and rows.

    A pixel has the highest red, green and blue of those it stands for: small objects stay bright.
    """
    height, width = picture.shape[:2]
    scale = min(columns / width, rows / height)
    sizes = [(n, max(1, round(n * scale))) for n in (height, width)]
    y, x = (np.arange(size) * n // size for n, size in sizes)  # first pixel of each
    return np.maximum.reduceat(np.maximum.reduceat(picture, y, axis=0), x, axis=1)


def blocks(picture: Frame, columns: int, rows: int) -> str:
    """A picture as lines of half blocks: a character shows one pixel above another."""
    small = fitted(picture, columns, rows)
    upper, lower = small[: len(small) // 2 * 2 : 2], small[1::2]
    pairs = np.concatenate([upper, lower], axis=2).tolist()  # [rows / 2, columns, 6]
    block = "\x1b[38;2;{};{};{};48;2;{};{};{}m\u2580"
    return "\n".join("".join(block.format(*pair) for pair in line) + "\x1b[0m" for line in pairs)
