"""One training run: its parts, its counters, its schedule of rows, evaluations, checkpoints."""

import contextlib
import shlex
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from experiment import build
from experiment.runs.actors import Players
from experiment.runs.console import Display
from experiment.runs.meter import Counters, Meter
from experiment.runs.player import Player
from experiment.scores.evaluation import evaluate, spread, write_evaluation
from experiment.scores.progress import so_far
from experiment.settings.cli import command
from experiment.settings.config import Config, UsageError, to_dict
from experiment.settings.resources import free_memory
from experiment.store import checkpoint as checkpoints
from experiment.store.files import refused
from experiment.store.metrics import MetricsFile
from experiment.store.provenance import commit, machine


class UnsavedError(UsageError):
    """The last checkpoint could not be saved."""


RESERVE = 2**28  # bytes that a run may allocate between two rows of metrics


class Run:
    """The parts and counters of a run. Call `advance` after each step of the envs."""

    def __init__(
        self, config: Config, folder: Path, saved: checkpoints.Checkpoint | None = None
    ) -> None:
        """A run at its first frame, or at a checkpoint, to which the envs play their tapes again.

        UsageError if the checkpoint does not fit the settings; metrics.jsonl is then unchanged.
        """
        self.config, self.folder, self.commit = config, folder, commit()
        self.protocol, self.task = build.rules(config), build.task(config)
        build.use_threads(config)
        network = build.make_network(config, len(self.task.action_names))
        self.parameters = sum(p.numel() for p in network.parameters())
        self.learner = build.make_learner(config, network)
        self.replay = build.make_replay(config, network.state_size)
        self.display = Display(f"{config.preset} on {config.game}", config.frames)
        self.player: Any = (
            Players(config, self.learner, self.display.say)
            if config.actors
            else Player(config, self.learner.acting)
        )
        self.epsilon = build.make_epsilon(config)
        self.counters = Counters()
        # `_trouble`: why the last checkpoint could not be saved.
        self.stop_asked, self._memory_warned, self._trouble = False, False, ""
        # Callables that get every row of metrics.
        self.listeners: list[Callable[[dict[str, Any]], object]] = []
        try:
            if saved:
                with refused(folder, "resumed from its checkpoint"):
                    self._restore(saved)
            else:
                with refused(config.game, "started"):
                    self.player.reset()
            with refused(folder, "written"):
                self.metrics = MetricsFile(
                    folder / "metrics.jsonl", saved.meta["metrics_position"] if saved else 0
                )
        except BaseException:
            self.player.close()
            raise
        # Frames and metrics position of the last checkpoint.
        self._saved = (self.frames, self.metrics.position) if saved else None
        self.meter = Meter(
            config, self.counters, self.task.frame_skip, self.player, self.replay, self.learner
        )

    @property
    def frames(self) -> int:
        return self.counters.frames

    # --- updates ----------------------------------------------------------------------------------

    def updates_due(self) -> int:
        """The number of updates to make during this step.

        All updates so far are floor(samples_per_step * steps / rows of an update), where `steps`
        are those of all envs since the replay became ready, with the step under way.
        """
        if not self.replay.ready:
            return 0
        self.counters.learning_since = self.counters.learning_since or self.frames
        steps = self.counters.learning_frames // self.task.frame_skip + self.player.steps
        samples = self.config.samples_per_step * steps
        return int(samples // (self.config.batch_size * self.config.unroll)) - self.learner.updates

    def stop(self) -> None:
        """Let the run end at the next step, with a checkpoint."""
        self.stop_asked = True

    # --- the schedule -----------------------------------------------------------------------------

    def advance(self, steps: int, epsilon: float) -> None:
        """After `steps` steps of all envs together: count, report, evaluate and save as is due."""
        before = self.frames
        self.counters.frames += self.task.frame_skip * steps
        self._record_episodes()

        def passed(period: int) -> bool:
            return period > 0 and self.frames // period > before // period

        done = self.frames >= self.config.frames
        if passed(self.config.log_frames) or done:
            self._publish(self.meter.row(epsilon))
        self.counters.evaluation_due |= passed(self.config.eval_frames) or (
            done and self.config.eval_frames > 0
        )
        if passed(self.config.log_frames) and not done:
            self._watch_memory()
        self.evaluate_if_due()
        # After the rows of its frame. After a failure every row is followed by another attempt.
        if passed(self.config.checkpoint_frames) or (
            self._trouble and passed(self.config.log_frames)
        ):
            self.save()

    def _record_episodes(self) -> None:
        """Write the best episode of training and every 20th, as records of a few KB."""
        counters, folder = self.counters, self.folder / "episodes"
        for record in self.player.finished():
            counters.episodes += 1
            counters.returns.append(record.score)
            record = replace(record, finished_at=self.frames)
            with contextlib.suppress(OSError):  # a full disk costs the record, not the run
                folder.mkdir(exist_ok=True)
                if counters.best_score is None or record.score > counters.best_score:
                    record.save(folder / "best.json")
                    counters.best_score = record.score
                if counters.episodes % 20 == 1:
                    record.save(folder / "latest.json")

    def _watch_memory(self) -> None:
        """Warn once if memory will not suffice. UsageError before it runs out."""
        used, full, free = self.replay.nbytes, self.replay.nbytes_when_full, free_memory()
        if used == full or 2 * full - used <= free:  # a checkpoint copies the replay
            return
        sizes = (
            f"--replay-rows {self.config.replay_rows}: a full replay needs {full / 1e9:.2f} GB, "
            f"and as much again to be saved; {free / 1e9:.2f} GB are free"
        )
        if not self._memory_warned:
            self.display.say(f"warning: {sizes}; the run will stop before memory runs out")
        self._memory_warned = True
        if free < used + RESERVE:
            raise UsageError(f"{sizes}; the run needs more memory")

    def _publish(self, row: dict[str, Any]) -> None:
        for listen in (self.metrics.write, self.display.show, *self.listeners):
            listen(row)

    def evaluate_if_due(self) -> None:
        """Evaluate if that is due. After a stop it stays due, for the resumed run."""
        if not self.counters.evaluation_due:
            return
        self.meter.count_time()
        config = self.config

        def report(scores: list[float], steps: int) -> None:
            done = f"{len(scores)} of {config.eval_episodes} episodes  {so_far(scores, steps)}"
            self.display.show({"evaluated": done})

        result = evaluate(
            self.learner.acting, config, self.protocol, lambda: self.stop_asked, report=report
        )
        self.meter.restart_clock()  # evaluation is not training time
        if len(result.scores) < config.eval_episodes:
            return
        self.counters.evaluation_due = False
        summary, title = result.summary(config.game), f"evaluation at {self.frames:,} frames"
        try:
            write_evaluation(
                self.folder / "eval" / f"{self.frames:012d}",
                result,
                summary,
                about={
                    "preset": config.preset,
                    "game": config.game,
                    "protocol": self.protocol.name,
                    "frames": self.frames,
                    "epsilon": config.eval_epsilon,
                    "train_seed": config.seed,
                    "eval_seed": config.seed,
                },
            )
        except OSError as error:
            self.display.say(f"{title}: its file is not written ({error.strerror})")
        self._publish(
            {
                "frames": self.frames,
                "eval_score": summary["mean"],
                "eval_low": summary["interval_95"][0],
                "eval_high": summary["interval_95"][1],
                "eval_protocol": self.protocol.name,
            }
        )
        self.display.say(
            f"{title}: {summary['mean']:.1f} ({spread(summary)}, {summary['episodes']} episodes)"
        )

    # --- saving and resuming ----------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint. If the disk is full or forbidden, training goes on with a message."""
        self.meter.fetch_and_check()
        before, self._trouble = self._trouble, ""
        try:
            # Rows first: a checkpoint must not count rows that are not on the disk.
            self.metrics.sync()
            if self._saved != (self.frames, self.metrics.position):
                checkpoints.save(self.folder / "checkpoint", self.state())
            self._saved = (self.frames, self.metrics.position)
        except OSError as error:
            self._trouble = (
                f"checkpoint at {self.frames:,} frames not saved ({error.strerror or error}); "
                "training goes on and saving is tried again"
            )
        if bool(self._trouble) != bool(before):
            self.display.say(
                self._trouble or f"checkpoints are saved again, at {self.frames:,} frames"
            )

    def finish(self) -> None:
        """Save at the end or after a stop, and print the command that goes on with the run.

        UnsavedError if the checkpoint cannot be written.
        """
        end = self.last_save()
        if self._trouble:
            raise UnsavedError(f"{self.folder}: {end}")
        self.display.say(end)

    def last_save(self) -> str:
        """Save; the result in words, with the command that goes on with the run."""
        self.save()
        if self._trouble:
            return "the last checkpoint could not be saved"
        done = self.frames >= self.config.frames
        untrained = "" if self.learner.updates else " without one update: the agent is untrained,"
        return (
            f"{'done' if done else 'stopped'}{untrained} at {self.frames:,} frames; go on with: "
            f"{command('train')} --resume {shlex.quote(str(self.folder))}{' --frames MORE' * done}"
        )

    def state(self) -> checkpoints.Checkpoint:
        """The whole state of the run, for a checkpoint."""
        self.meter.count_time()
        return checkpoints.Checkpoint(
            meta={
                **asdict(self.counters),
                "updates": self.learner.updates,
                "preset": self.config.preset,
                "config": to_dict(self.config),
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
            },
            weights=self.learner.acting.state_dict(),
            training=checkpoints.tensor_tree(
                learner=self.learner.state(), replay=self.replay.state(), **self.player.state()
            ),
        )

    def _restore(self, saved: checkpoints.Checkpoint) -> None:
        """Restore what `state` returned. Any error if it does not fit this run."""
        meta, subtree = saved.meta, partial(checkpoints.subtree, saved.training)
        self.counters = Counters(**{f.name: meta[f.name] for f in fields(Counters)})
        self.learner.restore(subtree("learner"))
        self.replay.restore({k: v.numpy() for k, v in subtree("replay").items()})
        self.player.rng.bit_generator.state = meta["generators"]["exploration"]
        self.replay.rng.bit_generator.state = meta["generators"]["replay"]
        self.player.restore(saved.training)
