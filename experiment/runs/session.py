"""A process's work on a run: its folder, its lock, resuming, signals and trackers."""

import contextlib
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from agents.cores import has_state
from agents.learner import NonFiniteError
from envs.families import is_atari
from envs.tapes import repeats_itself
from experiment import build
from experiment.runs.run import Run, UnsavedError
from experiment.runs.trackers import tracking
from experiment.settings.cli import command
from experiment.settings.config import (
    Config,
    UsageError,
    differences,
    file_name,
    flag,
    from_dict,
    load,
    to_yaml,
)
from experiment.store import checkpoint as checkpoints
from experiment.store.files import refused, write_text
from experiment.store.metrics import read_rows
from experiment.store.provenance import exactness_lost, machine

# Settings that may differ after a resume: where a run computes, how far, and how it is stored.
FREE_ON_RESUME = frozenset(
    "runs_dir name frames track checkpoint_frames device threads compile ray".split()
)


@contextlib.contextmanager
def open_run(config: Config, resume: Path | None = None, quiet: bool = False) -> Iterator[Run]:
    """A new run in its own folder, or the run in `resume` from its last checkpoint.

    In the block the folder is locked, signals stop the run, and the trackers follow it. UsageError
    if the run cannot begin, or if it has to stop: without memory or actors it saves a checkpoint
    first, at a number that is no longer finite it does not.
    """
    build.check_config(config)
    name = config.name or f"{config.preset}-{file_name(config.game)}-s{config.seed}"
    folder = resume or config.runs_dir / name
    if resume is None:
        build.check_new(config)
        _make_folder(folder, config)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(checkpoints.lock(folder))
            run = (_resume if resume else Run)(config, folder)
        except BaseException:
            if resume is None:
                shutil.rmtree(folder, ignore_errors=True)  # no run yet: the name stays free
            raise
        stack.callback(run.player.close)
        stack.callback(run.metrics.close)
        stack.enter_context(stop_signals(run.stop))
        stack.enter_context(tracking(folder, config.track))
        run.display.console.quiet = quiet
        announce(run)
        if resume is None and not is_atari(config.game) and not repeats_itself(config.game):
            run.display.say(
                f"warning: {config.game} does not repeat itself from a seed: once stopped, this "
                "run cannot go on, and its episodes cannot be filmed"
            )
        stack.enter_context(run.display)
        try:
            try:
                yield run
            except UnsavedError:
                raise
            except UsageError as error:
                raise UsageError(f"{error}; {run.last_save()}") from None
        except NonFiniteError as error:
            saved = checkpoints.saved_frames(folder)
            last = f"the last good checkpoint, of {saved[0]:,} frames, is kept" if saved else ""
            raise UsageError(
                f"{folder}: stopped after {run.frames:,} frames, not finite at {error}; "
                f"{last or 'there is no checkpoint'}; start a new run with other settings"
            ) from None


def announce(run: Run) -> None:
    """Say game, protocol, network, replay, learning, device and length."""
    c, images = run.config, "frame" if run.config.frame_stack == 1 else "frames"
    core = f"{c.core} {c.core_size}" if has_state(c.core) else c.core
    lines = {
        "run": f"{run.folder}" + f", resumed at {run.frames:,} frames" * (run.frames > 0),
        "game": f"{c.game}, protocol {run.protocol.name}, seed {c.seed}, observe {c.observe}",
        "network": f"{c.preset}: {c.torso} torso, {c.frame_stack} {images}, core {core}, "
        f"{run.parameters:,} parameters, {len(run.task.action_names)} actions",
        "replay": f"{sum(r.capacity * r.lanes for r in run.replay.rings):,} rows, about "
        f"{build.expected_bytes(c)['replay'] / 1e9:.2f} GB when full",
        "learning": f"{c.samples_per_step:g} samples a step, "
        f"{c.batch_size} x {c.unroll} rows an update",
        "device": f"{c.device}, {build.precision(c)}, {build.threads(c)} threads",
        "length": f"{c.frames:,} frames; the first row of metrics tells the speed",
    }
    run.display.say("\n".join(f"{name:12}{text}" for name, text in lines.items()))


def _resume(config: Config, folder: Path) -> Run:
    """The run at its last checkpoint; at its first frame if it was killed before the first one."""
    path, saved = folder / "config.yaml", None
    if not checkpoints.saved_frames(folder) and is_young(folder, config):
        check_same(load(path), config)
        print(f"{folder}: has no checkpoint yet; starts from its first frame, with the same seed")
    else:
        saved = checkpoints.load_latest(folder, training=True, report=print)
        with refused(folder, "resumed from its checkpoint"):
            check_same(from_dict(saved.meta["config"], str(folder)), config)
            now = machine() | {
                "precision": build.precision(config),
                "device": config.device,
                "compile": config.compile,
            }
            before = saved.meta["config"] | saved.meta["machine"] | saved.meta
            for line in exactness_lost(before, now):
                print(f"no longer bit for bit the same run: {line}")
    run = Run(config, folder, saved)
    try:  # so that the next resume has the same settings
        write_text(path, to_yaml(config))
    except OSError as error:
        print(f"{path}: not updated ({error})")
    return run


def is_young(folder: Path, config: Config) -> bool:
    """Whether a run's rows end before its first checkpoint is due: then its seed is enough."""
    with refused(path := folder / "metrics.jsonl", "read"):
        rows = read_rows(path)[0] if path.exists() else []
        due = config.checkpoint_frames + build.task(config).frame_skip * build.steps_of_recv(config)
        return all(row["frames"] < due for row in rows)


def _make_folder(folder: Path, config: Config) -> None:
    """Make the run's folder with its settings, at once. UsageError if it exists or on failure."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        write_text(temporary / "config.yaml", to_yaml(replace(config, name=folder.name)))
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        resume = f"{command('train')} --resume {shlex.quote(str(folder))}"
        raise UsageError(
            f"--name {folder.name}: {folder} exists; go on with it ({resume}) or choose another "
            "--name"
            if folder.exists()
            else f"--runs-dir {folder.parent}: cannot be written ({error.strerror})"
        ) from None


def check_same(stored: Config, new: Config) -> None:
    """Print the changes that a resume allows. UsageError on one that would change the results."""
    changes, free = differences(stored, new), FREE_ON_RESUME - {"name", "runs_dir"}
    if refusals := [line for name, line in changes.items() if name not in FREE_ON_RESUME]:
        raise UsageError(
            f"--resume: would change the meaning of the run: {', '.join(refusals)}; start a new "
            f"run for that ({', '.join(sorted(map(flag, free)))} may change)"
        )
    for name in free & changes.keys():
        print(f"changed     {changes[name]}")


@contextlib.contextmanager
def stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal call `stop`, so that work in progress is saved.

    An ignored signal stays ignored, as with nohup and in a shell's background jobs.
    """
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                stack.callback(signal.signal, number, signal.signal(number, lambda *_: stop()))
        yield
