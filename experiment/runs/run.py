"""One training run: its parts, its counters, and its schedule of rows, evaluations and checkpoints."""

import contextlib
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from agents.learner import NonFiniteError
from experiment import build
from experiment.runs.console import Display
from experiment.runs.player import Player
from experiment.scores.evaluation import StoppedError, evaluate, spread, write_evaluation
from experiment.settings import config as settings
from experiment.settings.cli import command
from experiment.settings.config import Config, UsageError
from experiment.settings.resources import free_memory
from experiment.store import checkpoint as checkpoints
from experiment.store.checkpoint import Checkpoint, subtree, tensor_tree
from experiment.store.files import refused
from experiment.store.metrics import MetricsFile
from experiment.store.provenance import commit, machine


@dataclass(config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Counters:
    """A run's counts and sums; a checkpoint holds them all. Lengths in emulator frames."""

    frames: int = 0
    learning_since: int | None = None  # frames when the first sequences could be drawn
    seconds: float = 0.0  # of training, without evaluations, over all sittings
    episodes: int = 0
    best_score: float | None = None  # of a training episode
    evaluation_due: bool = False
    row_frames: int = 0  # frames at the last row of metrics
    returns: list[float] = field(default_factory=list)  # of the episodes since that row
    sums: dict[str, Any] = field(default_factory=dict)  # of update metrics since that row: numbers, or tensors
    updates_in_row: int = 0


RESERVE = 2**28  # bytes of free memory beside what a checkpoint needs: what a run may take between two rows


class Run:
    """The parts of a run and its place in time. `advance` is called once for each step of the envs."""

    def __init__(self, config: Config, folder: Path, saved: Checkpoint | None = None) -> None:
        """A run at its first frame, or as it was at `saved`; then the envs play their tapes again.

        UsageError if the checkpoint does not fit the settings; then metrics.jsonl stays as it is.
        """
        self.config, self.folder, self.commit = config, folder, commit()
        self.protocol = build.rules(config)
        build.use_threads(config)
        self.task = build.task(config)
        network = build.make_network(config, len(self.task.action_names))
        self.parameters = sum(p.numel() for p in network.parameters())
        self.learner = build.make_learner(config, network)
        self.replay = build.make_replay(config, network.state_size)
        self.player: Any
        if config.actors:
            from experiment.cluster.actors import Players  # Ray is an extra

            self.player = Players(config, self.learner)
        else:
            self.player = Player(config, self.learner.acting)
        self.epsilon = build.make_epsilon(config)
        self.counters = Counters()
        self.stop_asked = False
        self.listeners: list[Callable[[dict[str, Any]], object]] = []  # each is called with every row of metrics
        self._save_failed = self._memory_warned = False
        self.display = Display(f"{config.preset} on {config.game}", config.frames)
        position = 0
        try:
            if saved is None:
                self.player.reset()
            else:
                with refused(folder, "resumed from its checkpoint"):
                    self._restore(saved)
                    position = saved.meta["metrics_position"]
            with refused(folder / "metrics.jsonl", "opened"):
                self.metrics = MetricsFile(folder / "metrics.jsonl", position)
        except BaseException:
            self.player.close()
            raise
        self._saved = (self.frames, position) if saved else None  # frames and metrics position of the last checkpoint
        self._row_time = time.monotonic()
        self._times: dict[str, float] = {}  # seconds since the last row, by activity
        self._time("environment", self.player, "recv")
        self._time("acting", self.player, "act")
        self._time("sampling", self.replay, "sample")
        self._time("learning", self.learner, "update")

    @property
    def frames(self) -> int:
        return self.counters.frames

    def _time(self, name: str, part: object, method: str) -> None:
        """From now on, add the seconds in this method of a part to `_times`."""
        call: Callable[..., Any] = getattr(part, method)
        self._times[name] = 0.0

        def timed(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self._times[name] += time.perf_counter() - begun

        setattr(part, method, timed)

    # --- the learner's share ---------------------------------------------------------------------------------

    def updates_due(self) -> int:
        """Updates to make during this step.

        Once the replay is ready, all updates together are floor(samples_per_step * steps / rows of an update), with the
        steps of all envs since then, those under way included.
        """
        config, counters = self.config, self.counters
        if counters.learning_since is None:
            if not self.replay.ready:
                return 0
            counters.learning_since = self.frames
        steps = self._learning_steps() + self.player.steps
        return int(config.samples_per_step * steps // (config.batch_size * config.unroll)) - self.learner.updates

    def _learning_steps(self) -> int:
        """Steps of all envs since learning began."""
        since = self.counters.learning_since
        return 0 if since is None else (self.frames - since) // self.task.frame_skip

    def record_update(self, metrics: Mapping[str, Tensor]) -> None:
        """Add an update's metrics to the next row, which shows their means. They are fetched with the row."""
        sums = self.counters.sums
        for key, value in metrics.items():
            sums[key] = sums.get(key, 0.0) + value
        self.counters.updates_in_row += 1

    def stop(self) -> None:
        """End at the next step, with a checkpoint."""
        self.stop_asked = True

    # --- the schedule ----------------------------------------------------------------------------------------

    def advance(self, steps: int, epsilon: float) -> None:
        """The envs have made so many steps, all together: count, report, evaluate, save."""
        before = self.frames
        self.counters.frames += self.task.frame_skip * steps
        self._record_episodes()

        def passed(period: int) -> bool:
            return period > 0 and self.frames // period > before // period

        done = self.frames >= self.config.frames
        if passed(self.config.log_frames) or done:
            self._write_row(epsilon)
        if passed(self.config.eval_frames) or (done and self.config.eval_frames):
            self.counters.evaluation_due = True
        self.evaluate_if_due()
        # A checkpoint comes after the rows of its frame. One that failed is tried again with every row.
        if passed(self.config.checkpoint_frames) or (self._save_failed and passed(self.config.log_frames)):
            self.save()

    def _record_episodes(self) -> None:
        """Keep the best episode of training and every 20th, as records of a few KB."""
        for record in self.player.finished():
            counters, record = self.counters, replace(record, finished_at=self.frames)
            counters.episodes += 1
            counters.returns.append(record.score)
            is_best = counters.best_score is None or record.score > counters.best_score
            counters.best_score = record.score if is_best else counters.best_score
            with contextlib.suppress(OSError):  # a full disk costs the record, not the run
                (self.folder / "episodes").mkdir(exist_ok=True)
                if is_best:
                    record.save(self.folder / "episodes" / "best.json")
                if counters.episodes % 20 == 1:
                    record.save(self.folder / "episodes" / "latest.json")

    def _write_row(self, epsilon: float) -> None:
        self._check_finite()
        counters, config = self.counters, self.config
        since = max(time.monotonic() - self._row_time, 1e-9)
        self._count_time()
        samples = self.learner.updates * config.batch_size * config.unroll
        row: dict[str, Any] = {
            "frames": self.frames,
            "steps": self.frames // self.task.frame_skip,
            "updates": self.learner.updates,
            "samples": samples,
            "samples_per_step": samples / max(self._learning_steps(), 1),
            "episodes": counters.episodes,
            "return_mean": float(np.mean(counters.returns)) if counters.returns else None,
            "epsilon": epsilon,
            **{key: total / counters.updates_in_row for key, total in counters.sums.items()},
            "param_norm": float(self.learner.param_norm()),
            "replay_rows": len(self.replay),
            "replay_bytes": self.replay.nbytes,
            "seconds": round(counters.seconds, 3),
            "frames_per_second": round((self.frames - counters.row_frames) / since, 1),
            "steps_per_second": round((self.frames - counters.row_frames) / self.task.frame_skip / since, 1),
            **self.player.metrics(since),
            **{f"time_{name}": round(seconds / since, 4) for name, seconds in self._times.items()},
        }
        counters.sums, counters.updates_in_row, counters.returns, counters.row_frames = {}, 0, [], self.frames
        self._times = dict.fromkeys(self._times, 0.0)
        self._publish(row)
        self._watch_memory()

    def _watch_memory(self) -> None:
        """Warn once if memory will not suffice. Before it runs out, save and raise UsageError."""
        used, full, free = self.replay.nbytes, self.replay.nbytes_when_full, free_memory()
        if used == full or 2 * full - used <= free:  # a checkpoint copies the replay
            return
        rows, full, left = f"--replay-rows {self.config.replay_rows}", f"{full / 1e9:.2f} GB", f"{free / 1e9:.2f} GB"
        sizes = f"{rows}: a full replay needs {full}, and as much again to be saved; {left} are free"
        if not self._memory_warned:
            self.display.say(f"warning: {sizes}; the run will stop before memory runs out")
        self._memory_warned = True
        if free < used + RESERVE:
            self.save()
            raise UsageError(f"{self.folder}: stopped at {self.frames:,} frames. {sizes}. Resume it with more memory")

    def _publish(self, row: dict[str, Any]) -> None:
        self.metrics.write(row)
        self.display.show(row)
        for listen in self.listeners:
            listen(row)

    def _count_time(self) -> None:
        """Add what passed since the last row or save to `seconds`. The monotonic clock: no one can set it back."""
        now = time.monotonic()
        self.counters.seconds += now - self._row_time
        self._row_time = now

    def _check_finite(self) -> None:
        """NonFiniteError if a metric, a weight or the optimiser's memory is no longer a number."""
        self.counters.sums = {name: float(total) for name, total in self.counters.sums.items()}
        for name, total in self.counters.sums.items():
            if not np.isfinite(total):
                raise NonFiniteError(f"update {self.learner.updates}: {name}")
        self.learner.check_finite()

    def evaluate_if_due(self) -> None:
        """Evaluate if the schedule asks for it. A stop puts it off to the resumed run."""
        if not self.counters.evaluation_due:
            return
        self._count_time()
        config, stem = self.config, self.folder / "eval" / f"{self.frames:012d}"
        try:
            result = evaluate(self.learner.acting, config, self.protocol, lambda: self.stop_asked)
        except StoppedError:
            return
        finally:
            self._row_time = time.monotonic()  # evaluation is not training time
        self.counters.evaluation_due = False
        summary = result.summary(config.game)
        about = {"preset": config.preset, "game": config.game, "protocol": self.protocol.name, "frames": self.frames}
        about |= {"epsilon": config.eval_epsilon, "train_seed": config.seed, "eval_seed": config.seed}
        try:
            write_evaluation(stem, result, summary, about)
        except OSError as error:
            self.display.say(f"evaluation at {self.frames:,} frames: its file is not written ({error.strerror})")
        low, high = summary["interval_95"]
        score = {"eval_score": summary["mean"], "eval_low": low, "eval_high": high, "eval_protocol": self.protocol.name}
        self._publish({"frames": self.frames, **score})
        self.display.say(
            f"evaluation at {self.frames:,} frames: {summary['mean']:.1f} "
            f"({spread(summary)}, {summary['episodes']} episodes)"
        )

    # --- saving and going on ---------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint. A full or forbidden disk pauses saving, says so, and training goes on."""
        self._check_finite()
        try:
            self.metrics.sync()  # rows first: a checkpoint must not remember rows that are not on the disk
            if self._saved != (self.frames, self.metrics.position):
                checkpoints.save(self.folder / "checkpoint", self.state())
        except OSError as error:
            if not self._save_failed:
                self.display.say(
                    f"checkpoint at {self.frames:,} frames not saved ({error.strerror or error}); "
                    "training goes on and saving is tried again"
                )
            self._save_failed = True
        else:
            if self._save_failed:
                self.display.say(f"checkpoints are saved again, at {self.frames:,} frames")
            self._save_failed = False
            self._saved = (self.frames, self.metrics.position)

    def finish(self) -> None:
        """Save, whether the run is over or was asked to stop."""
        self.save()
        if self._save_failed:
            raise UsageError(f"{self.folder}: the last checkpoint could not be saved")
        word, more = ("done", " --frames MORE") if self.frames >= self.config.frames else ("stopped", "")
        if not self.learner.updates:
            word = f"{word} without one update: the agent is untrained,"
        path = shlex.quote(str(self.folder))
        self.display.say(f"{word} at {self.frames:,} frames; go on with: {command('train')} --resume {path}{more}")

    @property
    def _acts(self) -> str:
        """Prefix of the weights that act, among those of `Learner.state`."""
        return "acting." if self.config.average else "online."

    def state(self) -> Checkpoint:
        """Everything, for a checkpoint."""
        self._count_time()
        learner = self.learner.state()
        meta = {
            **asdict(self.counters),
            "updates": self.learner.updates,
            "preset": self.config.preset,
            "config": settings.to_dict(self.config),
            "num_actions": len(self.task.action_names),
            "precision": build.precision(self.config),
            "threads": build.threads(self.config),
            "machine": machine(),
            "commit": self.commit,
            "generators": {
                "exploration": self.player.rng.bit_generator.state,
                "replay": self.replay.rng.bit_generator.state,
            },
            "metrics_position": self.metrics.position,
        }
        acts = self._acts
        weights = {k.removeprefix(acts): v for k, v in learner.items() if k.startswith(acts)}
        training = tensor_tree(
            learner={k: v for k, v in learner.items() if not k.startswith(acts)},
            replay=self.replay.state(),
            **self.player.state(),
        )
        return Checkpoint(meta, weights, training)

    def _restore(self, saved: Checkpoint) -> None:
        """Take back what `state` gave. Any error if it does not fit this run."""
        meta, training = saved.meta, saved.training
        self.counters = Counters(**{f.name: meta[f.name] for f in fields(Counters)})
        self.learner.restore({f"{self._acts}{k}": v for k, v in saved.weights.items()} | subtree(training, "learner"))
        self.replay.restore({k: v.numpy() for k, v in subtree(training, "replay").items()})
        self.player.rng.bit_generator.state = meta["generators"]["exploration"]
        self.replay.rng.bit_generator.state = meta["generators"]["replay"]
        self.player.restore(training)
