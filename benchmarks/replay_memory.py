"""The cost of a replay of a million rows: memory, and training time lost to its checkpoints."""

import gc
from statistics import median

import psutil

from benchmarks.common import Effort, Row, alternate, go, running, seconds, warm_up
from benchmarks.reel import ENVS, fill, filled, reel
from envs.emulator import FRAME_SKIP
from experiment.settings.config import Config

RAW = 84 * 84  # bytes of a frame
STEPS, BETWEEN = 60, 600.0  # of all envs in a measurement; seconds between checkpoints


def _resident() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


def memory(game: str, limit: int, effort: Effort) -> list[Row]:
    """Bytes a row, as the growth of this process, against raw frames.

    The process must have played nothing before. Everything is in: the drqn preset's core states,
    the other columns, what Python and the allocator add.
    """
    config = Config(game=game, num_envs=ENVS, replay_rows=effort.rows)
    path = reel(game)
    before = _resident()
    replay = filled(config, path)
    rows = replay.rings[0].capacity * replay.rings[0].lanes
    size = (_resident() - before) / rows
    note = f"at most {limit} bytes; {rows:,} rows, random play"
    figures = size, RAW, "bytes/row", size / RAW, "<=", limit / RAW
    return [Row(f"replay memory, {game}", *figures, 1, note)]


def checkpoint(effort: Effort) -> list[Row]:
    """Training time lost to a checkpoint of a Breakout replay each ten minutes.

    The same steps of the drqn loop with a checkpoint after the first, and without: the
    difference is what is lost, also where part of the saving goes on beside the training.
    """
    with running("drqn", replay_rows=effort.rows) as run:
        warm_up(run)
        fill(run.replay, reel(run.config.game), effort.rows, run.learner.online.state_size)
        run.counters.learning_since, run.learner.updates = None, 0
        run.counters.frames = run.replay.rings[0].time * run.config.num_envs * FRAME_SKIP
        go(run, STEPS)

        def save() -> None:
            go(run, 1)
            run.save()
            go(run, STEPS - 1)

        def go_on() -> None:
            go(run, STEPS)

        sides = alternate(lambda: seconds(save), lambda: seconds(go_on), pairs=effort.pairs)
        folder = max((run.folder / "checkpoint").iterdir())
        size = sum(file.stat().st_size for file in folder.iterdir())
    lost = median(a - b for a, b in zip(*sides, strict=True))
    without = f"{STEPS} steps without one take {median(sides[1]):.2f} s"
    note = f"{size / 1e6:,.0f} MB, {effort.rows:,} rows; {without}"
    figures = lost, BETWEEN, "s", lost / BETWEEN, "<=", 0.02
    return [Row("checkpoint each 10 minutes", *figures, effort.pairs, note)]
