"""Feed the commands with damaged files, made-up files and wrong command lines.

python -m tests.fuzz --inputs 100000 [--seed 1]

Each input must end with status 0, or with status 2 and one line on standard error. Else it is
printed with its number, which with the same seed makes it again, and the status is 1.
"""

import contextlib
import functools
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import train as train_program
from envs import emulator, tapes
from envs.episodes import EpisodeRecord
from envs.screens import Observe
from experiment.scores.agent import open_agent
from experiment.settings.cli import exit_on_usage_error
from experiment.store.checkpoint import MANIFEST, NETWORK, TRAINING
from experiment.store.files import refused
from tests import small

SECONDS = 60  # an input that takes longer counts as a crash
SETTINGS: dict[str, Any] = {"frames": 800, "replay_rows": 128, "start_rows": 64, "hidden": 8}
SETTINGS |= {"core_size": 4, "batch_size": 2, "burn_in": 2, "unroll": 4, "priority_exponent": 0.9}
ODD: tuple[Any, ...] = (None, True, -1, 0, 1, 4, 7.5, 2**31, 2**63, 10**400, -0.5, 1e300)
ODD += ("", "x", "nan", "1e999", "a\nb", "../x", "[", "é", "\0", [], {}, [[1]], {"a": 1})
ODD += ("--game", "--help", "--resume", "--frames=4", "drqn")


def damage(draw: random.Random, data: bytes) -> bytes:
    """The bytes with a part flipped, cut out, doubled or overwritten, cut off, or replaced."""
    place, size = draw.randrange(len(data) + 1), draw.choice((1, 1, 2, 8, 1_000))
    part, rest = data[place : place + size], data[place + size :]
    flipped = bytes(byte ^ 1 << draw.randrange(8) for byte in part)
    middle = draw.choice((flipped, b"", part * 2, draw.randbytes(size), b"1e999"))
    others = (b"", b"\0", b"[" * 100_000, b"{}", b"- 1", b"null", b"a: !!int ''")
    other = draw.choice((*others, draw.randbytes(100)))
    return draw.choice((data[:place] + middle + rest,) * 4 + (data[:place], other))


def lie(draw: random.Random, value: Any) -> Any:
    """The JSON value with one of its parts dropped or made odd."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.02:
        return draw.choice(ODD)
    parts = dict(value if isinstance(value, dict) else enumerate(value))
    key = draw.choice(list(parts))
    changed = lie(draw, parts.pop(key))
    if draw.random() < 0.9:
        parts[key if draw.random() < 0.95 else f"{key}x"] = changed
    return parts if isinstance(value, dict) else list(parts.values())


@exit_on_usage_error
def read_record(path: Path) -> int:
    with refused(path, "read"):
        EpisodeRecord.load(path)
    return 0


@exit_on_usage_error
def load_agent(path: Path) -> int:
    open_agent(path)
    return 0


class Lab:
    """A small true run, and for each kind of input a method that gives one to a command."""

    def __init__(self, home: Path) -> None:
        self.true, self.work = small.start(home, "true", **SETTINGS), home / "work"
        self.new, self.best = home / "new", Path("episodes", "best.json")
        *old, newest = sorted((self.true / "checkpoint").iterdir())
        for path in old:
            shutil.rmtree(path)
        self.checkpoint = self.work / "checkpoint" / newest.name
        actions = np.random.default_rng(1).integers(4, size=400).astype(np.uint8)
        tape, how = ("breakout", "v5", 7, actions, 150, 2.0, 250, True), Observe("flicker", 0.5)
        (self.true / self.best).parent.mkdir()
        EpisodeRecord(*tape, how, 5, 1, 0).save(self.true / self.best)
        self.kinds = [self.checkpoints, self.configs, self.metrics, self.records, self.commands]
        # Or all would be refused.
        assert self.attempt(lambda _: self.resume(), random.Random()) == 0
        assert read_record(self.true / self.best) == 0

    def resume(self) -> int:
        return small.resume(self.work)

    def spoil(self, draw, path: Path, load=json.loads, dump=json.dumps) -> None:
        """Damage the file's bytes, or lie about one of its values."""
        if path.suffix in (".json", ".yaml") and draw.random() < 0.5:
            path.write_text(dump(lie(draw, load(path.read_text()))))
        else:
            path.write_bytes(damage(draw, path.read_bytes()))

    def checkpoints(self, draw: random.Random) -> int:
        self.spoil(draw, self.checkpoint / draw.choice((MANIFEST, MANIFEST, NETWORK, TRAINING)))
        if draw.random() < 0.5:  # signed, as a stranger could
            with contextlib.suppress(ValueError, AttributeError, TypeError, RecursionError):
                small.sign(self.checkpoint, lambda manifest: manifest)  # if it is one still
        return draw.choice((self.resume, lambda: load_agent(self.work)))()

    def configs(self, draw: random.Random) -> int:
        self.spoil(draw, self.work / "config.yaml", yaml.safe_load, yaml.safe_dump)
        return self.resume()

    def metrics(self, draw: random.Random) -> int:
        self.spoil(draw, self.work / "metrics.jsonl")
        if draw.random() < 0.5:  # then the rows decide whether the run may begin again
            shutil.rmtree(self.work / "checkpoint")
        return self.resume()

    def records(self, draw: random.Random) -> int:
        self.spoil(draw, self.work / self.best)
        return read_record(self.work / self.best)

    def commands(self, draw: random.Random) -> int:
        words = ["drqn", *small.flags(**SETTINGS)]
        place = draw.randrange(len(words))
        words[place : place + draw.choice((0, 1, 1, 2))] = [str(draw.choice(ODD))]
        return train_program.main([*words, "--runs-dir", str(self.new)])

    def attempt(self, kind: Callable[[random.Random], int], draw: random.Random) -> int:
        """Give one input to its command. Its status; AssertionError unless it is 0, or 2 and one
        line."""
        for folder in (self.new, self.work):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.true, self.work)
        errors = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            try:
                status = kind(draw)
            except SystemExit as error:  # --help
                status = int(error.code or 0)
        lines = errors.getvalue().splitlines()
        assert status == 0 or (status, len(lines)) == (2, 1), (status, lines)
        return status


@contextlib.contextmanager
def fast() -> Iterator[None]:
    """Train nothing: settings that are valid by chance would train for hours. Make and begin one
    emulator for equal settings, and play equal tapes once: each takes 0.1 s or more."""
    play, reset, known = tapes.Envs.restore, emulator.Emulators.reset, {}

    def once(do: Callable, key: tuple, *arguments: Any) -> Any:
        if key not in known:
            known[key] = do(*arguments)
        return known[key]

    def restore(envs: tapes.Envs, state: dict[str, np.ndarray], *more: Any) -> np.ndarray:
        return once(play, tuple(value.tobytes() for value in state.values()), envs, state, *more)

    def begin(games: emulator.Emulators, mask: np.ndarray, seeds: np.ndarray) -> tuple:
        return once(reset, (id(games), mask.tobytes(), seeds.tobytes()), games, mask, seeds)

    with pytest.MonkeyPatch.context() as patch:
        # Never freed: `begin` asks by id.
        patch.setattr(tapes, "open_games", functools.cache(tapes.open_games))
        patch.setattr(emulator.Emulators, "close", lambda games: None)
        patch.setattr(emulator.Emulators, "reset", begin)
        patch.setattr(tapes.Envs, "restore", restore)
        patch.setattr(train_program, "train", lambda run: None)
        yield


def too_long(*_: object) -> None:
    raise TimeoutError(f"no answer for {SECONDS} seconds")


def main(words: list[str]) -> int:
    about = "Feed the commands with damaged files, made-up files and wrong command lines."
    options = small.options("fuzz", words, about, inputs=100_000, seed=1)
    signal.signal(signal.SIGALRM, too_long)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        with contextlib.redirect_stdout(io.StringIO()):
            lab = Lab(Path(home))
        stack.enter_context(fast())
        for number in range(options.inputs):
            kind = lab.kinds[number % len(lab.kinds)]
            signal.alarm(SECONDS)
            try:
                status = lab.attempt(kind, random.Random(f"{options.seed} {number}"))
                counts[f"{kind.__name__} {status}"] += 1
            except Exception:
                counts["crash"] += 1
                trace = traceback.format_exc(limit=-5)
                print(f"CRASH {kind.__name__} {number}\n{trace}", flush=True)
            signal.alarm(0)
    print("status: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    print(f"inputs {options.inputs}, crashes {counts['crash']}")
    return 1 if counts["crash"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
