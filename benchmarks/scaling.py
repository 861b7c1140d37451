"""How speed and cost grow with environments, batch, unroll, replay size and threads. Writes benchmarks/scaling.json."""

import json
import os
from collections.abc import Iterator
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.common import ROOT, console, describe_machine, go, running, seconds, updates_per_step, warm_up
from benchmarks.parts import PRESETS, updates_of
from benchmarks.reel import ENVS, filled, reel
from envs.emulator import FRAME_SKIP
from experiment.settings.config import Config

Points = Iterator[dict[str, Any]]
LEAST = 4.0  # seconds of a measurement of the loop


def frames_per_second(preset: str, **changes: Any) -> float:
    """Of the whole loop, learning under way."""
    with running(preset, **changes) as run:
        warm_up(run)
        steps = 4 * updates_per_step(run.config).denominator
        passed, done = 0.0, 0
        while passed < LEAST:
            passed, done = passed + seconds(lambda: go(run, steps)), done + steps
        return done * run.config.num_envs * FRAME_SKIP / passed


def environments() -> Points:
    for n in (1, 2, 4, 8, 16, 32, 64, 128):
        yield {"envs": n, **{f"{p}, frames/s": frames_per_second(p, num_envs=n) for p in PRESETS}}


def threads() -> Points:
    for n in range(1, min(os.cpu_count() or 1, 2) + 1):
        yield {"threads": n, **{f"{p}, frames/s": frames_per_second(p, threads=n) for p in PRESETS}}


def samples_per_second(**changes: Any) -> float:
    """Of the drqn learner alone."""
    with running("drqn", start_rows=5000, replay_rows=100_000, **changes) as run:
        warm_up(run, 3)
        update = updates_of(run, 3)
        return run.config.batch_size * run.config.unroll / median(seconds(update, 3) for _ in range(5))


def batch() -> Points:
    for n in (4, 8, 16, 32, 64, 128):
        yield {"batch": n, "drqn, samples/s": samples_per_second(batch_size=n)}


def unroll() -> Points:
    for n in (4, 8, 16, 32, 64):
        yield {"unroll": n, "drqn, samples/s": samples_per_second(unroll=n)}


def replay_size() -> Points:
    """One draw of the drqn preset's batch; a prioritised one with the return of its priorities."""
    base: dict[str, float] = {}
    for rows in (125_000, 250_000, 500_000, 1_000_000, 2_000_000):
        point: dict[str, Any] = {"rows": rows}
        for kind, exponent in (("uniform", 0.0), ("prioritised", 0.9)):
            config = Config(num_envs=ENVS, replay_rows=rows, priority_exponent=exponent)
            replay = filled(config, reel(config.game))

            def draw(replay=replay, size=config.batch_size) -> None:
                sequence = replay.sample(size)
                replay.update_priorities(sequence.origin, sequence.weight)

            draw()
            cost = 1e3 * median(seconds(draw, 20) for _ in range(9))
            point |= {f"{kind}, ms": cost, f"{kind}, growth": cost / base.setdefault(kind, cost)}
            del replay, draw
        yield point


def main() -> None:
    about = describe_machine()
    console.print(about)
    found = {}
    for points in (environments, threads, batch, unroll, replay_size):
        name = points.__name__.replace("_", " ")
        found[name] = list(points())
        shown = Table(*found[name][0], title=name)
        for point in found[name]:
            shown.add_row(*(f"{v:,.4g}" if isinstance(v, float) else f"{v:,}" for v in point.values()))
        console.print(shown)
    (ROOT / "benchmarks" / "scaling.json").write_text(json.dumps({**about, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
