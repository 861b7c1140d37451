"""The trackers that show a run: trackio (a local page) and wandb (an account, or offline files).

Each runs in a process of its own that follows `metrics.jsonl`, so that no tracker can slow, block
or end a run. The same command sends an old run by hand:

    python -m experiment.runs.trackers runs/NAME --track local|wandb|all
"""

import argparse
import contextlib
import itertools
import json
import os
import shlex
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from experiment.store.files import write_json
from experiment.store.metrics import read_rows

ROOT = Path(__file__).resolve().parents[2]  # `experiment` lies here
PROJECT = "recall"
KINDS = {"none": (), "local": ("local",), "wandb": ("wandb",), "all": ("local", "wandb")}
# CleanRL's names where they mean the same; every other metric keeps its own.
NAMES = {
    "return_mean": "charts/episodic_return",
    "steps_per_second": "charts/SPS",
    "loss": "losses/td_loss",
    "q_mean": "losses/q_values",
    "eval_score": "eval/episodic_return",
}
POLL_SECONDS = 1.0
DRAIN_SECONDS = 300.0  # how long a process may outlive training
WANDB_SECONDS = 10.0  # to connect, and again to finish
FILM_FRAMES = 1800  # 30 seconds of an evaluation


@contextlib.contextmanager
def tracking(
    run: Path, track: str, timeout: float = 20.0
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that send `run`/metrics.jsonl on. After the block they send what is written, then
    they are ended whatever they do, within `timeout` seconds each. Trouble at the start is one
    line, never an exception."""
    processes = []
    for kind in KINDS[track]:
        command = [
            sys.executable,
            "-m",
            "experiment.runs.trackers",
            str(run.resolve()),
            "--track",
            kind,
            "--follow",
        ]
        # Ctrl-C in the terminal is for training only
        own: dict[str, Any] = {"cwd": ROOT, "start_new_session": True}
        try:
            with open(run / "tracking.log", "ab") as log:
                processes.append(
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, **own)
                )
        except OSError as error:
            print(
                f"tracking did not start ({error}); metrics.jsonl is still written", file=sys.stderr
            )
    try:
        yield processes
    finally:
        for process in processes:
            assert process.stdin
            process.stdin.close()  # the process reads the end of its input: send the rest and leave
        for process in processes:
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                # It leads its own session, with the processes that wandb starts.
                os.killpg(process.pid, 9)
                process.wait()


def trackio_folder(run: Path) -> Path:
    """Where trackio keeps its data: TRACKIO_DIR, else beside the runs, so that one page shows them
    all."""
    return Path(os.environ.get("TRACKIO_DIR") or run.resolve().parent / "trackio")


def page_command(run: Path) -> str:
    """The shell command that opens the local page. `--host` keeps it off the network."""
    # Whether or not the environment is active.
    paths = trackio_folder(run), Path(sys.executable).with_name("trackio")
    folder, program = (shlex.quote(str(path)) for path in paths)
    return f"TRACKIO_DIR={folder} {program} show --project {PROJECT} --host 127.0.0.1"


# --- the process ----------------------------------------------------------------------------------

# A tracker's run, with `log` and `finish`; and its video of a file.
Sink = tuple[Any, Callable[[str], Any]]


def local(run: Path, note: dict[str, Any], about: dict[str, Any]) -> Sink:
    """trackio writes straight into its SQLite file: no server, no network."""
    import trackio

    resume = "allow" if note["sent"] else "never"  # a new folder with an old name is a new run
    quiet: dict[str, Any] = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
    return trackio.init(PROJECT, resume=resume, **about, **quiet), trackio.Video


def wandb(run: Path, note: dict[str, Any], about: dict[str, Any]) -> Sink:
    """wandb, online where a key is configured, else offline: files in the run's folder for `wandb
    sync`."""
    import wandb

    # For the life of the folder: a resumed run is one run.
    note.setdefault("id", uuid.uuid4().hex[:12])
    quiet: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "disable_git": True,
        "x_disable_stats": True,
    }
    settings = wandb.Settings(
        init_timeout=WANDB_SECONDS, login_timeout=WANDB_SECONDS, save_code=False, **quiet
    )
    start = partial(
        wandb.init,
        project=PROJECT,
        id=note["id"],
        resume="allow",
        dir=str(run),
        settings=settings,
        **about,
    )
    mode: Any = os.environ.get("WANDB_MODE") or (
        "online" if wandb.login(prompt=False, verify=False) else "offline"
    )
    try:
        started = start(mode=mode)
    except Exception as error:  # its text is left out: it might quote a request with the key
        print(
            f"wandb: {mode} failed ({type(error).__name__}); offline now, `wandb sync` sends it "
            "later",
            flush=True,
        )
        wandb.teardown()  # its service still holds the run's id
        started = start(mode="offline")
    started.define_metric("*", step_metric="frames")
    return started, lambda path: wandb.Video(path, format="mp4")


SINKS: dict[str, Callable[[Path, dict[str, Any], dict[str, Any]], Sink]] = {
    "local": local,
    "wandb": wandb,
}


def film(run: Path, frames: int) -> Path | None:
    """The first 30 seconds of the middle episode of the evaluation at `frames`; None if it kept no
    records."""
    from envs.episodes import EpisodeRecord, replay_colour
    from experiment.scores.video import write_video

    path, folder = run / "videos" / f"training-{frames:012d}.mp4", run / "eval" / f"{frames:012d}"
    records = sorted(
        (EpisodeRecord.load(p) for p in folder.glob("*.json")), key=lambda record: record.score
    )
    if not records:
        return None
    path.parent.mkdir(exist_ok=True)
    images = replay_colour(records[len(records) // 2], every_frame=True)
    if not path.exists():  # the other tracker may have made it
        write_video(itertools.islice(images, FILM_FRAMES), path)
    return path


def follow(run: Path, kind: str, done: threading.Event) -> None:
    """Send the rows and films of a run to one tracker until `done` is set and the file is read to
    its end.

    A resumed run writes the rows since its checkpoint again, bit for bit: those sent already are
    counted off.
    """
    mark, metrics = run / f"tracking-{kind}.json", run / "metrics.jsonl"
    # rows
    note = {"sent": 0, "filmed": 0} | (json.loads(mark.read_text()) if mark.exists() else {})
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    plain = {name: value for name, value in config.items() if value is not None}
    about = {"name": run.name, "group": f"{config['game']} {config['observe']}", "config": plain}
    sink, video = SINKS[kind](run, note, about)
    position, count, last_frames, films = 0, 0, 0, []
    while True:
        last = done.is_set()  # asked before reading: what was written before `done` is still read
        rows, position = read_rows(metrics, position) if metrics.exists() else ([], 0)
        for row in rows:
            count, last_frames = count + 1, row["frames"]
            if count > note["sent"]:
                sink.log(
                    {NAMES.get(k, k): v for k, v in row.items() if v is not None}, step=last_frames
                )
                note["sent"] = count
            if "eval_score" in row and count > note["filmed"]:
                films.append((count, last_frames))
        write_json(mark, note)
        if films:  # one at a time: rows do not wait for them
            note["filmed"], frames = films.pop(0)
            if path := film(run, frames):
                # wandb takes no step before the last one.
                sink.log({"film": video(str(path)), "film_frames": frames}, step=last_frames)
        elif last:
            break
        else:
            done.wait(POLL_SECONDS)
    sink.finish()


def _watch_training(done: threading.Event) -> None:
    """Set `done` when training closes our input or is gone. Then end this process, whatever
    hangs."""
    sys.stdin.read()
    done.set()
    threading.Event().wait(DRAIN_SECONDS)
    os._exit(1)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m experiment.runs.trackers", description="Send a run to a tracker."
    )
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--track", choices=[kind for kind in KINDS if kind != "none"], default="local"
    )
    parser.add_argument("--follow", action="store_true", help="go on until the standard input ends")
    options = parser.parse_args(words)
    run, done = options.run.resolve(), threading.Event()
    if not (run / "config.yaml").is_file():
        parser.error(f"{options.run}: not a run's folder")
    # Little CPU, no GPU, and nothing on the network but what was asked for: trackio alone would
    # look for a token.
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    os.environ.update(quiet, WANDB_ERROR_REPORTING="false", TRACKIO_DIR=str(trackio_folder(run)))
    # They make "local" remote.
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_WEBHOOK_URL"):
        os.environ.pop(name, None)
    os.nice(10)
    if options.follow:
        threading.Thread(target=_watch_training, args=(done,), daemon=True).start()
    else:
        done.set()
    for kind in KINDS[options.track]:
        try:
            # Two processes on one folder would send every row twice. A resumed run waits for the
            # old one.
            with FileLock(run / f"tracking-{kind}.lock", timeout=-1 if options.follow else 0):
                follow(run, kind, done)
        except Timeout:
            parser.error(f"{options.run} is being tracked by another process")
        except Exception as error:
            print(f"{kind}: tracking ends ({type(error).__name__}: {error})")
    if not options.follow and "local" in KINDS[options.track]:
        print(f"open the page with: {page_command(run)}")


if __name__ == "__main__":
    main()
