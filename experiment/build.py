"""From settings to the parts of a run, each with its own random stream."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import lz4.block
import numpy as np
import torch

from agents import workers
from agents.actor import Actor
from agents.exploration import actor_epsilon, linear_epsilon
from agents.learner import Learner
from agents.networks import QNetwork
from agents.replay import Replay
from agents.ring import BLOCK, Ring, ring_times
from envs import families
from envs.protocols import Protocol
from envs.screens import make_observer, parse_screen
from envs.tapes import Envs
from experiment.settings.config import Config, UsageError, flag
from experiment.settings.resources import cores, free_memory

# The independent random streams of a run, all from its one seed. Envs derives its own from (seed,
# stream).
STREAMS = {"weights": 10, "replay": 11, "exploration": 12, "evaluation": 13}
TRAIN_ENVS, EVAL_ENVS = 0, 1


def rng(seed: int, stream: str) -> np.random.Generator:
    """The named stream of a run."""
    return np.random.default_rng(np.random.SeedSequence([seed, STREAMS[stream]]))


def rules(config: Config) -> Protocol:
    """The protocol that the environments are played under."""
    return families.rules(config.game, config.protocol)


def task(config: Config) -> families.Task:
    """Size of the images, frames for each action, names of the actions."""
    return families.task(config.game, rules(config))


def threads(config: Config) -> int:
    return config.threads or cores()


def use_threads(config: Config) -> None:
    """Let this process compute with the run's number of threads."""
    workers.use_threads(threads(config))


def has_bf16(device: str) -> bool:
    """Whether bf16 matrix products run in hardware."""
    if device.startswith("cuda"):
        return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
    capability = getattr(torch.cpu, "get_capabilities", dict)()  # new in torch 2.13: fp32 before
    return bool(
        capability.get("avx512_bf16") or capability.get("amx_bf16") or capability.get("bf16")
    )


def precision(config: Config) -> str:
    """bf16 or fp32 on this machine. A run that was begun in bf16 goes on in fp32 where the hardware
    lacks it."""
    return "bf16" if config.precision != "fp32" and has_bf16(config.device) else "fp32"


def autocast(config: Config) -> Callable[[], torch.autocast]:
    return partial(
        torch.autocast,
        torch.device(config.device).type,
        torch.bfloat16,
        enabled=precision(config) == "bf16",
    )


# --- checks before a start ------------------------------------------------------------------------


def check_machine(config: Config) -> None:
    """UsageError if this machine has not the cores or the device."""
    if config.threads > cores():
        raise UsageError(f"--threads {config.threads}: this process may use {cores()} cores")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {config.device}: no CUDA device on this machine; use cpu")


def check_config(config: Config) -> None:
    """UsageError if the run cannot go on here: the cores, the device, the replay's size, its
    length, the memory."""
    check_machine(config)
    times, lanes = replay_shape(config)
    if config.start_rows > times * lanes:
        raise UsageError(
            f"--start-rows {config.start_rows}: the replay holds only {times * lanes} rows"
        )
    if config.frames < (least := first_update(config)):
        raise UsageError(
            f"--frames {config.frames}: the first update comes at frame {least}, after "
            "--start-rows "
            f"{config.start_rows}; train longer, or start earlier"
        )
    parts, free = expected_bytes(config), free_memory()
    if sum(parts.values()) > free:
        part = max(parts, key=parts.__getitem__)
        flags = " ".join(f"{flag(name)} {getattr(config, name)}" for name in SIZED_BY[part])
        raise UsageError(
            f"{flags}: needs about {parts[part] / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are "
            "free"
        )


def check_new(config: Config) -> None:
    """UsageError if a new run could not be what its settings say."""
    if config.precision == "bf16" and not has_bf16(config.device):
        raise UsageError(
            "--precision bf16: this machine computes no bf16 products in hardware; use auto or fp32"
        )


def first_update(config: Config) -> int:
    """The least frames of a run that makes an update."""
    length, history, stride = lengths(config)
    gathered = math.ceil(config.start_rows / config.num_envs)
    # The first sequence is complete.
    drawable = math.ceil(max(history, 1) / stride) * stride + length
    waits = (
        math.ceil(config.batch_size * config.unroll / (config.num_envs * config.samples_per_step))
        - 1
    )
    return task(config).frame_skip * config.num_envs * (max(gathered, drawable) + waits) + 1


# --- memory ---------------------------------------------------------------------------------------

# Of a compressed frame; benchmarks/replay_memory.py: 60 (Pong) to 900 (busy screens).
FRAME_BYTES = 600
ROW_BYTES = 8 + 6  # actions, rewards and flags; an eighth of the bytes object of a block
SIZED_BY = {  # the settings that decide each part
    "replay": ("replay_rows", "observe"),
    "network": ("core_size", "hidden", "head_hidden"),
    "update": ("batch_size", "burn_in", "unroll", "frame_stack"),
}


def frame_bytes(config: Config) -> int:
    """Estimated bytes of one frame in the replay: those of the game, and those of the noise that
    its screen adds."""
    screen = make_observer(parse_screen(config.observe), config.seed)
    grey = np.full(task(config).frame_shape, 128, np.uint8)
    block = np.stack([screen(grey, i == 0) for i in range(BLOCK)])
    return min(FRAME_BYTES + len(lz4.block.compress(block)) // BLOCK, grey.nbytes)


def expected_bytes(config: Config) -> dict[str, int]:
    """Estimated memory of a run's parts: the full replay (`Replay.nbytes_when_full` knows better
    once frames were compressed), the network's training, one update."""
    network, pixels = blueprint(config), math.prod(task(config).frame_shape)
    length, history, _ = lengths(config)
    times, lanes = replay_shape(config)
    starts = times // config.sequence_stride * lanes
    states = starts * 2 * network.state_size * (config.update == "stored")  # half precision
    priorities = 16 << (starts - 1).bit_length() if config.priority_exponent else 0
    rows = times * lanes * (ROW_BYTES + frame_bytes(config)) + lanes * BLOCK * pixels
    images = config.batch_size * (length + history) * config.frame_stack
    return {
        "replay": rows + states + priorities,
        # Weights, target, gradient, two moments: 4 each.
        "network": sum(p.numel() for p in network.parameters()) * 20,
        # Pixels as bytes and numbers, the first activations, both ways.
        "update": images * pixels * 20,
    }


# --- parts ----------------------------------------------------------------------------------------


def make_envs(config: Config, chosen: Protocol, stream: int = TRAIN_ENVS, **changes: Any) -> Envs:
    options = {
        "num_envs": config.num_envs,
        "seed": config.seed,
        "observe": parse_screen(config.observe),
    } | changes
    return Envs(
        config.game, protocol=chosen.name, threads=threads(config), stream=stream, **options
    )


def make_network(config: Config, num_actions: int) -> QNetwork:
    """The network with its initial weights, from their own stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng(config.seed, "weights").integers(2**63)))
        return QNetwork(num_actions, config, task(config).frame_shape)


def blueprint(config: Config, num_actions: int = 18) -> QNetwork:
    """The network's shapes, without memory. UsageError if there can be no such network."""
    try:
        with torch.device("meta"):
            return make_network(config, num_actions)
    # The others: a layer is too large.
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise UsageError(
            f"--torso {config.torso}: no such network can be built ({error})"
        ) from None


def make_learner(config: Config, network: QNetwork) -> Learner:
    learner = Learner(network, config, autocast(config), config.device)
    if config.compile:
        learner.loss = torch.compile(learner.loss)
    return learner


def replay_shape(config: Config) -> tuple[int, int]:
    """Times and lanes of the replay. UsageError if it is too small for a sequence."""
    try:
        return ring_times(config.replay_rows, config.num_envs, *lengths(config)), config.num_envs
    except (ValueError, OverflowError) as error:
        raise UsageError(str(error)) from None


def make_replay(config: Config, state_size: int) -> Replay:
    """One ring of rows, or one for each of the run's actors; together they hold the run's rows."""
    length, history, stride = lengths(config)
    count = config.actors or 1
    rings = [
        Ring(
            config.replay_rows // count,
            config.num_envs // count,
            length=length,
            history=history,
            stride=stride,
            state_size=state_size,
            stored=config.update == "stored",
            priority_exponent=config.priority_exponent,
            frame_shape=task(config).frame_shape,
        )
        for _ in range(count)
    ]
    return Replay(config, rings, rng(config.seed, "replay"), pin=config.device.startswith("cuda"))


def lengths(config: Config) -> tuple[int, int, int]:
    """Rows of a sequence, rows of history before it, rows between starts."""
    return (
        config.burn_in + config.unroll + config.n_step,
        config.frame_stack - 1,
        config.sequence_stride,
    )


def make_actor(
    config: Config, network: QNetwork, num_envs: int, generator: np.random.Generator
) -> Actor:
    return Actor(network, num_envs, generator, autocast(config), task(config).frame_shape)


def make_epsilon(config: Config) -> Callable[[int, int], np.ndarray]:
    """From a frame and the number of envs to the epsilon of each env."""
    if config.exploration == "per-actor":
        return actor_epsilon
    return partial(
        linear_epsilon,
        start=config.epsilon_start,
        final=config.epsilon_final,
        frames=config.epsilon_frames,
    )
