"""The counts and means of a run, and its rows of metrics (docs/metrics.md)."""

import time
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import partial
from typing import Any

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from agents.learner import Learner, NonFiniteError
from agents.replay import Replay
from experiment.settings.config import Config


@dataclass(config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Counters:
    """A run's counts and sums, all in its checkpoints. Lengths are in emulator frames."""

    frames: int = 0
    learning_since: int | None = None  # frames when the replay became ready (--start-rows)
    seconds: float = 0.0  # of training, without evaluations, over all sittings
    episodes: int = 0
    best_score: float | None = None  # of a training episode
    evaluation_due: bool = False
    returns: list[float] = field(default_factory=list)  # of the episodes since the last row
    # Of update metrics since that row; numbers or tensors.
    sums: dict[str, Any] = field(default_factory=dict)
    updates_in_row: int = 0

    @property
    def learning_frames(self) -> int:
        """Frames of all envs since learning began."""
        return 0 if self.learning_since is None else self.frames - self.learning_since


class Meter:
    """Counts updates and time; makes the rows of metrics."""

    def __init__(
        self,
        config: Config,
        counters: Counters,
        frame_skip: int,
        player: Any,
        replay: Replay,
        learner: Learner,
    ) -> None:
        """From now on the time in four methods is counted."""
        self._config, self._counters, self._skip = config, counters, frame_skip
        self._player, self._replay, self._learner = player, replay, learner
        timed = {  # time_environment, time_acting, time_sampling and time_learning
            "environment": (player, "recv"),
            "acting": (player, "act"),
            "sampling": (replay, "sample"),
            "learning": (learner, "update"),
        }
        self._times = dict.fromkeys(timed, 0.0)  # seconds since the last row
        # At the last row of this sitting, or at its beginning.
        self._row_frames, self._row_seconds = counters.frames, counters.seconds
        for name, (part, method) in timed.items():
            setattr(part, method, partial(self._timed, name, getattr(part, method)))
        self.restart_clock()

    def _timed(self, name: str, method: Callable[..., Any], *args: Any) -> Any:
        """Call the method and add its seconds to `_times`."""
        start = time.perf_counter()
        result = method(*args)
        self._times[name] += time.perf_counter() - start
        return result

    def restart_clock(self) -> None:
        """Count training time from now on: the time since the last count was no training."""
        self._since = time.monotonic()

    def count_time(self) -> None:
        """Add the seconds since the last count to `Counters.seconds`."""
        start = self._since
        self.restart_clock()
        self._counters.seconds += self._since - start

    def add_update(self, metrics: Mapping[str, Tensor]) -> None:
        """Add an update's metrics to the means of the next row; the device is not waited for."""
        sums = self._counters.sums
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + value
        self._counters.updates_in_row += 1

    def fetch_and_check(self) -> None:
        """Fetch the sums from the device.

        NonFiniteError if a metric, a weight or the optimiser's memory is NaN or infinite.
        """
        sums = self._counters.sums = {k: float(v) for k, v in self._counters.sums.items()}
        if names := [name for name, total in sums.items() if not np.isfinite(total)]:
            raise NonFiniteError(f"update {self._learner.updates}: {', '.join(names)}")
        self._learner.check_finite()

    def row(self, epsilon: float) -> dict[str, Any]:
        """The metrics since the last row; NonFiniteError as in `fetch_and_check`."""
        self.fetch_and_check()
        counters, config, skip = self._counters, self._config, self._skip
        self.count_time()
        since = max(counters.seconds - self._row_seconds, 1e-9)
        frames = counters.frames - self._row_frames
        samples = self._learner.updates * config.batch_size * config.unroll
        row: dict[str, Any] = {
            "frames": counters.frames,
            "steps": counters.frames // skip,
            "updates": self._learner.updates,
            "samples": samples,
            "samples_per_step": samples / max(counters.learning_frames // skip, 1),
            "episodes": counters.episodes,
            "return_mean": float(np.mean(counters.returns)) if counters.returns else None,
            "epsilon": epsilon,
            **{key: total / counters.updates_in_row for key, total in counters.sums.items()},
            "param_norm": float(self._learner.param_norm()),
            "replay_rows": len(self._replay),
            "replay_bytes": self._replay.nbytes,
            "seconds": round(counters.seconds, 3),
            "frames_per_second": round(frames / since, 1),
            "steps_per_second": round(frames / skip / since, 1),
            **self._player.metrics(since),
            **{f"time_{name}": round(seconds / since, 4) for name, seconds in self._times.items()},
        }
        counters.sums, counters.updates_in_row = {}, 0
        counters.returns = []
        self._row_frames, self._row_seconds = counters.frames, counters.seconds
        self._times = dict.fromkeys(self._times, 0.0)
        return row
