"""Random rows for the tests of networks, learners and replays."""

from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from typing import NamedTuple

import numpy as np
import torch

from agents.networks import NetworkSettings, QNetwork
from agents.replay import Replay, ReplaySettings
from agents.ring import BLOCK, Ring, Stretch
from agents.rows import Inputs, Rows, Sequence

ACTIONS = 4
SMALL = {"frame_stack": 1, "hidden": 8, "core_size": 6, "head": "mean"}
SMALL |= dict.fromkeys(("norm", "standardize", "last_action_reward"), False)
NO_AUTOCAST = partial(torch.autocast, "cpu", torch.bfloat16, enabled=False)


def make_network(seed: int = 0, **settings: object) -> QNetwork:
    """A small network of 4 actions, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QNetwork(ACTIONS, NetworkSettings(**(SMALL | settings)))


def random_inputs(length, lanes=3, depth=1, starts=0.25, seed=1) -> Inputs:
    g = torch.Generator().manual_seed(seed)
    rows = depth - 1 + length
    return Inputs(
        torch.randint(0, 256, (rows, lanes, 84, 84), dtype=torch.uint8, generator=g),
        torch.rand(rows, lanes, generator=g) < starts,
        torch.randint(0, ACTIONS, (length, lanes), generator=g),
        2 * torch.randn(length, lanes, generator=g),
    )


def random_batch(length, lanes=2, state_size=12, depth=1, seed=1, ends=0.0) -> Sequence:
    """Weights of 1. A row terminates with probability `ends`, is truncated with `ends`."""
    g, inputs = torch.Generator().manual_seed(seed), random_inputs(length, lanes, depth, 0.0, seed)
    chance = torch.rand(length, lanes, generator=g)
    over = chance < ends, chance > 1 - ends
    inputs.is_first[depth:] = (over[0] | over[1])[:-1]
    action = torch.randint(0, ACTIONS, (length, lanes), generator=g)
    reward = 2 * torch.randn(length, lanes, generator=g)
    state = torch.randn(lanes, state_size, generator=g)
    return Sequence(inputs, action, reward, *over, state, torch.ones(lanes), np.arange(lanes))


# Of the rings below; frame[0] is time (two bytes) and lane, which tell a row from all others.
FRAME, STATE = (2, 3), 2


class Shape(NamedTuple):
    """A replay of rings, and the rows that are written to it."""

    lanes: int = 2
    stride: int = 1
    length: int = 3
    history: int = 0
    spare: int = 0  # units of a ring beyond the fewest allowed
    written: int = 60  # rows appended in each lane
    priority_exponent: float = 0.0
    start_rows: int = 0
    stored: bool = True

    @property
    def unit(self) -> int:
        """Times of a whole number of blocks and strides."""
        return int(np.lcm(BLOCK, self.stride))

    def replay(self, seed: int = 0, rings: int = 1) -> Replay:
        """An empty one."""
        rows = ((self.length + self.history) // self.unit + 3 + self.spare) * self.unit * self.lanes
        names = ("length", "history", "stride", "stored", "priority_exponent")
        same = {"state_size": STATE, "frame_shape": FRAME, **{k: getattr(self, k) for k in names}}
        made = [Ring(rows, self.lanes, **same) for _ in range(rings)]
        both = {k: getattr(self, k) for k in ("start_rows", "priority_exponent")}
        return Replay(ReplaySettings(**both), made, np.random.default_rng(seed))

    def filled(self) -> tuple[Replay, list[Rows]]:
        """A replay and, as the reference, the plain list of all rows ever written."""
        replay, written = self.replay(), [*islice(random_rows(self.lanes), self.written)]
        for row in written:
            replay.append(row)
        return replay, written

    def stretches(self, seed=0, ring=0, priorities=False) -> Iterator[Stretch]:
        """Endless stretches of two units, as an actor sends them from a ring of its own."""
        source = self._replace(spare=3 + self.length // self.unit).replay().rings[0]
        for time, row in enumerate(random_rows(self.lanes, seed), start=1):
            source.append(row)
            if time % (2 * self.unit) == 0:
                if priorities:
                    origin = np.array(source.origins)
                    source.set_priorities(origin, 0.1 + origin % 7)
                yield source.stretch(time - 2 * self.unit, ring)


def random_rows(lanes: int, seed: int = 0) -> Iterator[Rows]:
    """Endless rows of random content, each told by its frame."""
    generator = np.random.default_rng(seed)
    for time in count():
        frame = generator.integers(0, 256, (lanes, *FRAME), np.uint8)
        frame[:, 0] = [[time // 256, time % 256, lane] for lane in range(lanes)]
        yield Rows(
            frame,
            (generator.random(lanes) < 0.2) | (time == 0),
            generator.integers(0, 18, lanes),
            generator.normal(size=lanes).astype(np.float32),
            generator.random(lanes) < 0.2,
            generator.random(lanes) < 0.1,
            generator.normal(size=(lanes, STATE)).astype(np.float32),
        )


def place(batch: Sequence, history: int, b: int) -> tuple[int, int]:
    """Time and lane of the first row of sequence b, read from its frame."""
    high, low, lane = batch.inputs.frames[history, b, 0].tolist()
    return 256 * high + low, lane


def equal(one: Sequence, other: Sequence) -> bool:
    """Bit for bit."""
    tensors = zip((*one.inputs, *one[1:-1]), (*other.inputs, *other[1:-1]), strict=True)
    return all(torch.equal(a, b) for a, b in tensors) and (one.origin == other.origin).all()
