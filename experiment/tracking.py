"""Metrics on disk, and the trackers that show them.

Training only ever appends to `metrics.jsonl`. The trackers (trackio: a local page; wandb: an account, or
offline files) run in one separate process that follows that file, so no tracker can slow, block or harm
training. The same command sends an old run by hand:

    python -m experiment.tracking runs/NAME --track local|wandb|all
"""

import argparse
import errno
import fcntl
import json
import math
import netrc
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import yaml

from experiment.config import MAX_BYTES, UsageError
from experiment.folder import check_links

PROJECT = "recall"
KINDS = {"none": (), "local": ("local",), "wandb": ("wandb",), "all": ("local", "wandb")}
MAX_PENDING_ROWS = 10_000  # a few MB: what a full disk may cost in memory
MAX_LOG_BYTES = 1_000_000
MAX_ROW_BYTES = 65_536  # of a row and of tracking.json; ours take a few hundred
MAX_FRAMES = 2**53
POLL_SECONDS = 1.0
DRAIN_SECONDS = 60.0  # how long the process may outlive training
WANDB_SECONDS = 10.0  # to connect, and again to finish: both fit in the time `finish` gives

Value = float | int | str | None


# --- what training writes -----------------------------------------------------------------------------------


def _plain(value: Any) -> Value:
    """A JSON value: numpy scalars unpacked, NaN and infinity as null (JSON has neither)."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class MetricsFile:
    """Append-only `metrics.jsonl`: one JSON object per line.

    Opening truncates the file to `position` bytes, the number a checkpoint remembers: after a resume no row
    is missing and none is there twice. A row that cannot be written (a full disk) waits in memory and goes
    first at the next write.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  (kept open for the whole run)
        size = self._file.seek(0, os.SEEK_END)
        if size < position:
            self._file.close()
            raise ValueError(f"{path} has {size} bytes; the checkpoint expects at least {position}")
        self._file.truncate(position)
        self.position = position  # bytes: the end of the last whole row
        self._pending: deque[bytes] = deque(maxlen=MAX_PENDING_ROWS)  # oldest rows are dropped first

    @property
    def pending(self) -> int:
        """Rows that wait for room on the disk."""
        return len(self._pending)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row of numbers (numpy's too), strings and nulls. A full disk is no error."""
        line = json.dumps({key: _plain(value) for key, value in row.items()}, allow_nan=False)
        self._pending.append(line.encode() + b"\n")
        with suppress(OSError):
            self._write_pending()

    def _write_pending(self) -> None:
        while self._pending:
            self._write_line(self._pending[0])
            self._pending.popleft()

    def _write_line(self, line: bytes) -> None:
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # only a part of the row went in
        except OSError:
            self._file.truncate(self.position)  # half a row must never stay
            raise
        self.position += len(line)

    def sync(self) -> None:
        """Force all rows to the disk, before a checkpoint remembers `position`. OSError if one cannot be written."""
        self._write_pending()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


# --- the training side: start the process, end it -----------------------------------------------------------


class Tracker:
    """The tracking process as training sees it. Without a process it is the null object."""

    def __init__(self, process: "subprocess.Popen[bytes] | None" = None) -> None:
        self._process = process

    def finish(self, timeout: float = 20.0) -> None:
        """Let the process send what is written, then end it whatever it does, within `timeout` seconds."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()  # the process reads the end of its input: drain and leave
        for share, send in ((0.8, signal.SIGTERM), (0.1, signal.SIGKILL), (0.1, None)):
            try:
                process.wait(timeout * share)
                return
            except subprocess.TimeoutExpired:
                if send is not None:
                    with suppress(OSError):
                        os.killpg(process.pid, send)  # it leads its own session
        print("the tracking process does not end; training goes on without it", file=sys.stderr)


def start_tracker(run_folder: Path, kind: str) -> Tracker:
    """Start the process that sends `run_folder/metrics.jsonl` on. Trouble is one line, never an exception."""
    if kind not in KINDS:
        raise ValueError(f"--track {kind}: choose one of {', '.join(KINDS)}")
    if kind == "none":
        return Tracker()
    folder = run_folder.resolve()
    command = [sys.executable, "-m", "experiment.tracking", str(folder), "--track", kind, "--follow"]
    try:
        with open(folder / "tracking.log", "ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).resolve().parent.parent,  # where `experiment` is found
                start_new_session=True,  # Ctrl-C in the terminal is for training only
            )
    except OSError as error:
        print(f"tracking did not start ({error}); metrics.jsonl is still written", file=sys.stderr)
        return Tracker()
    return Tracker(process)


def trackio_folder(run_folder: Path) -> Path:
    """Where trackio keeps its data: TRACKIO_DIR, else beside the runs, so that one page shows them all."""
    return Path(os.environ.get("TRACKIO_DIR") or run_folder.resolve().parent / "trackio")


def page_command(run_folder: Path) -> str:
    """The shell command that opens the local page, from here. `--host` keeps it off the network."""
    program = Path(sys.executable).with_name("trackio")  # works whether or not the environment is activated
    folder, program = (shlex.quote(_from_here(path)) for path in (trackio_folder(run_folder), program))
    return f"TRACKIO_DIR={folder} {program} show --project {PROJECT} --host 127.0.0.1"


def _from_here(path: Path) -> str:
    """The path as a user would type it: relative if it lies below the current folder."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


# --- the two trackers ---------------------------------------------------------------------------------------


class Sink(Protocol):
    note: dict[str, str]  # kept in tracking.json

    def stored_frames(self) -> int | None:
        """The last frame count the tracker holds, -1 if it is empty, None if it cannot say."""
        ...

    def log(self, row: dict[str, Value], frames: int) -> None: ...

    def finish(self) -> None: ...


class LocalSink:
    """trackio writes straight into its SQLite file here: no server, no network."""

    def __init__(self, folder: Path, name: str, group: str, config: dict[str, Any], wait: float) -> None:
        import trackio

        self._folder = folder
        self.note: dict[str, str] = {}
        known = "local" in _read_marks(folder)  # a new folder with an old name is a new run
        self._run = trackio.init(
            PROJECT,
            name=name,
            group=group,
            config={key: value for key, value in config.items() if not key.startswith("_")},  # else it raises
            resume="allow" if known else "never",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def stored_frames(self) -> int | None:
        from trackio.sqlite_storage import SQLiteStorage

        frames = SQLiteStorage.get_max_step_for_run(PROJECT, self._run.name, run_id=self._run.id)
        return -1 if frames is None else frames

    def log(self, row: dict[str, Value], frames: int) -> None:
        import trackio

        media = {key: trackio.Video(path) for key, path in _videos(self._folder, row)}
        self._run.log({**row, **media}, step=frames)

    def finish(self) -> None:
        self._run.finish()


class WandbSink:
    """wandb, online where a key is configured, else offline: files in the run's folder for `wandb sync`."""

    def __init__(self, folder: Path, name: str, group: str, config: dict[str, Any], wait: float) -> None:
        import wandb

        self._folder = folder
        # One id for the life of the folder: a resumed run is one run.
        known = _read_marks(folder).get("wandb", {}).get("run")  # it becomes part of a path
        if not isinstance(known, str) or not re.fullmatch(r"[\w-]{1,64}", known):
            known = uuid.uuid4().hex[:12]
        self.note = {"run": known}
        options: dict[str, Any] = {
            "project": PROJECT,
            "name": name,
            "group": group,
            "config": config,
            "dir": str(folder),
            "id": self.note["run"],
            "resume": "allow",
            "settings": wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
                x_save_requirements=False,
                init_timeout=WANDB_SECONDS,
                login_timeout=WANDB_SECONDS,
                finish_timeout=wait,
            ),
        }
        mode = wandb_mode()
        try:
            self._run = wandb.init(mode=mode, **options)
        except Exception as error:
            if mode == "offline":
                raise
            # The error's own text is left out: it might quote a request.
            print(f"wandb: {mode} failed ({type(error).__name__}); offline now, `wandb sync` sends it later")
            wandb.teardown()  # its service still holds the run's id
            self._run = wandb.init(mode="offline", **options)
        self._run.define_metric("*", step_metric="frames")

    def stored_frames(self) -> int | None:
        return None

    def log(self, row: dict[str, Value], frames: int) -> None:
        import wandb

        media = {key: wandb.Video(str(path), format="mp4") for key, path in _videos(self._folder, row)}
        self._run.log({**row, **media}, step=frames)  # our own step: wandb's starts at 0 again when offline

    def finish(self) -> None:
        self._run.finish()


SINKS: dict[str, Callable[..., Sink]] = {"local": LocalSink, "wandb": WandbSink}


def wandb_mode() -> Any:
    """WANDB_MODE if set, else online if a key is configured, else offline: wandb alone would ask or raise."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    has_key = bool(os.environ.get("WANDB_API_KEY"))
    with suppress(OSError, netrc.NetrcParseError):
        has_key = has_key or netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    return os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")


def _videos(folder: Path, row: dict[str, Value]) -> list[tuple[str, Path]]:
    """Take "video" (a path relative to the run's folder) out of the row; no file in that folder, no video."""
    path = row.pop("video", None)
    with suppress(OSError, ValueError):
        video = (folder / path).resolve() if isinstance(path, str) else folder
        if video.is_relative_to(folder.resolve()) and video.is_file():
            return [("video", video)]
    return []


# --- the process --------------------------------------------------------------------------------------------


def _read_marks(folder: Path) -> dict[str, dict[str, Any]]:
    """What tracking.json says of each tracker. Nothing if it is not ours."""
    with suppress(OSError, ValueError, RecursionError), open(folder / "tracking.json", "rb") as file:
        marks = json.loads(file.read(MAX_ROW_BYTES))
        if isinstance(marks, dict):
            return {kind: mark for kind, mark in marks.items() if isinstance(mark, dict)}
    return {}


def _count(value: object, otherwise: int) -> int:
    return value if type(value) is int and 0 <= value <= MAX_FRAMES else otherwise


class Mark:
    """How far one tracker has got: the last frame count, and how many rows it has had with that count.

    A resumed run writes the rows since its checkpoint again, bit for bit. Those already sent are skipped.
    """

    _lock = threading.Lock()

    def __init__(self, folder: Path, kind: str, sink: Sink) -> None:
        self._folder, self._kind, self._note = folder, kind, sink.note
        saved = _read_marks(folder).get(kind, {})
        self.frames, self.rows = _count(saved.get("frames"), -1), _count(saved.get("rows"), 0)
        stored = sink.stored_frames()
        if stored is not None and stored != self.frames:  # the tracker knows better than the note about it
            self.frames, self.rows = stored, 1
        self._sent_frames, self._rows_to_skip = self.frames, self.rows

    def is_new(self, frames: int) -> bool:
        """Whether the file's next row, at this frame count, is yet to be sent. If so it counts as sent."""
        if frames < self._sent_frames:
            return False
        if frames == self._sent_frames and self._rows_to_skip > 0:
            self._rows_to_skip -= 1
            return False
        self.frames, self.rows = frames, self.rows + 1 if frames == self.frames else 1
        return True

    def save(self) -> None:
        temporary = self._folder / "tracking.json.tmp"
        try:
            with self._lock:
                marks = _read_marks(self._folder)
                marks[self._kind] = {**self._note, "frames": self.frames, "rows": self.rows}
                temporary.write_text(json.dumps(marks))
                temporary.replace(self._folder / "tracking.json")
        except OSError as error:
            print(f"tracking.json is not written: {error}")


def read_rows(path: Path, done: threading.Event, poll: float) -> Iterator[dict[str, Value] | None]:
    """The rows of a growing file; None whenever it has caught up. Stops at the file's end once `done`."""
    position = 0  # after the last whole line: half a line may yet be taken back
    while True:
        last = done.is_set()  # asked before reading: what was written before `done` is still read
        with suppress(FileNotFoundError), open(path, "rb") as file:
            file.seek(position)
            while line := file.readline(MAX_ROW_BYTES):  # a longer one is no row: its parts are passed over
                if not line.endswith(b"\n") and len(line) < MAX_ROW_BYTES:
                    break
                position += len(line)
                with suppress(ValueError, RecursionError):
                    row = json.loads(line)
                    if isinstance(row, dict):
                        yield row
        yield None
        if last:
            return
        done.wait(poll)


def follow(run_folder: Path, kind: str, done: threading.Event, wait: float = 0.0) -> None:
    """Send the rows of `run_folder` to one tracker until `done` is set and the file is read to its end.

    `wait` is how many seconds the tracker may take to finish; 0 means as long as it needs.
    """
    try:
        config = _read_config(run_folder)
        name = config.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"(?!\.+$)[^/\\\0]{1,200}", name):
            name = run_folder.name  # a name becomes part of a path
        group = f"{config.get('preset', '')} {config.get('game', '')}".strip()
        sink = SINKS[kind](run_folder, name, group, config, wait)
        mark = Mark(run_folder, kind, sink)
        mark.save()
    except Exception as error:
        print(f"{kind}: no tracking ({type(error).__name__}: {error})")
        return
    try:
        for row in read_rows(run_folder / "metrics.jsonl", done, POLL_SECONDS):
            if row is None:
                mark.save()
                _bound_log(run_folder)
                continue
            frames = row.get("frames")
            if not isinstance(frames, (int, float)) or not 0 <= frames <= MAX_FRAMES or not mark.is_new(int(frames)):
                continue
            try:
                sink.log({k: v for k, v in row.items() if isinstance(v, (int, float, str))}, int(frames))
            except Exception as error:
                print(f"{kind}: the row at {frames} frames is not sent ({type(error).__name__}: {error})")
        sink.finish()
    except Exception as error:
        print(f"{kind}: tracking ends early ({type(error).__name__}: {error})")


def _read_config(folder: Path) -> dict[str, Value]:
    """The run's settings that are plain values: lists of lists of lists could be too long to show."""
    with suppress(Exception), open(folder / "config.yaml", "rb") as file:  # what PyYAML may raise has no end
        config = yaml.safe_load(file.read(MAX_BYTES).decode())
        if isinstance(config, dict):
            return {k: v for k, v in config.items() if isinstance(k, str) and isinstance(v, (int, float, str))}
    return {}


def _bound_log(folder: Path) -> None:
    with suppress(OSError):
        if (folder / "tracking.log").stat().st_size > MAX_LOG_BYTES:
            os.truncate(folder / "tracking.log", 0)  # every writer appends, so nothing but old lines is lost


def _watch_training(done: threading.Event) -> None:
    """Set `done` when training closes our input or is gone. Then end this process, whatever hangs."""
    parent = os.getppid()
    while os.getppid() == parent:
        readable, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
        if readable and not os.read(sys.stdin.fileno(), 1):
            break
    done.set()
    time.sleep(DRAIN_SECONDS)
    os._exit(1)


def _be_quiet(folder: Path) -> None:
    """A good neighbour: little CPU, no GPU, nothing on the network but what was asked for."""
    os.environ.update(
        OMP_NUM_THREADS="1",
        CUDA_VISIBLE_DEVICES="",
        TRACKIO_DIR=str(trackio_folder(folder)),
        HF_HUB_OFFLINE="1",  # else trackio asks who a Hugging Face token belongs to
        HF_HUB_DISABLE_TELEMETRY="1",
        WANDB_ERROR_REPORTING="false",
    )
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_WEBHOOK_URL"):  # they make "local" remote
        os.environ.pop(name, None)
    with suppress(OSError):
        os.nice(10)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m experiment.tracking", description="Send a run to a tracker.")
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--track", choices=[kind for kind in KINDS if kind != "none"], default="local")
    parser.add_argument("--follow", action="store_true", help="go on until the standard input ends")
    options = parser.parse_args(arguments)
    folder = options.run_folder.resolve()
    if not folder.is_dir():
        parser.error(f"run_folder {options.run_folder}: no such folder")
    try:
        check_links(folder)
    except UsageError as error:
        parser.error(str(error))
    _be_quiet(folder)
    done = threading.Event()
    if options.follow:
        threading.Thread(target=_watch_training, args=(done,), daemon=True).start()
    else:
        done.set()
    with open(folder / "tracking.log", "ab") as lock:
        try:
            # Two processes on one folder would send every row twice. A resumed run waits for the old one.
            fcntl.flock(lock, fcntl.LOCK_EX if options.follow else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            parser.error(f"{options.run_folder} is being tracked by another process")
        except OSError as error:
            print(f"no lock on this file system: {error}")
        wait = WANDB_SECONDS if options.follow else 0.0
        threads = [
            threading.Thread(target=follow, args=(folder, kind, done), kwargs={"wait": wait}, daemon=True)
            for kind in KINDS[options.track]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if not options.follow and "local" in KINDS[options.track]:
        print(f"open the page with: {page_command(folder)}")


if __name__ == "__main__":
    main()
