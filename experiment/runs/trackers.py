"""The trackers that show a run: trackio (a local page) and wandb (an account, or offline files).

Each runs in a process of its own that follows `metrics.jsonl`, so that no tracker can slow, block
or end a run. The same command sends an old run by hand:

    python -m experiment.runs.trackers runs/NAME --track local|wandb|all
"""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from experiment import IS_INSTALLED, ROOT
from experiment.store.files import write_json
from experiment.store.metrics import read_rows

PROJECT = "recall"
KINDS = {"none": (), "local": ("local",), "wandb": ("wandb",), "all": ("local", "wandb")}
# CleanRL's names for the same metrics; every other metric has its own name.
NAMES = {
    "return_mean": "charts/episodic_return",
    "steps_per_second": "charts/SPS",
    "loss": "losses/td_loss",
    "q_mean": "losses/q_values",
    "eval_score": "eval/episodic_return",
}
POLL_SECONDS = 1.0
DRAIN_SECONDS = 300.0  # at most, of a tracker's process after the end of training
WANDB_SECONDS = 10.0  # at most, to connect and to log in


@contextlib.contextmanager
def tracking(
    run: Path, track: str, timeout: float = 60.0
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the processes that send `run`/metrics.jsonl to the trackers `track` (of KINDS).

    After the block each process has `timeout` seconds to send the rest before it is killed. That,
    and a process that cannot start, is one line on standard error, never an exception.
    """
    processes: list[Any] = []
    command = [sys.executable, "-m", __name__, str(run.resolve()), "--track"]
    for kind in KINDS[track]:
        try:
            with open(run / "tracking.log", "ab") as log:
                processes.append(
                    subprocess.Popen(
                        [*command, kind, "--follow"],
                        cwd=ROOT,
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,  # Ctrl-C in the terminal is for training only
                    )
                )
        except OSError as error:
            print(
                f"tracking did not start ({error}); metrics.jsonl is still written",
                file=sys.stderr,
            )
    try:
        yield processes
    finally:
        for process in processes:
            process.stdin.close()  # at the end of its input the process sends the rest and ends
        for process in processes:
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                # The process leads its own session, with the processes that wandb starts.
                os.killpg(process.pid, 9)
                process.wait()
                print(
                    f"tracking was ended after {timeout:g} s, before all was sent; send the rest "
                    f"with: {shlex.join(process.args[:-1])}",  # without --follow
                    file=sys.stderr,
                )


def trackio_folder(run: Path) -> Path:
    """trackio's data: TRACKIO_DIR, else beside the runs, so that one page shows all of them."""
    return Path(os.environ.get("TRACKIO_DIR") or run.resolve().parent / "trackio")


def page_command(run: Path) -> str:
    """The shell command that opens the local page, on this machine only (`--host`)."""
    # The full path: the environment need not be active.
    program = shlex.quote(str(Path(sys.executable).with_name("trackio")))
    folder = shlex.quote(str(trackio_folder(run)))
    return f"TRACKIO_DIR={folder} {program} show --project {PROJECT} --host 127.0.0.1"


# --- the process ----------------------------------------------------------------------------------

# `log(values, frames)`, `finish()`, a function from a file to the tracker's video, and what the
# tracker has of the run: a dictionary for each `log`, with its "step" (the frames).
Sink = tuple[Callable[..., Any], Callable[[], Any], Callable[[str], Any], list[dict[str, Any]]]


def local(run: Path, identity: str, about: dict[str, Any]) -> Sink:
    """trackio, which writes to its SQLite file: no server, no network."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    tracker_run = trackio.init(
        PROJECT, resume="never", embed=False, auto_log_cpu=False, auto_log_gpu=False, **about
    )
    # trackio itself would resume the latest run of that name, which may be another folder's.
    tracker_run.id = identity
    logs = SQLiteStorage.get_logs(PROJECT, run.name, run_id=identity)
    return tracker_run.log, tracker_run.finish, trackio.Video, logs


def wandb(run: Path, identity: str, about: dict[str, Any]) -> Sink:
    """wandb, online with a configured key, else offline: files in the run for `wandb sync`.

    wandb writes its file every 15 seconds only, so a killed process loses rows and cannot tell
    which. Each process therefore sends the whole run and replaces what an earlier one sent: without
    `resume`, the same id starts the run anew.
    """
    import wandb

    shutil.rmtree(run / "wandb", ignore_errors=True)
    start: Any = partial(
        wandb.init,
        project=PROJECT,
        id=identity,
        dir=str(run),
        settings=wandb.Settings(
            init_timeout=WANDB_SECONDS,
            login_timeout=WANDB_SECONDS,
            silent=True,
            console="off",
            save_code=False,
            disable_git=True,
            x_disable_stats=True,
        ),
        **about,
    )
    mode = os.environ.get("WANDB_MODE") or (
        "online" if wandb.login(prompt=False, verify=False) else "offline"
    )
    try:
        sink = start(mode=mode)
    except Exception as error:  # without its message, which might quote a request with the key
        print(
            f"wandb: {mode} failed ({type(error).__name__}); "
            "offline now, `wandb sync` sends it later",
            flush=True,
        )
        wandb.teardown()  # its service still has the run's id
        sink = start(mode="offline")
    sink.define_metric("*", step_metric="frames")
    # wandb refuses a step before the last one, as a film's may be. Without `step` each call is a
    # step of its own, complete at once.
    return lambda values, _: sink.log(values), sink.finish, partial(wandb.Video, format="mp4"), []


# Each takes the run's folder, its id and the name, group and config of the run.
SINKS = {"local": local, "wandb": wandb}


def film(run: Path, frames: int) -> Path | None:
    """A clip of the median episode of the evaluation at `frames`; None without records.

    RuntimeError if the game does not repeat the record, OSError if the film cannot be written.
    """
    from envs.episodes import EpisodeRecord
    from experiment.scores.evaluation import middle_and_best
    from experiment.scores.video import write_clip

    path, folder = run / "videos" / f"training-{frames:012d}.mp4", run / "eval" / f"{frames:012d}"
    records = [EpisodeRecord.load(file) for file in sorted(folder.glob("*.json"))]
    if not records:
        return None
    path.parent.mkdir(exist_ok=True)
    with FileLock(run / "tracking-films.lock"):  # the other tracker makes the same films
        for part in path.parent.glob(".training-*"):  # of a process that was killed
            part.unlink()
        if not path.exists():
            median, _ = middle_and_best([record.score for record in records])
            write_clip(records[median], path)
    return path


def follow(run: Path, kind: str, done: threading.Event) -> None:
    """Send a run's rows and films to one tracker until `done` is set and all are sent.

    A resumed run writes the rows since its checkpoint again, bit for bit: rows and films that the
    tracker has are not sent again. tracking-KIND.json has the folder's id in the tracker.
    """
    mark, metrics = run / f"tracking-{kind}.json", run / "metrics.jsonl"
    if not mark.exists():
        write_json(mark, {"id": os.urandom(6).hex()})
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    about = {
        "name": run.name,
        "group": f"{config['game']} {config['observe']}",
        "config": {name: value for name, value in config.items() if value is not None},
    }
    log, finish, video, logs = SINKS[kind](run, json.loads(mark.read_text())["id"], about)
    filmed = [entry["step"] for entry in logs if "film" in entry]
    position, count, films, last = 0, 0, [], False
    renderer = ThreadPoolExecutor(1)  # rows do not wait for films
    while not last:
        last = done.wait(POLL_SECONDS)  # before reading: rows from before `done` are still read
        rows, position = read_rows(metrics, position) if metrics.exists() else ([], 0)
        for row in rows:
            count, frames = count + 1, row["frames"]
            if count > len(logs) - len(filmed):
                log({NAMES.get(k, k): v for k, v in row.items() if v is not None}, frames)
            if "eval_score" in row and frames not in filmed:
                films.append((frames, renderer.submit(film, run, frames)))
        while films and (last or films[0][1].done()):
            frames, rendering = films.pop(0)
            try:
                path = rendering.result()
            except (OSError, RuntimeError, ValueError) as error:  # it costs the film, not the rows
                print(f"{kind}: no film at {frames:,} frames ({error})", flush=True)
                continue
            if path:
                log({"film": video(str(path)), "frames": frames}, frames)
    finish()


def _watch_training(done: threading.Event) -> None:
    """Set `done` when training closes our input or ends; DRAIN_SECONDS later exit in any case."""
    sys.stdin.read()
    done.set()
    threading.Event().wait(DRAIN_SECONDS)
    os._exit(1)


def main(words: list[str] | None = None) -> int:
    """The command in this module's docstring; `words` in place of sys.argv. 1 after a failure."""
    program = "recall track" if IS_INSTALLED else "python -m experiment.runs.trackers"
    parser = argparse.ArgumentParser(program, description="Send a run to a tracker.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--track", choices=["local", "wandb", "all"], default="local")
    parser.add_argument("--follow", action="store_true", help="go on until the standard input ends")
    options = parser.parse_args(words)
    run, done = options.run.resolve(), threading.Event()
    if not (run / "config.yaml").is_file():
        parser.error(f"{options.run}: not a run's folder")
    # Little CPU, no GPU, and no other connections: trackio alone would look for a token.
    os.environ.update(
        OMP_NUM_THREADS="1",
        CUDA_VISIBLE_DEVICES="",
        HF_HUB_OFFLINE="1",
        WANDB_ERROR_REPORTING="false",
        TRACKIO_DIR=str(trackio_folder(run)),
    )
    # These would make "local" remote.
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_WEBHOOK_URL"):
        os.environ.pop(name, None)
    os.nice(10)
    if options.follow:
        threading.Thread(target=_watch_training, args=(done,), daemon=True).start()
    else:
        done.set()
    status = 0
    for kind in KINDS[options.track]:
        try:
            # Two processes on one folder would send every row twice; a resumed run waits for the
            # process of its predecessor.
            with FileLock(run / f"tracking-{kind}.lock", timeout=-1 if options.follow else 0):
                follow(run, kind, done)
        except Timeout:
            parser.error(f"{options.run} is being tracked by another process")
        except Exception as error:
            print(f"{kind}: tracking ends ({type(error).__name__}: {error})")
            status = 1
    if not options.follow and "local" in KINDS[options.track]:
        print(f"open the page with: {page_command(run)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
