"""The parts of a run, made from its settings, each with its own random stream."""

import math
from collections.abc import Callable
from contextlib import closing
from functools import lru_cache, partial

import lz4.block
import numpy as np
import psutil
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

# The independent random streams of a run, all from its one seed.
STREAMS = {"weights": 10, "replay": 11, "exploration": 12, "evaluation": 13}
TRAIN_ENVS, EVAL_ENVS = 0, 1  # streams of Envs


def rng(seed: int, stream: str) -> np.random.Generator:
    """The random generator of a run's stream; `stream` is one of STREAMS."""
    return np.random.default_rng(np.random.SeedSequence([seed, STREAMS[stream]]))


def rules(config: Config) -> Protocol:
    """The protocol of the run's environments."""
    return families.rules(config.game, config.protocol)


def task(config: Config) -> families.Task:
    """The size of the images, the frames of an action and the names of the actions."""
    return families.task(config.game, rules(config))


def threads(config: Config) -> int:
    """The run's number of CPU threads."""
    return config.threads or cores()


def use_threads(config: Config) -> None:
    """Set the threads of this process to the run's number."""
    workers.use_threads(threads(config))


def has_bf16(device: str) -> bool:
    """Whether the device computes bf16 matrix products in hardware."""
    if device.startswith("cuda"):
        return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
    capability = getattr(torch.cpu, "get_capabilities", dict)()  # new in torch 2.13: fp32 before
    return any(capability.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def precision(config: Config) -> str:
    """bf16 or fp32 on this machine: fp32 where it lacks bf16, even for a run that began in bf16."""
    return "bf16" if config.precision != "fp32" and has_bf16(config.device) else "fp32"


def autocast(config: Config) -> Callable[[], torch.autocast]:
    """Makes the context in which the run's networks compute.

    Without torch's cache of converted weights: all threads share it, and the first part of a batch
    to end clears it for the others. A weight that a part uses twice would then have one gradient
    in bf16 or the sum of two in fp32, by chance.
    """
    return partial(
        torch.autocast,
        torch.device(config.device).type,
        torch.bfloat16,
        enabled=precision(config) == "bf16",
        cache_enabled=False,
    )


# --- checks before a start ------------------------------------------------------------------------


def check_machine(config: Config) -> None:
    """UsageError if this machine lacks the cores or the device."""
    if config.threads > cores():
        raise UsageError(f"--threads {config.threads}: this process may use {cores()} cores")
    if config.device.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (torch.device(config.device).index or 0) >= count:
            raise UsageError(
                f"--device {config.device}: this machine has {count or 'no'} CUDA "
                f"device{'s' * (count != 1)}; use {'cuda or ' * (count > 0)}cpu"
            )


def check_config(config: Config) -> None:
    """UsageError if the run cannot go on here: cores, device, replay's size, length or memory."""
    check_machine(config)
    least, rows = first_update(config), config.replay_rows
    if config.start_rows > rows:
        raise UsageError(f"--start-rows {config.start_rows}: the replay holds only {rows} rows")
    if config.frames < least:
        raise UsageError(
            f"--frames {config.frames}: the first update comes at frame {least}, after "
            f"--start-rows {config.start_rows}; train longer, or start earlier"
        )
    parts, free = expected_bytes(config), free_memory()
    # This process has most of the program already.
    need = sum(parts.values()) - min(parts["program"], psutil.Process().memory_info().rss)
    if need > free:
        part = max(SIZED_BY, key=parts.__getitem__)
        flags = " ".join(f"{flag(name)} {getattr(config, name)}" for name in SIZED_BY[part])
        raise UsageError(
            f"{flags}: need about {parts[part] / 1e9:.1f} GB of memory, the run "
            f"{need / 1e9:.1f} GB; {free / 1e9:.1f} GB are free"
        )


def check_new(config: Config) -> None:
    """UsageError if this machine cannot begin the run in its precision."""
    if config.precision == "bf16" and not has_bf16(config.device):
        raise UsageError(
            "--precision bf16: this machine computes no bf16 products in hardware; use auto or fp32"
        )


def first_update(config: Config) -> int:
    """The least --frames with which a run makes an update, if its actors answer in turn."""
    length, history, stride = lengths(config)
    actors, steps = max(config.actors, 1), steps_of_recv(config)
    times = steps * actors // config.num_envs
    sequence = math.ceil(max(history, 1) / stride) * stride + length  # rows to a whole sequence
    first = actors * (math.ceil(sequence / times) - 1) + 1  # the first actor has so many rows
    waits = math.ceil(config.batch_size * config.unroll / (steps * config.samples_per_step)) - 1
    # A full ring ends the wait too; it may hold fewer rows than asked for.
    full = actors * (math.ceil(replay_shape(config)[0] / times) - 1) + 1
    turns = max(min(math.ceil(config.start_rows / steps), full), first) + waits
    return task(config).frame_skip * steps * turns + 1  # the update begins the next turn


# --- memory ---------------------------------------------------------------------------------------

# Of a compressed frame; benchmarks/replay_memory.py: 60 (Pong) to 900 (busy screens).
FRAME_BYTES = 600
ROW_BYTES = 8 + 6  # actions, rewards and flags; an eighth of the bytes object of a block
PROGRAM_BYTES = 300_000_000  # the interpreter, torch and the games: 200 MB with 8 games, measured
SIZED_BY = {  # the settings that decide each part
    "replay": ("replay_rows", "observe"),
    "network": ("core_size", "hidden", "head_hidden"),
    "update": ("batch_size", "burn_in", "unroll", "frame_stack"),
}


def frame_bytes(config: Config) -> int:
    """Estimated bytes of one frame in the replay: the usual, or more because of the screen's noise.

    Noise compresses to fewer bytes in a dark game, where it is cut off at black, than in a bright
    one: it is measured on the game's first image, as a still.
    """
    pixels = math.prod(task(config).frame_shape)
    if config.observe == "full":
        return min(FRAME_BYTES, pixels)
    screen = make_observer(parse_screen(config.observe), config.seed)
    image = _first_image(config.game, config.protocol)
    block = np.stack([screen(image, i == 0) for i in range(BLOCK)])
    return min(max(FRAME_BYTES, len(lz4.block.compress(block)) // BLOCK), pixels)


@lru_cache
def _first_image(game: str, protocol: str) -> np.ndarray:
    """The image [H, W] with which an environment begins."""
    with closing(families.open_games(game, 1, families.rules(game, protocol))) as games:
        return games.reset(np.ones(1, np.bool_), np.ones(1, np.int64))[0][0].copy()


def expected_bytes(config: Config) -> dict[str, int]:
    """Estimated bytes of a run's parts: program, full replay, network in training, one update.

    `Replay.nbytes_when_full` is more exact after the first compressed frames.
    """
    network, pixels = blueprint(config), math.prod(task(config).frame_shape)
    length, history, _ = lengths(config)
    times, lanes = replay_shape(config)
    starts = times // config.sequence_stride * lanes
    states = starts * 2 * network.state_size * (config.update == "stored")  # half precision
    priorities = 16 << (starts - 1).bit_length() if config.priority_exponent else 0
    rows = times * lanes * (ROW_BYTES + frame_bytes(config)) + lanes * BLOCK * pixels
    images = config.batch_size * (length + history) * config.frame_stack
    copies = 3 + min(config.parts, config.batch_size)
    copies += bool(config.average) + bool(config.target_period)
    return {
        "program": PROGRAM_BYTES,
        "replay": rows + states + priorities,
        # 4 bytes each of weights, two moments, a gradient of each part, average and target.
        "network": sum(p.numel() for p in network.parameters()) * 4 * copies,
        # Pixels as bytes and floats, and the first activations, forward and backward.
        "update": images * pixels * 20,
    }


# --- parts ----------------------------------------------------------------------------------------


def make_envs(
    config: Config, protocol: Protocol, stream: int = TRAIN_ENVS, num_envs: int | None = None
) -> Envs:
    """The environments of the run; `num_envs` in place of the run's number."""
    return Envs(
        config.game,
        num_envs or config.num_envs,
        protocol.name,
        config.seed,
        observe=parse_screen(config.observe),
        threads=threads(config),
        stream=stream,
    )


def make_network(config: Config, num_actions: int) -> QNetwork:
    """The network with its initial weights, drawn from the stream `weights`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng(config.seed, "weights").integers(2**63)))
        return QNetwork(num_actions, config, task(config).frame_shape)


def blueprint(config: Config) -> QNetwork:
    """The network's shapes with 18 actions, on the device meta. UsageError if there can be none."""
    try:
        with torch.device("meta"):
            return make_network(config, 18)
    # ValueError comes from our checks; the others mean that a layer is too large.
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise UsageError(
            f"--torso {config.torso}: no such network can be built ({error})"
        ) from None


def make_learner(config: Config, network: QNetwork) -> Learner:
    """The learner of the network, on the run's device."""
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
    """A replay of one ring of rows, or of one for each actor; together they have the run's rows."""
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
    length = config.burn_in + config.unroll + config.n_step
    return length, config.frame_stack - 1, config.sequence_stride


def stretch_rows(config: Config) -> int:
    """Rows that an actor process sends at once, of each of its envs: whole blocks and strides."""
    return 2 * int(np.lcm(BLOCK, config.sequence_stride))


def steps_of_recv(config: Config) -> int:
    """Steps of all envs together that one `recv` brings; a run overshoots --frames by fewer."""
    return (stretch_rows(config) if config.actors else 1) * config.num_envs // max(config.actors, 1)


def make_actor(
    config: Config, network: QNetwork, num_envs: int, generator: np.random.Generator
) -> Actor:
    """An actor of `num_envs` environments; `generator` draws its random actions."""
    return Actor(network, num_envs, generator, autocast(config), task(config).frame_shape)


def make_epsilon(config: Config) -> Callable[[int, int], np.ndarray]:
    """The schedule: (frame, number of envs N) -> epsilon of each env [N]."""
    linear = partial(
        linear_epsilon,
        start=config.epsilon_start,
        final=config.epsilon_final,
        frames=config.epsilon_frames,
    )
    return actor_epsilon if config.exploration == "per-actor" else linear
