"""Records of episodes: a seed and actions, a few KB, reproduce every frame of an episode."""

import base64
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.families import open_games, rules, task
from envs.files import replacing
from envs.screens import Observe, make_observer

FORMAT = 1
MAX_ACTIONS = 200_000  # of one record; the longest episode takes 27,000


@dataclass(frozen=True, eq=False)
class EpisodeRecord:
    """One episode, with its tape from the tape's seed to the episode's end.

    The actions before `start` are those of the earlier episodes of the tape, because the emulator's
    random numbers continue through all of them. The record does not hold the ends of those
    episodes: the game reproduces them.
    """

    game: str
    protocol: str
    seed: int  # of the tape, from 1
    actions: np.ndarray  # uint8 [start + steps], indices into the protocol's action set
    start: int  # index of the episode's first action
    score: float  # sum of the game's own rewards, not clipped
    steps: int  # the agent's decisions in the episode
    terminated: bool  # False: cut off after 30 minutes
    observe: Observe
    observe_seed: int
    env: int  # index of the run's environment
    tape: int  # index of the tape in that environment
    finished_at: int = 0  # emulator frames of the whole run at the episode's end

    def save(self, path: Path) -> None:
        """Write a JSON file of a few KB, which appears only when it is complete."""
        fields: dict[str, Any] = {"format": FORMAT} | asdict(self)
        fields["actions"] = base64.b64encode(zlib.compress(self.actions.tobytes(), 9)).decode()
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(fields | {"check": _check(fields)}, indent=1) + "\n")

    @staticmethod
    def load(path: Path) -> "EpisodeRecord":
        """Read a file of `save`. ValueError in one line for a damaged or any other file."""
        try:
            fields = json.loads(path.read_bytes())
            check = fields.pop("check", None)
            if check != _check(fields) or fields.pop("format") != FORMAT:
                raise ValueError(f"its checksum is wrong, or its format is not {FORMAT}")
            unpacked = zlib.decompressobj().decompress(
                base64.b64decode(fields["actions"]), MAX_ACTIONS
            )
            actions, observe = np.frombuffer(unpacked, np.uint8), Observe(**fields["observe"])
            record = EpisodeRecord(**fields | {"actions": actions, "observe": observe})
            choices = len(task(record.game, rules(record.game, record.protocol)).action_names)
            # The emulator never returns from an action out of range.
            if record.start + record.steps != len(actions) or actions.max() >= choices:
                raise ValueError(
                    f"its actions are not {record.start} + {record.steps}, each below {choices}"
                )
            return record
        except Exception as error:  # the file may hold anything
            reason = " ".join(str(getattr(error, "strerror", None) or error).split())
            raise ValueError(f"{path}: not a whole episode record: {reason:.200}") from None


def _check(fields: dict[str, Any]) -> int:
    """A checksum of all fields, which detects a changed bit."""
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def _play(record: EpisodeRecord, **images: bool) -> Iterator[tuple[np.ndarray, float, int, bool]]:
    """Play the whole tape again, with the images of `open_games`.

    Yields each screen, its reward, the index of the action that led to it, and whether it is the
    first of an episode, with the index of the episode's first action. The last screens of earlier
    episodes are left out: agent and observer got the first one of the next episode instead.
    RuntimeError if the record's episode differs from the record.
    """
    games = open_games(record.game, 1, rules(record.game, record.protocol), **images)
    first, score, terminated, over = 0, 0.0, False, True
    for t, action in enumerate(record.actions.astype(np.int64)):
        if over:
            screens, _ = games.reset(
                np.ones(1, np.bool_), np.array([record.seed if t == 0 else -1])
            )
            first, score, over = t, 0.0, False
            yield screens[0], 0.0, t, True
        for _ in range(games.steps_an_action):
            if not over:
                games.send(np.array([action]))
                screens, (reward,), (terminated,), (truncated,), _ = games.recv()
                score, over = score + float(reward), bool(terminated or truncated)
                if not over or t + 1 == len(record.actions):
                    yield screens[0], float(reward), t, False
    games.close()
    if not over or (first, score, terminated) != (record.start, record.score, record.terminated):
        raise RuntimeError(
            f"the {record.game} episode of score {record.score:g} came out with {score:g}"
            f"{'' if over else ' and not at its end'}: recorded with another version of the game, "
            "or changed since"
        )


def replay_grey(record: EpisodeRecord) -> tuple[np.ndarray, np.ndarray]:
    """The agent's frames, uint8 [steps + 1, H, W], and rewards, float32 [steps].

    frames[t] is the agent's image at the episode's action t; the last is the final image.
    RuntimeError if the episode differs from the record.
    """
    observer = make_observer(record.observe, record.observe_seed)
    frames, rewards = [], []
    for screen, reward, t, is_first in _play(record):
        frame = observer(screen, is_first)
        if t >= record.start:
            frames.append(frame.copy())
            rewards.append(reward)
    return np.stack(frames), np.array(rewards[1:], np.float32)


def replay_colour(
    record: EpisodeRecord, every_frame: bool = False, pooled: bool = False
) -> Iterator[np.ndarray]:
    """The whole screen in colour, uint8 [height, width, 3], in the game's native size.

    Most Atari screens are 210 x 160. There are steps + 1 frames, one for each step of the agent,
    with `pooled` the brighter of the emulator's last two; with `every_frame` all frames of the
    emulator, 60 a second. RuntimeError after the last one if the episode differs from the record.
    """
    played = _play(record, colour=True, every=every_frame, pooled=pooled)
    yield from (screen for screen, _, t, _ in played if t >= record.start)
