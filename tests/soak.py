"""Train for a long time and watch what must not grow: memory, open files, threads; and what must
not fall: speed.

python -m tests.soak --minutes 60 [--out soak.json] [--runs-dir runs] [train.py's flags after --]

Training runs in a process of its own. Once its replay is full, it is measured every 10 seconds; at
the end a line is fitted to each figure. The exit status is 1 if training failed.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests import small

DEFAULT = [
    "drqn",
    "--game",
    "breakout",
    "--replay-rows",
    "20000",
    "--start-rows",
    "5000",
    "--log-frames",
    "1000",
    "--checkpoint-frames",
    "200000",
    "--eval-frames",
    "0",
    "--track",
    "none",
]
FIGURES = {
    "resident_mb": "MB",
    "open_files": "files",
    "threads": "threads",
    "frames_per_second": "frames/s",
    "frames_per_cpu_second": "frames/s of CPU",
}  # other processes do not change the last one


def last_row(folder: Path) -> dict[str, Any]:
    row = {"frames": 0, "replay_rows": 0}  # a row of an evaluation has no replay_rows
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        row |= json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return row


def report(samples: list[dict[str, float]]) -> dict[str, Any]:
    """First, last, least and most of each figure, the means of its first and last quarter, and its
    slope."""
    hours = [s["seconds"] / 3600 for s in samples]
    quarter = -(-len(samples) // 4)
    result: dict[str, Any] = {
        "samples": len(samples),
        "minutes": round((hours[-1] - hours[0]) * 60, 1),
    }
    for name in FIGURES:
        values = [s[name] for s in samples]
        result[name] = {
            "first": values[0],
            "last": values[-1],
            "least": min(values),
            "most": max(values),
            "first_quarter": round(float(np.mean(values[:quarter])), 2),
            "last_quarter": round(float(np.mean(values[-quarter:])), 2),
            "slope_per_hour": round(float(np.polyfit(hours, values, 1)[0]), 3),
        }
    return result


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="measured after the replay is full"
    )
    parser.add_argument(
        "--frames", type=int, default=0, help="measured until so many were played, too"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="between two measurements")
    parser.add_argument("--out", type=Path, default=Path("soak.json"))
    parser.add_argument(
        "--runs-dir", type=Path, help="keep the run, as RUNS_DIR/soak; default: it is thrown away"
    )
    parser.add_argument(
        "train", nargs="*", default=DEFAULT, help="preset and flags of train.py, after --"
    )
    options = parser.parse_args(words)
    with contextlib.ExitStack() as stack:
        home = options.runs_dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        home.mkdir(parents=True, exist_ok=True)
        folder, log = home / "soak", home / "soak.log"
        command = small.command(
            *options.train, "--frames", str(10**12), "--runs-dir", str(home), "--name", "soak"
        )
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=small.environment())
        try:
            samples = watch(process, folder, options.minutes * 60, options.frames, options.seconds)
        finally:
            process.terminate()  # it saves and leaves
            status = process.wait()
        if status or len(samples) < 3:
            print(log.read_text()[-3000:], file=sys.stderr)
            print(
                f"training ended with status {status} after {len(samples)} measurements",
                file=sys.stderr,
            )
            return 1
        frames = last_row(folder)["frames"]
    result = {"command": ["train.py", *options.train], "frames": frames, **report(samples)}
    options.out.write_text(json.dumps({**result, "measured": samples}, indent=1) + "\n")
    for name, unit in FIGURES.items():
        f = result[name]
        print(
            f"{name:21} first {f['first']:g}, last {f['last']:g}, from {f['least']:g} to "
            f"{f['most']:g}, "
            f"quarters {f['first_quarter']:g} and {f['last_quarter']:g}, slope "
            f"{f['slope_per_hour']:+g} {unit} an hour"
        )
    print(
        f"soak: {result['minutes']} minutes, {result['samples']} measurements, {frames:,} frames; "
        f"{options.out}"
    )
    return 0


def watch(
    process: subprocess.Popen[bytes], folder: Path, seconds: float, frames: int, every: float
) -> list[dict[str, float]]:
    """Measure until `seconds` have passed since the replay was full and `frames` were played, or
    the process ended."""
    training, samples, row = psutil.Process(process.pid), [], last_row(folder)
    start, before = 0.0, (0.0, 0, 0.0)
    while process.poll() is None and (
        not start or before[0] - start < seconds or row["frames"] < frames
    ):
        time.sleep(every)
        last, row = row, last_row(folder)
        if not start and not (
            row["frames"] > last["frames"] and 0 < row["replay_rows"] <= last["replay_rows"]
        ):
            continue  # the replay still grows
        with contextlib.suppress(psutil.NoSuchProcess), training.oneshot():
            times = training.cpu_times()
            now = time.monotonic(), row["frames"], times.user + times.system
            if not start:
                start = now[0]
                print(
                    f"the replay is full with {row['replay_rows']:,} rows at {row['frames']:,} "
                    "frames",
                    flush=True,
                )
            else:
                samples.append(
                    {
                        "seconds": round(now[0] - start, 1),
                        "frames": row["frames"],
                        "frames_per_second": round((now[1] - before[1]) / (now[0] - before[0]), 1),
                        "frames_per_cpu_second": round(
                            (now[1] - before[1]) / max(now[2] - before[2], 1e-9), 1
                        ),
                        "resident_mb": round(training.memory_info().rss / 2**20, 1),
                        "open_files": training.num_fds(),
                        "threads": training.num_threads(),
                    }
                )
            before = now
    return samples


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
