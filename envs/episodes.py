"""Episodes that can be watched again: a seed and actions, a few KB, bring back every frame of a game."""

import base64
import json
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.emulator import FRAME_SKIP, MAX_SEED, SIZE, check_game, emulators, machine
from envs.protocols import protocol
from envs.screens import Observe, make_observer

FORMAT = 1
MAX_ACTIONS = 200_000  # of one record; the longest episode takes 27,000
_MAX_BYTES = 1 << 20  # of a record's file; MAX_ACTIONS random actions take a third of it


@dataclass(frozen=True, eq=False)
class EpisodeRecord:
    """One episode, and the tape it lies on from the tape's seed to the episode's end.

    The actions before `start` are those of the earlier episodes of the tape: the emulator's random numbers
    run through all of them. Where those episodes end need not be kept: the game tells while it is played
    again.
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
    env: int  # which environment of the run played it
    tape: int  # and on which of its tapes
    finished_at: int = 0  # emulator frames the whole run had played by then

    def save(self, path: Path) -> None:
        """Write a JSON file of a few KB: never seen half written."""
        fields: dict[str, Any] = {"format": FORMAT} | asdict(self)
        fields["actions"] = base64.b64encode(zlib.compress(self.actions.tobytes(), 9)).decode()
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(fields | {"check": _check(fields)}, indent=1) + "\n")
        os.replace(temporary, path)

    @staticmethod
    def load(path: Path) -> "EpisodeRecord":
        """Read what `save` wrote. ValueError in one line for any other file, damaged or made up."""
        try:
            return _read(path)
        except (ValueError, OSError, zlib.error, RecursionError) as error:
            reason = " ".join(str(error.strerror if isinstance(error, OSError) else error).split())
            raise ValueError(f"{path}: not a whole episode record: {reason:.200}") from None


def _check(fields: dict[str, Any]) -> int:
    """A checksum of all fields, so that a flipped bit is found."""
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def _read(path: Path) -> EpisodeRecord:
    """Every field is checked before it is used; memory is bounded by this file's constants."""
    if not path.is_file():  # a pipe would be waited for
        raise ValueError("missing, or not a file")
    with path.open("rb") as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    fields = json.loads(raw, parse_constant=_refuse)
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    if fields.get("format") != FORMAT:
        raise ValueError(f"format is {fields.get('format')!r:.40}, this program reads {FORMAT}")
    if fields.pop("check", None) != _check(fields):
        raise ValueError("the checksum is wrong")

    def take(name: str, *types: type, low: float = -math.inf, high: float = math.inf) -> Any:
        value: Any = fields.get(name)
        if type(value) not in types:
            raise ValueError(f"{name} is {value!r:.40}, which is not of the right type")
        if types != (str,) and types != (dict,) and not low <= value <= high:
            raise ValueError(f"{name} is {value!r:.40}, out of range")
        return value

    game = check_game(take("game", str))
    rules = protocol(take("protocol", str))
    seen = take("observe", dict)
    if set(seen) != {"kind", "parameter"} or type(seen["kind"]) is not str:
        raise ValueError("observe must hold a kind and a parameter")
    if type(seen["parameter"]) not in (int, float) or abs(seen["parameter"]) > 1e9:
        raise ValueError("the parameter of observe is not a number, or out of all range")
    observe = Observe(seen["kind"], seen["parameter"])

    inflate = zlib.decompressobj()
    unpacked = inflate.decompress(base64.b64decode(take("actions", str), validate=True), MAX_ACTIONS + 1)
    if len(unpacked) > MAX_ACTIONS or not inflate.eof or inflate.unused_data:
        raise ValueError(f"the actions are cut, or more than {MAX_ACTIONS}")
    actions = np.frombuffer(unpacked, np.uint8)  # [start + steps]
    start = take("start", int, low=0, high=MAX_ACTIONS)
    steps = take("steps", int, low=1, high=MAX_ACTIONS)
    if start + steps != len(actions):
        raise ValueError(f"start {start} and steps {steps} do not fit {len(actions)} actions")
    choices = len(machine(game).actions(rules))
    if actions.max() >= choices:  # the emulator would hang on it
        raise ValueError(f"action {actions.max()} where {game} has {choices}")
    return EpisodeRecord(
        game=game,
        protocol=rules.name,
        seed=take("seed", int, low=1, high=MAX_SEED),
        actions=actions,
        start=start,
        score=float(take("score", int, float, low=-1e12, high=1e12)),
        steps=steps,
        terminated=take("terminated", bool),
        observe=observe,
        observe_seed=take("observe_seed", int, low=0, high=2**32 - 1),
        env=take("env", int, low=0, high=2**32),
        tape=take("tape", int, low=0, high=2**32),
        finished_at=take("finished_at", int, low=0, high=2**62),
    )


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


class _Moment(NamedTuple):
    """What the emulator shows after a reset or a step of a tape."""

    frame: np.ndarray
    reward: float
    played: int  # actions of the tape so far, with the one that led here
    is_first: bool  # the first frame of an episode
    over: bool  # the last frame of one


def _play(record: EpisodeRecord, *, frame_skip: int = FRAME_SKIP, colour: bool = False) -> Iterator[_Moment]:
    """The whole tape again. RuntimeError if the record's episode does not come out as it says."""
    env = emulators(record.game, 1, protocol(record.protocol), threads=1, frame_skip=frame_skip, colour=colour)
    frames, _ = env.reset(seed=np.array([record.seed]))
    first, score, terminated, over = 0, 0.0, False, False
    yield _Moment(frames[0, 0], 0.0, 0, is_first=True, over=False)
    for played, action in enumerate(record.actions.astype(np.int64), start=1):
        if over:
            frames, _ = env.reset(options={"reset_mask": np.ones(1, np.bool_)})
            first, score = played - 1, 0.0
            yield _Moment(frames[0, 0], 0.0, first, is_first=True, over=False)
        for _ in range(FRAME_SKIP // frame_skip):
            frames, rewards, terminations, truncations, _ = env.step(np.array([action]))
            terminated, over = bool(terminations[0]), bool(terminations[0] or truncations[0])
            score += float(rewards[0])
            yield _Moment(frames[0, 0], float(rewards[0]), played, is_first=False, over=over)
            if over:
                break
    if not over or (first, score, terminated) != (record.start, record.score, record.terminated):
        raise RuntimeError(
            f"the {record.game} episode of score {record.score:g} came out with {score:g}"
            f"{'' if over else ' and not at its end'}: recorded with another emulator, or changed since"
        )


def replay_grey(record: EpisodeRecord) -> tuple[np.ndarray, np.ndarray]:
    """What the agent saw and got: frames uint8 [steps + 1, 84, 84], rewards float32 [steps].

    frames[t] is what it saw when it took the episode's action t; the last is the final frame.
    RuntimeError if the episode does not come out as recorded.
    """
    observer = make_observer(record.observe, record.observe_seed)
    frames = np.zeros((record.steps + 1, SIZE, SIZE), np.uint8)
    rewards = np.zeros(record.steps, np.float32)
    for moment in _play(record):
        if moment.over and moment.played < len(record.actions):
            continue  # the agent saw the next episode's first frame instead, so the observer did too
        frame = observer(moment.frame, moment.is_first)
        t = moment.played - record.start
        if t >= 0:
            frames[t] = frame
        if t > 0:
            rewards[t - 1] = moment.reward
    return frames, rewards


def replay_colour(record: EpisodeRecord, every_frame: bool = False) -> Iterator[np.ndarray]:
    """The whole screen in colour, uint8 [height, width, 3] in the game's native size (mostly 210 x 160).

    steps + 1 frames, one for each of the agent's steps; with `every_frame` all that the emulator drew, 60 a
    second. RuntimeError after the last frame if the episode does not come out as recorded.
    """
    for moment in _play(record, frame_skip=1 if every_frame else FRAME_SKIP, colour=True):
        if moment.played > record.start or (moment.played == record.start and moment.is_first):
            yield moment.frame
