"""python -m benchmarks ROW prints one row of the table.

Without a row all are run, each in a process of its own, one after the other; if none fails, their
figures replace benchmarks/results.json. The peers need .bench-venv: `make bench` builds it first.
`python -m benchmarks score` compares scores after the same time and has flags of its own.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import parts, rendering, replay_memory, scale, score, speed
from benchmarks.common import (
    QUICK,
    ROOT,
    Effort,
    Row,
    console,
    describe_machine,
    from_json,
    show,
    to_json,
)
from experiment.store.files import write_text

ROWS: dict[str, Callable[[Effort], list[Row]]] = {
    "dqn": speed.dqn,
    "drqn": speed.drqn,
    "dqn-busy": speed.dqn_busy,
    "drqn-busy": speed.drqn_busy,
    "everyday": speed.everyday,  # and the price of memory
    "neighbour": speed.neighbour,
    "learner": parts.learner,
    "overlap": parts.overlap,
    "memory-breakout": partial(replay_memory.memory, "breakout", 600),
    "memory-space-invaders": partial(replay_memory.memory, "space_invaders", 1900),
    "draw": parts.draw,
    "checkpoint": replay_memory.checkpoint,
    "rendering": rendering.rendering,
    "scale": scale.scale,  # many actors on Ray
}


def _in_own_process(name: str, words: list[str]) -> list[Row]:
    """The rows of one command; none if it failed."""
    start = time.monotonic()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        own = [sys.executable, "-m", "benchmarks", name, "--json", str(path), *words]
        status = subprocess.run(own, cwd=ROOT, check=False).returncode
        console.print(f"{name}: {time.monotonic() - start:.0f} s{', FAILED' if status else ''}\n")
        return [] if status else [from_json(row) for row in json.loads(path.read_text())]


def main() -> int:
    if sys.argv[1:2] == ["score"]:
        return score.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("row", nargs="?", choices=list(ROWS))
    quick = "only to see whether it works: the figures mean nothing"
    parser.add_argument("--quick", action="store_true", help=quick)
    place = "where the rows go. Default, of all without a failure: benchmarks/results.json"
    parser.add_argument("--json", type=Path, help=place)
    options = parser.parse_args()
    if options.row:
        rows = ROWS[options.row](QUICK if options.quick else Effort())
        show(rows)
        if options.json:
            options.json.write_text(json.dumps([to_json(row, {}) for row in rows]))
        return 0
    start, about = time.monotonic(), describe_machine()
    results = [_in_own_process(name, ["--quick"] * options.quick) for name in ROWS]
    rows = [row for result in results for row in result]
    console.print(about)
    show(rows)
    console.print(f"all in {(time.monotonic() - start) / 60:.1f} minutes")
    if options.json or (all(results) and not options.quick):  # only then replace published figures
        path = options.json or ROOT / "benchmarks" / "results.json"
        write_text(path, json.dumps([to_json(row, about) for row in rows], indent=1) + "\n")
    else:
        console.print("benchmarks/results.json is left as it was; --json FILE writes these rows")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
