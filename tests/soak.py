"""Train for a long time; measure memory, open files, threads and speed, and fit a line to each.

python -m tests.soak --minutes 60 [--out soak.json] [--runs-dir runs] [train.py's flags after --]

It measures for so many minutes after the replay is full, and until so many frames were played; so
many seconds lie between two measurements. The run is thrown away unless it has a --runs-dir.
"""

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests import small

DEFAULT = (
    "drqn --game breakout --replay-rows 20000 --start-rows 5000 --log-frames 1000 "
    "--checkpoint-frames 200000 --eval-frames 0 --track none"
).split()
FIGURES = {"resident_mb": "MB", "open_files": "files", "threads": "threads"}
FIGURES |= {"frames_per_second": "frames/s", "frames_per_cpu_second": "frames/s of CPU"}


def last_row(folder: Path) -> dict[str, Any]:
    row = {"frames": 0, "replay_rows": 0}  # a row of an evaluation has no replay_rows
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        row |= json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return row


def report(samples: list[dict[str, float]]) -> dict[str, Any]:
    """First, last, least and most of each figure, the means of its first and last quarter, and its
    slope."""
    hours = [s["seconds"] / 3600 for s in samples]
    quarter, minutes = -(-len(samples) // 4), round((hours[-1] - hours[0]) * 60, 1)
    result: dict[str, Any] = {"samples": len(samples), "minutes": minutes}
    for name in FIGURES:
        v = [s[name] for s in samples]
        result[name] = {"first": v[0], "last": v[-1], "least": min(v), "most": max(v)}
        result[name]["first_quarter"] = round(float(np.mean(v[:quarter])), 2)
        result[name]["last_quarter"] = round(float(np.mean(v[-quarter:])), 2)
        result[name]["slope_per_hour"] = round(float(np.polyfit(hours, v, 1)[0]), 3)
    return result


def watch(process, folder, seconds, frames, every) -> list[dict[str, float]]:
    """Measure until `seconds` have passed since the replay was full and `frames` were played, or
    the process ended."""
    training, samples, row = psutil.Process(process.pid), [], last_row(folder)
    start, before = 0.0, (0.0, 0, 0.0)
    while process.poll() is None and (
        not start or before[0] - start < seconds or row["frames"] < frames
    ):
        time.sleep(every)
        last, row = row, last_row(folder)
        full = row["frames"] > last["frames"] and 0 < row["replay_rows"] <= last["replay_rows"]
        if not start and not full:
            continue
        with contextlib.suppress(psutil.NoSuchProcess), training.oneshot():
            times = training.cpu_times()
            now = time.monotonic(), row["frames"], times.user + times.system
            if start:
                took, played, cpu = (b - a for a, b in zip(before, now, strict=True))
                sample = {"seconds": round(now[0] - start, 1), "frames": row["frames"]}
                sample["frames_per_second"] = round(played / took, 1)
                sample["frames_per_cpu_second"] = round(played / max(cpu, 1e-9), 1)
                sample["resident_mb"] = round(training.memory_info().rss / 2**20, 1)
                sample |= {"open_files": training.num_fds(), "threads": training.num_threads()}
                samples.append(sample)
            else:
                start = now[0]
                size = f"{row['replay_rows']:,} rows, {now[1]:,} frames"
                print(f"the replay is full: {size}", flush=True)
            before = now
    return samples


def main(words: list[str]) -> int:
    place = words.index("--") if "--" in words else len(words)
    train = words[place + 1 :] or DEFAULT
    measured: dict[str, Any] = {"minutes": 60.0, "frames": 0, "seconds": 10.0}
    files = {"out": Path("soak.json"), "runs_dir": ""}
    options = small.options("soak", words[:place], __doc__, **measured, **files)
    with contextlib.ExitStack() as stack:
        home = Path(options.runs_dir or stack.enter_context(tempfile.TemporaryDirectory()))
        home.mkdir(parents=True, exist_ok=True)
        folder, log = home / "soak", home / "soak.log"
        more = ["--frames", str(10**12), "--runs-dir", str(home), "--name", "soak"]
        process = small.launch(small.command(*train, *more), log)
        try:
            samples = watch(process, folder, options.minutes * 60, options.frames, options.seconds)
        finally:
            process.terminate()  # it saves and leaves
            status = process.wait()
        if status or len(samples) < 3:
            error = f"training ended with status {status} after {len(samples)} measurements"
            print(log.read_text()[-3000:], error, sep="\n", file=sys.stderr)
            return 1
        frames = last_row(folder)["frames"]
    result = {"command": ["train.py", *train], "frames": frames, **report(samples)}
    options.out.write_text(json.dumps({**result, "measured": samples}, indent=1) + "\n")
    for name, unit in FIGURES.items():
        figures = ", ".join(f"{k} {v:g}" for k, v in result[name].items())
        print(f"{name:21} {figures} {unit} an hour")
    print(f"soak: {result['minutes']} minutes, {len(samples)} measurements, {frames:,} frames")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
