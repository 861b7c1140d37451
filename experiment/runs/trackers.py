"""The trackers that show a run: trackio (a local page) and wandb (an account, or offline files).

They run in one separate process that follows `metrics.jsonl`, so no tracker can slow, block or harm training. The
same command sends an old run by hand:

    python -m experiment.runs.trackers runs/NAME --track local|wandb|all
"""

import argparse
import fcntl
import json
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
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from experiment.settings.config import UsageError, read_yaml
from experiment.store.files import write_json

PROJECT = "recall"
KINDS = {"none": (), "local": ("local",), "wandb": ("wandb",), "all": ("local", "wandb")}
MAX_LOG_BYTES = 1_000_000
MAX_ROW_BYTES = 65_536  # of a row and of tracking.json; ours take a few hundred
MAX_FRAMES = 2**53
POLL_SECONDS = 1.0
DRAIN_SECONDS = 60.0  # how long the process may outlive training
WANDB_SECONDS = 10.0  # to connect, and again to finish: both fit in the time `finish` gives
MARKS_LOCK = threading.Lock()  # of tracking.json: each tracker has a thread

Value = float | int | str | None


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
    command = [sys.executable, "-m", "experiment.runs.trackers", str(folder), "--track", kind, "--follow"]
    try:
        with open(folder / "tracking.log", "ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).resolve().parents[2],  # where `experiment` is found
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


class Sink:
    """A tracker's run: trackio's and wandb's are alike."""

    note: dict[str, str]  # kept in tracking.json
    _run: Any

    def stored_rows(self) -> int | None:
        """How many rows the tracker holds, None if it cannot say."""
        return None

    def log(self, row: dict[str, Value], frames: int) -> None:
        self._run.log(row, step=frames)  # our own step: wandb's starts at 0 again when offline

    def finish(self) -> None:
        self._run.finish()


class LocalSink(Sink):
    """trackio writes straight into its SQLite file here: no server, no network."""

    def __init__(self, folder: Path, name: str, group: str, config: dict[str, Any], wait: float) -> None:
        import trackio

        self.note: dict[str, str] = {}
        known = "local" in _read_marks(folder)  # a new folder with an old name is a new run
        self._run = trackio.init(
            PROJECT,
            name=name,
            group=group,
            config=config,
            resume="allow" if known else "never",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def stored_rows(self) -> int | None:
        from trackio.sqlite_storage import SQLiteStorage

        return SQLiteStorage.get_log_count(PROJECT, self._run.name, run_id=self._run.id)


class WandbSink(Sink):
    """wandb, online where a key is configured, else offline: files in the run's folder for `wandb sync`."""

    def __init__(self, folder: Path, name: str, group: str, config: dict[str, Any], wait: float) -> None:
        import wandb

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


SINKS: dict[str, Callable[..., Sink]] = {"local": LocalSink, "wandb": WandbSink}


def wandb_mode() -> Any:
    """WANDB_MODE if set, else online if a key is configured, else offline: wandb alone would ask or raise."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    has_key = bool(os.environ.get("WANDB_API_KEY"))
    with suppress(OSError, netrc.NetrcParseError):
        has_key = has_key or netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    return os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")


# --- the process --------------------------------------------------------------------------------------------


def _read_marks(folder: Path) -> dict[str, dict[str, Any]]:
    """What tracking.json says of each tracker. Nothing if it is not ours."""
    with suppress(OSError, ValueError, RecursionError), open(folder / "tracking.json", "rb") as file:
        marks = json.loads(file.read(MAX_ROW_BYTES))
        if isinstance(marks, dict):
            return {kind: mark for kind, mark in marks.items() if isinstance(mark, dict)}
    return {}


def _save_mark(folder: Path, kind: str, mark: dict[str, Any]) -> None:
    try:
        with MARKS_LOCK:
            write_json(folder / "tracking.json", {**_read_marks(folder), kind: mark})
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
        noted = _read_marks(run_folder).get(kind, {}).get("sent")
        sink = SINKS[kind](run_folder, name, group, config, wait)
        # A resumed run writes the rows since its checkpoint again, bit for bit: those already sent are counted off.
        sent = sink.stored_rows()  # the tracker knows better than the note about it
        if sent is None:
            sent = noted if type(noted) is int else 0
        _save_mark(run_folder, kind, {**sink.note, "sent": sent})
    except Exception as error:
        print(f"{kind}: no tracking ({type(error).__name__}: {error})")
        return
    seen = 0
    try:
        for row in read_rows(run_folder / "metrics.jsonl", done, POLL_SECONDS):
            if row is None:
                _save_mark(run_folder, kind, {**sink.note, "sent": sent})
                _bound_log(run_folder)
                continue
            frames = row.get("frames")
            if not isinstance(frames, (int, float)) or not 0 <= frames <= MAX_FRAMES:
                continue
            seen += 1
            if seen <= sent:
                continue
            sent = seen
            try:
                sink.log({k: v for k, v in row.items() if isinstance(v, (int, float, str))}, int(frames))
            except Exception as error:
                print(f"{kind}: the row at {frames} frames is not sent ({type(error).__name__}: {error})")
        sink.finish()
    except Exception as error:
        print(f"{kind}: tracking ends early ({type(error).__name__}: {error})")


def _read_config(folder: Path) -> dict[str, Value]:
    """The run's plain settings: lists of lists of lists could be too long to show, and trackio keeps `_` for itself."""
    with suppress(UsageError):
        config = read_yaml(folder / "config.yaml")
        if isinstance(config, dict):
            plain = {k: v for k, v in config.items() if isinstance(k, str) and isinstance(v, (int, float, str))}
            huge = {k for k, v in plain.items() if isinstance(v, int) and abs(v) >= 2**63}  # too long to print
            return {k: v for k, v in plain.items() if not k.startswith("_") and k not in huge}
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
    parser = argparse.ArgumentParser("python -m experiment.runs.trackers", description="Send a run to a tracker.")
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--track", choices=[kind for kind in KINDS if kind != "none"], default="local")
    parser.add_argument("--follow", action="store_true", help="go on until the standard input ends")
    options = parser.parse_args(arguments)
    folder = options.run_folder.resolve()
    if not folder.is_dir():
        parser.error(f"run_folder {options.run_folder}: no such folder")
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
