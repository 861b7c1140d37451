"""Feed the loaders with damaged and made-up files: each loads, or refuses in one clear line.

python -m tests.fuzz --inputs 100000 [--seed 1] [--engine mixed|atheris] [--only manifest ...]

`mixed` takes turns between lies that Hypothesis makes of a true file's parts and bytes that are flipped, cut, spliced
and replaced. `atheris` (the extra `fuzz`) looks for inputs that reach new lines of the loaders. A crash is any other
exception, a message of several lines, a file opened for writing outside the input's own folder, a program started, a
connection, 256 MB of memory more than true files take, or a minute without an answer. What crashed is kept in
`--keep`. The last line counts; the exit status is 1 if there was a crash.
"""

import argparse
import contextlib
import functools
import hashlib
import io
import itertools
import json
import os
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from agents.learner import NonFiniteError
from envs.episodes import EpisodeRecord, _check
from envs.screens import Observe
from experiment import build
from experiment.runs import trackers as tracking
from experiment.runs.run import Run, _is_young
from experiment.settings import config as configs
from experiment.settings.config import UsageError
from experiment.store import checkpoint, fits
from experiment.store.checkpoint import NETWORK, TRAINING, Checkpoint
from experiment.store.provenance import exactness_lost
from tests import small

MEMORY = 256 * 2**20  # bytes above what true files have taken
SECONDS = 60
SETTINGS: dict[str, Any] = {"frames": 800, "replay_rows": 128, "start_rows": 64, "hidden": 8, "core_size": 4}
SETTINGS |= {"batch_size": 2, "burn_in": 2, "unroll": 4, "priority_exponent": 0.9, "log_frames": 200}
PART = b"\0\xff\0"  # between the files of a tracked run


# --- what must not happen ----------------------------------------------------------------------------------------


class ForbiddenError(BaseException):
    """A loader did what no loader may do. No `except Exception` of the loader's catches it."""


class Watch:
    """Python tells this object of every file it opens, program it starts and connection it makes."""

    PATHS = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.link", "os.symlink")
    NEVER = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.kill", "subprocess.Popen", "socket.connect",
             "socket.bind", "pickle.find_class", "webbrowser.open", "ctypes.dlopen")  # fmt: skip
    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def __init__(self) -> None:
        self.home: str | None = None  # while a loader runs
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.home is None:
            return
        paths: tuple[Any, ...] = ()
        if event == "open" and arguments[2] & self.WRITING:
            paths = arguments[:1]
        elif event in self.PATHS:
            paths = tuple(x for x in arguments if isinstance(x, str | bytes | os.PathLike))
        out = [p for p in paths if not isinstance(p, int) and not os.path.abspath(os.fsdecode(p)).startswith(self.home)]
        if out or event in self.NEVER:
            self.seen.append(f"{event} {arguments!r:.200}")
            raise ForbiddenError(self.seen[-1])


def _too_long(*_: object) -> None:
    raise ForbiddenError(f"no answer for {SECONDS} seconds")


def peak() -> int:
    """The most memory this process ever had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- the loaders -------------------------------------------------------------------------------------------------


@dataclass
class Target:
    """One loader: true inputs, made-up ones, how it reads one, and what it may raise."""

    name: str
    share: float  # of all inputs
    true: list[bytes]
    lies: st.SearchStrategy[bytes] | st.SearchStrategy[Callable[[], bytes]]
    read: Callable[[bytes], object]
    refusal: type[Exception] = UsageError
    inputs: int = 0
    refused: int = 0
    crashes: int = 0


def true_episode() -> EpisodeRecord:
    """What a record looks like: that its game would come out otherwise is for those who play it."""
    actions = np.random.default_rng(1).integers(4, size=400).astype(np.uint8)
    return EpisodeRecord("breakout", "v5", 7, actions, 150, 2.0, 250, True, Observe("flicker", 0.5), 5, 1, 0, 4_000)


@dataclass
class Lab:
    """A folder with one small true run, and the loaders that are fed with what becomes of its files."""

    home: Path
    keep: Path
    watch: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            true = small.start(self.home / "true", "run", **SETTINGS)
        self.config, self.preset = configs.load(true / "config.yaml")
        self.whole = checkpoint.load_latest(true, training=True, report=print)
        self.metrics = (true / "metrics.jsonl").read_bytes()
        self.work = self.home / "work"
        self.work.mkdir()
        self.run = Run(self.config, self.preset, self.work)
        self.run.frame = self.run.envs.reset()
        # Playing tapes takes long, and only actions that were checked are played: check them, no more.
        self.run.envs.restore = self._check_envs  # type: ignore[method-assign]
        self.tiny = tiny = safetensors.torch.save({"a": torch.zeros(3)})
        folder = true / "checkpoint" / f"{self.whole.meta['frames']:012d}"
        manifest = (folder / "manifest.json").read_bytes()
        network, training = (folder / NETWORK).read_bytes(), (folder / TRAINING).read_bytes()
        self._put(NETWORK, tiny)
        true_episode().save(true / "episode.json")
        episode = (true / "episode.json").read_bytes()
        settings_ = (true / "config.yaml").read_bytes()
        note = b'{"local": {"sent": 1}, "wandb": {"run": "abc", "sent": 0}}'
        tracked = PART.join([note, self.metrics, settings_])
        self.targets = [
            Target("manifest", 0.25, [manifest], json_lies(manifest), self.manifest),
            Target("network", 0.1, [network, tiny, odd_tensors()], tensor_lies(network), self.network),
            Target("training", 0.1, [training], tensor_lies(training), self.training),
            Target("config", 0.15, [settings_], yaml_lies(settings_), self.settings),
            Target("episode", 0.25, [episode], json_lies(episode), self.episode, ValueError),
            Target("tracking", 0.15, [tracked], tracked_lies(note, self.metrics, settings_), self.tracking, NeverError),
        ]

    def _put(self, name: str, data: bytes) -> None:
        """A new file: tensors of the old one may still lie in it."""
        (self.work / name).unlink(missing_ok=True)
        (self.work / name).write_bytes(data)

    def _check_envs(self, state: dict[str, np.ndarray]) -> np.ndarray:
        self.run.envs._checked(state)
        return self.run.frame

    def _sealed(self, manifest: dict[str, Any]) -> bytes:
        """The manifest, with the true sizes and checksums of the files beside it, and its own."""
        for name, entry in manifest["files"].items() if isinstance(manifest.get("files"), dict) else ():
            if name in (NETWORK, TRAINING) and isinstance(entry, dict):
                data = (self.work / name).read_bytes()
                entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        with contextlib.suppress(ValueError):
            manifest["check"] = checkpoint._self_check(manifest)
        return json.dumps(manifest).encode()

    def manifest(self, data: bytes) -> None:
        """As evaluate.py and a resume do, its tensors being true ones."""
        self._put(TRAINING, self.tiny)
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(data)
            if isinstance(found, dict) and (zlib.crc32(data) % 8 or data in self.targets[0].true):  # most come signed
                data = self._sealed(found)
        self._put("manifest.json", data)
        meta = checkpoint.load(self.work, training=True).meta
        config, _ = configs.from_dict({**meta["config"], "preset": meta["preset"]}, "source")
        build.check_config(config)
        exactness_lost(meta, config)
        fits.check_size(config, Checkpoint(meta, self.whole.weights, self.whole.training), "source")
        self._go_on(Checkpoint(meta, self.whole.weights, self.whole.training))

    def network(self, data: bytes) -> None:
        self._put(NETWORK, data)
        try:
            self._put("manifest.json", self._sealed({**self.whole.meta, "files": {NETWORK: {}}}))
            saved = checkpoint.load(self.work, training=False)
        finally:
            self._put(NETWORK, self.tiny)
        fits.check_weights(self.config, saved.meta["num_actions"], saved.weights, "source")

    def training(self, data: bytes) -> None:
        self._put(TRAINING, data)
        self._put("manifest.json", self._sealed({**self.whole.meta, "files": {NETWORK: {}, TRAINING: {}}}))
        saved = checkpoint.load(self.work, training=True)
        saved = Checkpoint(saved.meta, self.whole.weights, saved.training)
        fits.check_size(self.config, saved, "source")
        self._go_on(saved)

    def _go_on(self, saved: Checkpoint) -> None:
        """Restore, and train on for a moment: what was let in must work."""
        run, metrics = self.run, self.work / "metrics.jsonl"
        if not metrics.exists() or metrics.stat().st_size != len(self.metrics):
            metrics.write_bytes(self.metrics)
        try:
            run.restore(saved)
        finally:
            if hasattr(run, "metrics"):
                run.metrics.close()
        run.actor.act(run.frame, run.is_first, run.prev_reward, np.zeros(self.config.num_envs))
        if run.updates_due() < 1000 and run.replay.can_sample:
            batch = run.replay.sample(self.config.batch_size)
            with contextlib.suppress(NonFiniteError):  # it stops the run with a message
                run.replay.update_priorities(batch.origin, run.learner.update(batch).priority)

    def settings(self, data: bytes) -> None:
        self._put("config.yaml", data)
        config, _ = configs.load(self.work / "config.yaml")
        build.check_config(config)
        json.dumps(configs.to_dict(config))

    def episode(self, data: bytes) -> None:
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(data)
            if isinstance(found, dict) and zlib.crc32(data) % 8:
                found.pop("check", None)
                data = json.dumps(found | {"check": _check(found)}).encode()
        self._put("episode.json", data)
        EpisodeRecord.load(self.work / "episode.json")

    def tracking(self, data: bytes) -> None:
        note, rows, settings_ = (*data.split(PART), b"", b"")[:3]
        folder = self.work / "tracked"
        folder.mkdir(exist_ok=True)
        for name, part in (("tracking.json", note), ("metrics.jsonl", rows), ("config.yaml", settings_)):
            (folder / name).write_bytes(part)
        done, said = threading.Event(), io.StringIO()
        done.set()
        with contextlib.redirect_stdout(said):
            tracking.follow(folder, "nowhere", done)
        if said.getvalue():
            raise AssertionError(said.getvalue())
        _is_young(folder, self.config)

    def attempt(self, target: Target, data: bytes) -> None:
        """Feed one input and judge what happened."""
        target.inputs += 1
        problem, refused = "", 0
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        self.watch.home = str(self.work)
        try:
            target.read(data)
        except target.refusal as error:
            if "\n" in str(error) or not 5 < len(str(error)) < 10_000:
                problem = f"not one clear line: {str(error)!r:.300}"
            else:
                refused = 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            problem = traceback.format_exc(limit=-4)
        finally:
            self.watch.home = None
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self.watch.seen:
            problem, self.watch.seen = f"forbidden: {self.watch.seen}", []
        if peak() > self.allowed:
            problem, self.allowed = f"memory rose to {peak() / 2**20:.0f} MB", peak() + MEMORY
        if not problem:
            target.refused += refused
        else:
            target.crashes += 1
            self.keep.mkdir(exist_ok=True)
            path = self.keep / f"{target.name}-{zlib.crc32(data):08x}"
            path.write_bytes(data)
            if target.crashes <= 5:
                print(f"CRASH {path}\n{problem}", flush=True)

    def warm_up(self, target: Target) -> None:
        """True files are accepted; then the memory that they take is what is compared with."""
        signal.signal(signal.SIGALRM, _too_long)
        target.read(target.true[0])
        self.allowed = peak() + MEMORY


class NeverError(Exception):
    """What a loader raises that may raise nothing."""


class Nowhere:
    """A tracker that looks at what it is given."""

    def __init__(self, folder: Path, name: str, group: str, config: dict[str, Any], wait: float) -> None:
        assert "/" not in name
        assert len(name) <= 255
        json.dumps([group, config])
        self.note = {"run": "abc"}

    def stored_rows(self) -> int | None:
        return None

    def log(self, row: dict[str, Any], frames: int) -> None:
        assert all(isinstance(value, int | float | str) for value in row.values())
        assert 0 <= frames <= 2**53

    def finish(self) -> None:
        pass


tracking.SINKS["nowhere"] = Nowhere
configs.get_type_hints = functools.cache(configs.get_type_hints)  # half of the time otherwise


# --- lies: well-formed files with parts that are not true ----------------------------------------------------------

GONE = object()
NUMBERS = [0, -1, 1, 2**31, 2**32, 2**53, 2**63, 2**64, 2**70, 10**30, 10**400, 1e-320, 1e300, float("inf"),
           float("nan"), -0.0, True, False]  # fmt: skip
WORDS = ["", " ", "..", "../../x", "/etc/passwd", "\0", "\ud800", "é" * 70, "NaN", "1", "drqn", "breakout", "[",
         "x" * 5000]  # fmt: skip
ODD = st.one_of(
    st.sampled_from([*NUMBERS, *WORDS, None]),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.lists(st.integers() | st.text(max_size=3) | st.lists(st.none(), max_size=2), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers() | st.none(), max_size=3),
)


def places(document: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a document has values, at any depth."""
    found = [here] if here else []
    pairs = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in list(pairs)[:200]:
        found += places(value, (*here, key))
    return found


def changed(document: Any, changes: list[tuple[tuple[Any, ...], Any]]) -> Any:
    """A copy with other values at some places, or none; another value may have removed a place before."""
    document = json.loads(json.dumps(document))
    for path, value in changes:
        with contextlib.suppress(KeyError, IndexError, TypeError):
            inner = document
            for key in path[:-1]:
                inner = inner[key]
            if value is GONE:
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
    return document


def changes(document: Any) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.tuples(st.sampled_from(places(document)), ODD | st.just(GONE)), min_size=1, max_size=3)


def json_lies(true: bytes) -> st.SearchStrategy[bytes]:
    document = json.loads(true)
    return changes(document).map(lambda some: json.dumps(changed(document, some)).encode())


TYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool,
         torch.complex64, torch.float8_e4m3fn]  # fmt: skip


def odd_tensors() -> bytes:
    return safetensors.torch.save({str(kind): torch.zeros(2, 3).to(kind) for kind in TYPES})


def _as_type(tensor: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    return tensor.to(kind)


def _filled(tensor: torch.Tensor, value: float) -> torch.Tensor:
    with contextlib.suppress(RuntimeError, OverflowError, ValueError):
        return torch.full_like(tensor, value)
    return tensor


def _one_value(tensor: torch.Tensor, place: int, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    with contextlib.suppress(RuntimeError, OverflowError, ValueError, IndexError):
        tensor.view(-1)[place % max(tensor.numel(), 1)] = value
    return tensor


TENSOR_CHANGES = st.one_of(
    st.sampled_from(TYPES).map(lambda kind: lambda t: _as_type(t, kind)),
    st.sampled_from(NUMBERS).map(lambda x: lambda t: _filled(t, float(x) if abs(x) < 1e308 else x)),
    st.tuples(st.integers(0, 10**6), st.sampled_from(NUMBERS[:8]) | st.integers(0, 255)).map(
        lambda pair: lambda t: _one_value(t, *pair)
    ),
    st.integers(0, 5).map(lambda n: lambda t: t[:n] if t.ndim else t),
    st.sampled_from([(), (0,), (1,), (2, 3), (0, 2**40), (1, 1, 1, 1)]).map(
        lambda shape: lambda t: torch.zeros(shape, dtype=t.dtype)
    ),
    st.just(lambda t: t.reshape(-1)),
    st.just(lambda t: torch.cat([t, t]) if t.ndim else t),
    st.just(lambda t: None),
)


def tensor_lies(true: bytes) -> st.SearchStrategy[Callable[[], bytes]]:
    """Other tensors in a true file, or another header before true tensors.

    Recipes, not files: Hypothesis keeps what it has made, and these are half a MB each.
    """
    tensors = safetensors.torch.load(true)
    size = struct.unpack("<Q", true[:8])[0]
    header, body = json.loads(true[8 : 8 + size]), true[8 + size :]

    def other_tensors(some: list[Any]) -> bytes:
        made = dict(tensors)
        for name, change in some:
            if (tensor := made.get(name)) is not None:
                made[name] = change(tensor)
        return safetensors.torch.save({k: v.contiguous() for k, v in made.items() if v is not None})

    def other_header(drawn: tuple[list[Any], int]) -> bytes:
        text = json.dumps(changed(header, drawn[0])).encode()
        return struct.pack("<Q", (len(text) + drawn[1]) % 2**64) + text + body

    parts = st.lists(st.tuples(st.sampled_from(sorted(tensors)), TENSOR_CHANGES), min_size=1, max_size=2)
    length = st.sampled_from([0, 0, 0, 1, -1, 2**20, 2**62, -(2**40)])
    tensors_changed = parts.map(lambda drawn: functools.partial(other_tensors, drawn))
    header_changed = st.tuples(changes(header), length).map(lambda drawn: functools.partial(other_header, drawn))
    return tensors_changed | header_changed


YAML = ["!!int ''", "!!float ''", "!!bool x", "!!timestamp x", "!!binary é", "!!null x", "!!set {a}", "!!pairs [a]",
        "!!python/object/apply:os.system [id]", "&a [*a]", "*b", "1:1:1:1", "1:" * 400, "0x" + "f" * 400, "0b2", "0o9",
        "0x" + "f" * 5000, ".inf", ".nan", "2024-99-99", "2024-01-01", "[" * 300, "{a: {b: c}}", "? a", "- 1", "|", "%",
        "'", "- - -", "<<: {a: 1}", "=", "\t", "+1_000", "1e400", "~"]  # fmt: skip


def yaml_lies(true: bytes) -> st.SearchStrategy[bytes]:
    """Some of the settings and of other ones, with values in YAML's many ways of writing."""
    pairs = {str(k): json.dumps(v, default=str) for k, v in yaml.safe_load(true).items()}
    value = st.sampled_from(YAML) | ODD.map(json.dumps) | st.text(max_size=10)
    keys = st.sampled_from(sorted(pairs)) | st.text(max_size=5)
    kept = st.lists(st.sampled_from(sorted(pairs)), max_size=8)
    return st.tuples(kept, st.lists(st.tuples(keys, value), min_size=1, max_size=2)).map(
        lambda drawn: "\n".join(
            f"{k}: {v}" for k, v in [*((k, pairs[k]) for k in drawn[0]), *drawn[1]]
        ).encode("utf-8", "surrogatepass")
    )  # fmt: skip


def tracked_lies(note: bytes, rows: bytes, settings_: bytes) -> st.SearchStrategy[bytes]:
    row = json.loads(rows.splitlines()[0])
    lines = st.lists(json_lies(json.dumps(row).encode()), max_size=4).map(b"\n".join)
    whole = lines.map(lambda text: text + b"\n")
    return st.tuples(json_lies(note) | st.just(note), lines | whole, yaml_lies(settings_) | st.just(b"")).map(PART.join)


# --- damage: bytes of a true file, changed without understanding -----------------------------------------------------

TOKENS = [b"NaN", b"Infinity", b"1e999", b"-1", b"9" * 400, b"9" * 5000, b"null", b"true", b"[]", b"{}", b'"', b"\0",
          b"\xff", b"../..", b"[" * 3000, b"{" * 50, b"!!int ''", b"&a", b"*a", b"\n", b": ", b"\xed\xa0\x80",
          b"\\ud800", PART]  # fmt: skip


def damaged(draw: random.Random, true: list[bytes]) -> bytes:
    """One to four changes. Half of them near the beginning, where the headers are."""
    data = bytearray(draw.choice(true))
    for _ in range(draw.randint(1, 4)):
        end = len(data) if draw.random() < 0.5 else min(len(data), 4096)
        a = draw.randrange(end + 1)
        b = min(len(data), a + draw.choice((0, 1, 1, 2, 4, 8, 100, 5000)))
        kind = draw.randrange(8)
        if kind == 0 and a < len(data):
            data[a] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[a:b] = draw.randbytes(b - a)
        elif kind == 2:
            del data[a:b]
        elif kind == 3:
            data[a:a] = data[a:b]
        elif kind == 4:
            data[a:b] = draw.choice(TOKENS)
        elif kind == 5:
            del data[a:]
        elif kind == 6:
            other = draw.choice(true)
            data[a:] = other[draw.randrange(len(other) + 1) :]
        elif numbers := list(re.finditer(rb"-?\d[\d.e+-]*", data[a : a + 4096])):
            which = draw.choice(numbers)
            number = draw.choice([str(x) for x in NUMBERS]).encode()
            data[a + which.start() : a + which.end()] = number
    return bytes(data)


# --- the engines ---------------------------------------------------------------------------------------------------


def hypothesis_inputs(target: Target, count: int, number: int, attempt: Callable[[bytes], None]) -> None:
    """`count` lies, in chunks: Hypothesis keeps a memory of all that it has made."""
    end = target.inputs + count

    def feed(data: bytes | Callable[[], bytes]) -> None:
        if target.inputs < end:
            attempt(data if isinstance(data, bytes) else data())

    for chunk in itertools.count():
        if target.inputs >= end:
            return
        few = settings(
            max_examples=min(1000, end - target.inputs),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seed(number * 1_000_003 + chunk)(few(given(target.lies)(feed)))()


def mixed(lab: Lab, target: Target, count: int, number: int) -> None:
    draw = random.Random(f"{target.name} {number}")
    lab.warm_up(target)
    for _ in range(count // 2):
        lab.attempt(target, damaged(draw, target.true))
    hypothesis_inputs(target, count - count // 2, number, lambda data: lab.attempt(target, data))


def with_atheris(lab: Lab, target: Target, count: int, number: int) -> None:
    """In a process of its own: the loaders must be imported by atheris, and libFuzzer ends the process."""
    words = [sys.executable, "-m", "tests.fuzz_atheris", target.name, str(count), str(number), str(lab.keep)]
    child = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, cwd=small.ROOT)
    *said, tally = child.stdout.splitlines() or [""]
    print("\n".join(said), flush=True)
    try:
        target.inputs, target.refused, target.crashes = json.loads(tally)
    except ValueError:
        hint = "is it there? pip install '.[fuzz]'"
        raise SystemExit(f"atheris ended with status {child.returncode}; {hint}") from None


def counts(targets: list[Target], inputs: int) -> Iterator[tuple[Target, int]]:
    """Whole numbers that add up."""
    total, left = sum(t.share for t in targets), inputs
    for target in targets[1:]:
        part = int(inputs * target.share / total)
        left -= part
        yield target, part
    yield targets[0], left


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("mixed", "atheris"), default="mixed")
    parser.add_argument("--only", nargs="*", default=[], help="manifest, network, training, config, episode, tracking")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-crashes"), help="where inputs that crash are kept")
    options = parser.parse_args(words)
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory() as home:
        lab = Lab(Path(home), options.keep.resolve())
        targets = [t for t in lab.targets if not options.only or t.name in options.only]
        engine = mixed if options.engine == "mixed" else with_atheris
        for target, count in counts(targets, options.inputs):
            engine(lab, target, count, options.seed)
            accepted = target.inputs - target.refused - target.crashes
            print(
                f"{target.name:9} inputs {target.inputs}, refused {target.refused}, accepted {accepted}, "
                f"crashes {target.crashes}",
                flush=True,
            )
    inputs, refused, crashes = (sum(getattr(t, n) for t in targets) for n in ("inputs", "refused", "crashes"))
    print(f"inputs {inputs}, refused {refused}, accepted {inputs - refused - crashes}, crashes {crashes}")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
