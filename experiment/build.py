"""From settings to the parts of a run, each with its own random stream."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import psutil
import torch

from agents.actor import Actor
from agents.exploration import ActorEpsilon, LinearEpsilon
from agents.learner import Learner, LearnerSettings
from agents.networks import NetworkSettings, QNetwork
from agents.replay import Replay, ReplaySettings, ring_times
from envs import screens
from envs.emulator import check_game
from envs.protocols import Protocol, protocol
from envs.screens import Observe
from envs.tapes import Envs
from experiment.settings.config import Config, UsageError, check

# The independent random streams of a run, all from its one seed. Envs derives its own from (seed, stream).
STREAMS = {"weights": 10, "replay": 11, "exploration": 12, "evaluation": 13}
TRAIN_ENVS, EVAL_ENVS = 0, 1
T = TypeVar("T")


def rng(seed: int, stream: str) -> np.random.Generator:
    """The named stream of a run."""
    return np.random.default_rng(np.random.SeedSequence([seed, STREAMS[stream]]))


def observe(config: Config) -> Observe:
    """What the agent sees. ValueError on an unknown kind or a parameter out of range."""
    parameter = config.observe_parameter if config.hide_probability is None else config.hide_probability
    return screens.observe(config.observe, parameter)


def cores() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(config: Config) -> int:
    return config.threads or cores()


def use_threads(config: Config) -> None:
    """Let torch compute with the run's number of threads."""
    torch.set_num_threads(threads(config))


def has_bf16(device: str) -> bool:
    """Whether bf16 matrix products run in hardware."""
    if device.startswith("cuda"):
        return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
    capability = getattr(torch.cpu, "get_capabilities", dict)()  # new in torch 2.13: fp32 before
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16") or capability.get("bf16"))


def precision(config: Config) -> str:
    """bf16 or fp32 on this machine. A run that was begun in bf16 goes on in fp32 where the hardware lacks it."""
    return "bf16" if config.precision != "fp32" and has_bf16(config.device) else "fp32"


def autocast(config: Config) -> Callable[[], torch.autocast]:
    kind = config.device.partition(":")[0]
    return partial(torch.autocast, kind, torch.bfloat16, enabled=precision(config) == "bf16")


def check_names(config: Config) -> Protocol:
    """Game, protocol and observation against what is there. UsageError on the first that is wrong."""
    try:
        chosen = protocol(config.protocol)
    except ValueError as error:
        raise UsageError(f"--protocol {error}") from None
    try:
        check_game(config.game)
    except ValueError as error:
        raise UsageError(f"--game {error}") from None
    try:
        observe(config)
    except ValueError as error:
        raise UsageError(f"--observe {error}") from None
    return chosen


def check_machine(config: Config) -> None:
    """UsageError if this machine has not the cores or the device."""
    if config.threads > cores():
        raise UsageError(f"--threads {config.threads}: this process may use {cores()} cores")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {config.device}: no CUDA device on this machine; use cpu")


def check_new(config: Config) -> None:
    """UsageError if a new run could not be what its settings say; one that was begun elsewhere may go on otherwise."""
    if config.precision == "bf16" and not has_bf16(config.device):
        raise UsageError("--precision bf16: this machine computes no bf16 products in hardware; use auto or fp32")


def check_config(config: Config) -> Protocol:
    """Every setting, by itself and against this machine. UsageError on the first that is wrong."""
    check(config)
    chosen = check_names(config)
    check_machine(config)
    if config.start_rows > config.replay_rows:
        raise UsageError(f"--start-rows {config.start_rows}: more than --replay-rows {config.replay_rows}")
    replay_shape(config)
    parameters = sum(p.numel() for p in blueprint(config).parameters())
    weights = parameters * 20 / 1e9  # weights, target, gradient, two moments: 4 bytes each
    if weights > psutil.virtual_memory().available / 1e9:
        raise UsageError(
            f"--core-size {config.core_size} --hidden {config.hidden} --head-hidden {config.head_hidden}: "
            f"the network needs about {weights:.1f} GB"
        )
    need, free = replay_gigabytes(config), psutil.virtual_memory().available / 1e9
    if need > free:
        raise UsageError(
            f"--replay-rows {config.replay_rows}: needs about {need:.1f} GB of memory, {free:.1f} GB are free"
        )
    # Frames as bytes and as numbers, and the activations of the first convolution, both ways.
    rows = config.batch_size * (config.burn_in + config.unroll + config.n_step) * config.frame_stack
    if (batch := rows * 7056 * 20 / 1e9) > free:
        raise UsageError(
            f"--batch-size {config.batch_size}: an update needs about {batch:.0f} GB, {free:.1f} GB are free"
        )
    return chosen


# Compressed bytes of one frame: measured 60 (Pong) to 900 (busy screens) by benchmarks/replay_memory.py.
FRAME_BYTES = 600


def replay_gigabytes(config: Config) -> float:
    """Estimated memory of a full replay."""
    stored = blueprint(config).state_size if config.update == "stored" else 0
    row = FRAME_BYTES + 40 + 7 + 2 * stored / config.sequence_stride
    return config.replay_rows * row / 1e9 + config.num_envs * 8 * 7056 / 1e9


def make_envs(config: Config, chosen: Protocol, stream: int = TRAIN_ENVS, **changes: Any) -> Envs:
    wanted = {"num_envs": config.num_envs, "seed": config.seed, "observe": observe(config)} | changes
    return Envs(config.game, protocol=chosen.name, threads=threads(config), stream=stream, **wanted)


def part(settings: type[T], config: Config) -> T:
    """The settings of one part of a run."""
    return settings(**{name: getattr(config, name) for name in settings.__dataclass_fields__})  # type: ignore[attr-defined]


def make_network(config: Config, num_actions: int) -> QNetwork:
    """The network with its initial weights, from their own stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng(config.seed, "weights").integers(2**63)))
        return QNetwork(num_actions, part(NetworkSettings, config))


def blueprint(config: Config, num_actions: int = 18) -> QNetwork:
    """The network's shapes, without memory. UsageError if there can be no such network."""
    try:
        with torch.device("meta"):
            return make_network(config, num_actions)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise UsageError("no network can be built from its settings: too large") from None


def make_learner(config: Config, network: QNetwork) -> Learner:
    learner = Learner(network, part(LearnerSettings, config), autocast(config), config.device)
    if config.compile:
        for net in (learner.online, learner.target):
            net.outputs = torch.compile(net.outputs)  # what both acting and learning call
    return learner


def replay_shape(config: Config) -> tuple[int, int]:
    """Times and lanes of the replay. UsageError if it is too small for a sequence."""
    try:
        return ring_times(config.replay_rows, config.num_envs, *_lengths(config)), config.num_envs
    except (ValueError, OverflowError) as error:
        raise UsageError(str(error)) from None


def make_replay(config: Config, state_size: int) -> Replay:
    length, history, _ = _lengths(config)
    settings, generator = part(ReplaySettings, config), rng(config.seed, "replay")
    return Replay(settings, config.num_envs, length=length, history=history, state_size=state_size, rng=generator)


def _lengths(config: Config) -> tuple[int, int, int]:
    """Rows of a sequence, rows of history before it, rows between starts."""
    return config.burn_in + config.unroll + config.n_step, config.frame_stack - 1, config.sequence_stride


def make_actor(config: Config, network: QNetwork, num_envs: int, generator: np.random.Generator) -> Actor:
    return Actor(network, num_envs, generator, autocast(config))


def make_epsilon(config: Config) -> LinearEpsilon | ActorEpsilon:
    if config.exploration == "per-actor":
        return ActorEpsilon()
    return LinearEpsilon(config.epsilon_start, config.epsilon_final, config.epsilon_frames)
