"""One training run: its folder, its parts, its counters, and when it evaluates, reports and saves."""

import contextlib
import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from agents.learner import NonFiniteError
from envs.emulator import FRAME_SKIP
from envs.episodes import EpisodeRecord
from experiment.store import checkpoint as checkpoints
from experiment.settings import config as settings
from experiment.store import fits
from experiment import build
from experiment.store.checkpoint import Checkpoint, is_count, subtree, tensor_tree
from experiment.settings.config import Config, UsageError
from experiment.runs.display import Display
from experiment.scores.evaluation import StoppedError, evaluate, spread, write_evaluation
from experiment.store.files import check_links, refused, replacing
from experiment.store.provenance import commit, exactness_lost, machine
from experiment.store.metrics import MetricsFile
from experiment.runs.trackers import Tracker, start_tracker

# Settings that may differ when a run goes on: they change where and how it runs, not what it computes.
FREE_ON_RESUME = frozenset({"runs_dir", "name", "frames", "track", "checkpoint_frames", "device", "threads", "compile"})


class Run:
    """The parts of a run and its place in time. `advance` is called once for each step of the envs."""

    def __init__(self, config: Config, preset: str, folder: Path) -> None:
        self.config, self.preset, self.folder, self.commit = config, preset, folder, commit()
        self.protocol = build.check_config(config)
        build.use_threads(config)
        self.envs = build.make_envs(config, self.protocol)
        network = build.make_network(config, self.envs.num_actions)
        self.parameters = sum(p.numel() for p in network.parameters())
        self.replay = build.make_replay(config, network.state_size)
        self.learner = build.make_learner(config, network)
        self.actor = build.make_actor(config, network, config.num_envs, build.rng(config.seed, "exploration"))
        self.epsilon = build.make_epsilon(config)
        self.stop_asked = False
        self.frames = 0
        self.credit = 0.0  # samples owed to the learner
        self.seconds = 0.0  # of training, over all sittings
        self.episodes = 0
        self.evaluations: list[dict[str, Any]] = []
        self._sums: dict[str, float] = {}  # of update metrics since the last row
        self._updates_in_row = 0
        self._returns: list[float] = []  # of episodes since the last row
        self._best_score = -float("inf")
        self.frame = np.zeros(0)
        self.is_first = np.ones(config.num_envs, bool)
        self.prev_reward = np.zeros(config.num_envs, np.float32)
        self.metrics: MetricsFile
        self.tracker: Tracker
        self._row_time, self._row_frames = time.monotonic(), 0
        self._evaluation_due = False
        self._save_failed = False
        self._saved: tuple[int, int] | None = None  # frames and metrics position of the last checkpoint

    # --- the learner's share ---------------------------------------------------------------------------------

    def updates_due(self) -> int:
        """Updates that keep samples per step at the setting, once the replay has its first rows."""
        if not self.replay.ready:
            return 0
        self.credit += self.config.num_envs * self.config.samples_per_step
        due = int(self.credit // (self.config.batch_size * self.config.unroll))
        self.credit -= due * self.config.batch_size * self.config.unroll
        return due

    def record_update(self, metrics: Mapping[str, Tensor]) -> None:
        for key, value in metrics.items():
            self._sums[key] = self._sums.get(key, 0.0) + value.item()
        self._updates_in_row += 1

    def stop(self) -> None:
        """End at the next step, with a checkpoint."""
        self.stop_asked = True

    # --- time passes -----------------------------------------------------------------------------------------

    def advance(
        self, frame: np.ndarray, is_first: np.ndarray, prev_reward: np.ndarray, epsilon: float, display: Display
    ) -> None:
        """One step of all envs has passed: count, report, evaluate, save."""
        before = self.frames
        self.frame, self.is_first, self.prev_reward = frame, is_first, prev_reward
        self.frames += FRAME_SKIP * self.config.num_envs
        for record in self.envs.finished():
            self.episodes += 1
            self._returns.append(record.score)
            self._keep(record)

        def passed(period: int) -> bool:
            return period > 0 and self.frames // period > before // period

        done = self.frames >= self.config.frames
        if passed(self.config.log_frames) or done:
            self._write_row(epsilon, display)
        if passed(self.config.eval_frames) or (done and self.config.eval_frames):
            self._evaluation_due = True
        self.evaluate_if_due(display)
        # A checkpoint comes after the rows of its frame. One that failed is tried again with every row.
        if passed(self.config.checkpoint_frames) or (self._save_failed and passed(self.config.log_frames)):
            self.save(display)

    def _keep(self, record: EpisodeRecord) -> None:
        """The best episode of training and the latest ones, as records of a few KB."""
        record = replace(record, finished_at=self.frames)
        with contextlib.suppress(OSError):  # a full disk costs the record, not the run
            (self.folder / "episodes").mkdir(exist_ok=True)
            if record.score > self._best_score:
                self._best_score = record.score
                record.save(self.folder / "episodes" / "best.json")
            if self.episodes % 20 == 1:
                record.save(self.folder / "episodes" / "latest.json")

    def _write_row(self, epsilon: float, display: Display) -> None:
        self._check_finite()
        since = max(time.monotonic() - self._row_time, 1e-9)
        self._count_time()
        row: dict[str, Any] = {
            "frames": self.frames,
            "steps": self.frames // FRAME_SKIP,
            "updates": self.learner.updates,
            "samples": self.learner.updates * self.config.batch_size * self.config.unroll,
            "episodes": self.episodes,
            "return_mean": float(np.mean(self._returns)) if self._returns else None,
            "epsilon": epsilon,
            "replay_rows": len(self.replay),
            **{key: total / self._updates_in_row for key, total in self._sums.items()},
            "seconds": round(self.seconds, 3),
            "frames_per_second": round((self.frames - self._row_frames) / since, 1),
        }
        self._sums, self._updates_in_row, self._returns, self._row_frames = {}, 0, [], self.frames
        self.metrics.write(row)
        display.show(row)

    def _count_time(self) -> None:
        """Add what passed since the last row or save to `seconds`. The monotonic clock: no one can set it back."""
        now = time.monotonic()
        self.seconds += now - self._row_time
        self._row_time = now

    def _check_finite(self) -> None:
        """NonFiniteError if a weight or the optimiser's memory is no longer a number."""
        self.learner.check_finite()
        if not np.isfinite([*self._sums.values()]).all():
            raise NonFiniteError(f"update {self.learner.updates}: {self._sums}")

    def evaluate_if_due(self, display: Display) -> None:
        """Evaluate where the run has come to a frame that asks for it. A stop puts it off to the resumed run."""
        if not self._evaluation_due:
            return
        self._count_time()
        config = self.config
        try:
            result = evaluate(self.learner.online, config, self.protocol, lambda: self.stop_asked)
        except StoppedError:
            return
        finally:
            self._row_time = time.monotonic()  # evaluation is not training time
        self._evaluation_due = False
        summary = result.summary(config.game)
        try:
            write_evaluation(self.folder / "eval" / f"{self.frames:012d}", result, summary, self.describe_evaluation())
        except OSError as error:
            display.say(f"evaluation at {self.frames:,} frames: its file is not written ({error.strerror})")
        low, high = summary["interval_95"]
        self.metrics.write({"frames": self.frames, "eval_score": summary["mean"], "eval_low": low, "eval_high": high})
        display.show({"eval_score": summary["mean"]})
        display.say(
            f"evaluation at {self.frames:,} frames: {summary['mean']:.1f} "
            f"({spread(summary)}, {summary['episodes']} episodes)"
        )

    def describe_evaluation(self) -> dict[str, Any]:
        return {
            "preset": self.preset,
            "game": self.config.game,
            "protocol": self.config.protocol,
            "frames": self.frames,
            "epsilon": self.config.eval_epsilon,
            "train_seed": self.config.seed,
            "eval_seed": self.config.seed,
        }

    # --- saving and going on ---------------------------------------------------------------------------------

    def save(self, display: Display) -> None:
        """Write a checkpoint. A full or forbidden disk pauses saving, says so, and training goes on."""
        self._check_finite()
        try:
            self.metrics.sync()  # rows first: a checkpoint must not remember rows that are not on the disk
            if self._saved != (self.frames, self.metrics.position):
                checkpoints.save(self.folder / "checkpoint", self.state())
        except OSError as error:
            if not self._save_failed:
                display.say(
                    f"checkpoint at {self.frames:,} frames not saved ({error.strerror or error}); "
                    "training goes on and saving is tried again"
                )
            self._save_failed = True
        else:
            if self._save_failed:
                display.say(f"checkpoints are saved again, at {self.frames:,} frames")
            self._save_failed = False
            self._saved = (self.frames, self.metrics.position)

    def state(self) -> Checkpoint:
        """Everything, for a checkpoint."""
        self._count_time()
        learner = self.learner.state()
        meta = {
            "frames": self.frames,
            "preset": self.preset,
            "config": settings.to_dict(self.config),
            "num_actions": self.envs.num_actions,
            "precision": build.precision(self.config),
            "threads": build.threads(self.config),
            "machine": machine(),
            "commit": self.commit,
            "generators": {
                "exploration": self.actor.rng.bit_generator.state,
                "replay": self.replay.rng.bit_generator.state,
            },
            "metrics_position": self.metrics.position,
            "credit": self.credit,
            "seconds": self.seconds,
            "episodes": self.episodes,
            "sums": self._sums,
            "updates_in_row": self._updates_in_row,
            "returns": self._returns,
            "best_score": self._best_score if self._best_score > -float("inf") else None,
            "evaluation_due": self._evaluation_due,
        }
        weights = {k.removeprefix("online."): v for k, v in learner.items() if k.startswith("online.")}
        training = tensor_tree(
            learner={k: v for k, v in learner.items() if not k.startswith("online.")},
            actor=self.actor.state(),
            replay=self.replay.state(),
            envs=self.envs.state(),
            loop={"is_first": self.is_first, "prev_reward": self.prev_reward},
        )
        return Checkpoint(meta, weights, training)

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint; the envs replay their tapes. UsageError if it does not fit this run."""
        meta, training = saved.meta, saved.training
        try:
            fits.check_meta(meta, self.config)
            fits.check_arrays(training, self.config, self.envs.num_actions, meta["frames"])
            learner = {f"online.{k}": v for k, v in saved.weights.items()} | subtree(training, "learner")
            fits.check_learner(self.learner, learner)
            self.learner.restore(learner)
            self.actor.restore(subtree(training, "actor"))
            self.replay.restore({k: v.numpy() for k, v in subtree(training, "replay").items()})
            loop = subtree(training, "loop")
            self.is_first, self.prev_reward = (loop["is_first"].numpy().copy(), loop["prev_reward"].numpy().copy())
            self.frame = self.envs.restore({k: v.numpy() for k, v in subtree(training, "envs").items()})
            self.actor.rng.bit_generator.state = meta["generators"]["exploration"]
            self.replay.rng.bit_generator.state = meta["generators"]["replay"]
            self._row_frames = self.frames = int(meta["frames"])
            self.credit = float(meta["credit"])
            self.seconds, self.episodes = float(meta["seconds"]), int(meta["episodes"])
            self._sums, self._updates_in_row = dict(meta["sums"]), int(meta["updates_in_row"])
            self._returns = [float(x) for x in meta["returns"]]
            best = meta["best_score"]
            self._best_score = -float("inf") if best is None else float(best)
            self._evaluation_due = meta.get("evaluation_due", False)
            self.metrics = _open_metrics(self.folder / "metrics.jsonl", meta["metrics_position"])
            self._saved = (self.frames, self.metrics.position)
            self._row_time = time.monotonic()
        except UsageError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            reason += " is missing" if isinstance(error, KeyError) else ""
            raise UsageError(f"{self.folder}: the checkpoint does not fit this run ({reason})") from None

    # --- what the user sees ----------------------------------------------------------------------------------

    def display(self) -> Display:
        return Display(f"{self.preset} on {self.config.game}", self.config.frames)

    def finish(self, display: Display) -> None:
        """Save, whether the run is over or was asked to stop."""
        self.save(display)
        if self._save_failed:
            raise UsageError(f"{self.folder}: the last checkpoint could not be saved")
        word, more = ("done", " --frames MORE") if self.frames >= self.config.frames else ("stopped", "")
        display.say(f"{word} at {self.frames:,} frames; go on with: python train.py --resume {self.folder}{more}")


def _open_metrics(path: Path, position: int) -> MetricsFile:
    """metrics.jsonl as a checkpoint remembers it, cut behind the row at `position`. UsageError if that row is gone."""
    with refused(path, "opened"):
        if position:
            with path.open("rb") as file:
                file.seek(position - 1)
                if file.read(1) != b"\n":
                    raise UsageError(
                        f"{path}: cut or changed since the checkpoint, which expects a row up to byte {position}"
                    )
        return MetricsFile(path, position)


@contextlib.contextmanager
def open_run(config: Config, preset: str, resume: Path | None) -> Iterator[Run]:
    """A new run in its own folder, or an old one from its last checkpoint; locked, signals caught, tracker on."""
    build.check_config(config)
    folder = resume or config.runs_dir / (config.name or f"{preset}-{config.game}-s{config.seed}")
    if resume is None:
        build.check_new(config)
        _make_folder(folder, config, preset)
    with contextlib.ExitStack() as stack:
        stack.enter_context(checkpoints.lock(folder))
        try:
            run = _begin(config, preset, folder) if resume is None else _go_on(config, preset, folder)
        except Exception:
            if resume is None:
                shutil.rmtree(folder, ignore_errors=True)  # nothing has begun: the name stays free
            raise
        except KeyboardInterrupt:
            raise UsageError(f"{folder}: interrupted before the first step; nothing is lost") from None
        stack.callback(run.envs.close)
        stack.callback(run.metrics.close)
        stack.enter_context(stop_signals(run.stop))
        run.tracker = start_tracker(folder, config.track)
        stack.callback(run.tracker.finish)
        try:
            yield run
        except NonFiniteError as error:
            saved = checkpoints.saved_frames(folder)
            kept = (
                f"the last good checkpoint, of {saved[0]:,} frames, is kept" if saved else "there is no checkpoint yet"
            )
            raise UsageError(
                f"{folder}: stopped at {run.frames:,} frames, not finite at {error}; {kept}; "
                "going on would repeat this: start a new run with other settings"
            ) from None


def _begin(config: Config, preset: str, folder: Path) -> Run:
    """A run at its first frame. Rows that an earlier, killed start of the same run left are written again."""
    run = Run(config, preset, folder)
    run.frame = run.envs.reset()
    run.metrics = _open_metrics(folder / "metrics.jsonl", 0)
    return run


def _go_on(config: Config, preset: str, folder: Path) -> Run:
    """The run as its last checkpoint has it; a run that was killed before its first one begins again."""
    check_links(folder)
    if not checkpoints.saved_frames(folder) and _is_young(folder, config):
        stored, _ = settings.load(folder / "config.yaml")
        check_same(stored, config)
        print(f"{folder}: killed before its first checkpoint; begins again, with the same seed")
        return _begin(config, preset, folder)
    saved = checkpoints.load_latest(folder, training=True, report=print)
    stored, _ = settings.from_dict(saved.meta["config"], str(folder))
    check_same(stored, config)
    fits.check_size(config, saved, str(folder))
    for line in exactness_lost(saved.meta, config):
        print(f"no longer bit for bit the same run: {line}")
    run = Run(config, preset, folder)
    try:
        run.restore(saved)
    except BaseException:
        run.envs.close()
        raise
    _keep_settings(config, preset, folder)
    return run


def _is_young(folder: Path, config: Config) -> bool:
    """Whether the rows of a run end before its first checkpoint was due: then nothing but the seed is needed."""
    last = 0
    with contextlib.suppress(OSError), (folder / "metrics.jsonl").open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 10_000, 0))
        for line in file.read(10_000).splitlines():
            with contextlib.suppress(ValueError, AttributeError, RecursionError):
                frames = json.loads(line).get("frames")
                last = max(last, frames if is_count(frames) else 0)
    return last < config.checkpoint_frames + FRAME_SKIP * config.num_envs


def _make_folder(folder: Path, config: Config, preset: str) -> None:
    """The run's folder with its settings: whole or not there. UsageError if it exists or cannot be made."""
    taken = UsageError(
        f"--name {folder.name}: {folder} exists; go on with it (python train.py --resume {folder}) "
        "or choose another --name"
    )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            raise taken
        temporary.mkdir(exist_ok=True)
        (temporary / "episodes").mkdir(exist_ok=True)
        settings.save(replace(config, name=folder.name), preset, temporary / "config.yaml")
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno == errno.ENOTEMPTY:  # another process was faster
            raise taken from None
        raise UsageError(f"--runs-dir {folder.parent}: cannot be written ({error.strerror})") from None


def _keep_settings(config: Config, preset: str, folder: Path) -> None:
    """config.yaml follows what was changed on resume, so that the next resume need not be told again."""
    path = folder / "config.yaml"
    try:
        if path.exists() and settings.load(path)[0] == config:
            return
        with replacing(path) as temporary:
            settings.save(config, preset, temporary)
    except (OSError, UsageError) as error:
        print(f"{path}: not updated ({error})")


def check_same(stored: Config, wanted: Config) -> None:
    """Say what differs. UsageError if the run's meaning would change."""
    old, new = settings.to_dict(stored), settings.to_dict(wanted)
    changes = {k: f"{settings.flag(k)} {old[k]} -> {new[k]}" for k in old if old[k] != new[k]}
    changed = [line for k, line in changes.items() if k not in FREE_ON_RESUME]
    if changed:
        free = ", ".join(sorted(map(settings.flag, FREE_ON_RESUME - {"name", "runs_dir"})))
        lines = ", ".join(changed)
        raise UsageError(
            f"--resume: would change what the run means: {lines}; start a new run for that ({free} may change)"
        )
    for k in FREE_ON_RESUME & set(changes) - {"name", "runs_dir"}:
        print(f"changed     {changes[k]}")


@contextlib.contextmanager
def stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal call `stop`, so that work in progress is saved.

    A signal that whoever started us had ignored stays ignored: nohup, or a shell's background job.
    """
    caught = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    old = {number: signal.signal(number, lambda *_: stop()) for number in caught}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
