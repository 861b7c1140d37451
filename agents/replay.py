"""Sequence replay: lanes (one per env) of rows in one ring, frames compressed, drawn uniformly or by priority.

All lanes advance together, so a row is addressed by (time, lane). LZ4 looks back 64 KiB, and eight 84x84 frames are
55 KiB: compressed eight rows at a time, a frame costs little more than its difference to the one before. Frames are
never stored twice; stacks are made from rows.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import lz4.block
import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from agents.fields import FORBID, Count, Share, Whole
from agents.rows import Inputs, Rows, Sequence

BLOCK = 8  # rows compressed together
BYTES_OBJECT = 41  # of a bytes object and the reference to it, beside its contents


@dataclass(frozen=True, config=FORBID)
class ReplaySettings:
    """What is kept, and how it is drawn."""

    update: Literal["stored", "random"] = "stored"
    """Core state a drawn sequence starts from: the actor's, stored (R2D2), or zeros (the bootstrapped random updates of
    DRQN, Hausknecht & Stone 2015)."""
    replay_rows: Count = 1_000_000
    """Rows kept, of all envs together."""
    start_rows: Whole = 20_000
    """Rows gathered before learning starts."""
    sequence_stride: Annotated[int, Field(ge=1, le=2000)] = 8
    """Sequences may start at every so many rows; the core state is kept there."""
    priority_exponent: Share = 0.0
    """0: sequences are drawn uniformly; else by priority to this power (R2D2: 0.9)."""
    importance_exponent: Share = 0.6
    """Correction of prioritised draws, 0 (none) to 1 (full)."""


class SumTree:
    """Priorities of `size` leaves; set and draw many at once in O(log size) vector operations."""

    def __init__(self, size: int) -> None:
        self.leaves = 1 << max(size - 1, 1).bit_length()
        self.nodes = np.zeros(2 * self.leaves)  # node i has the children 2 i and 2 i + 1; leaves from `leaves` on

    @property
    def total(self) -> float:
        return float(self.nodes[1])

    def get(self, index: np.ndarray) -> np.ndarray:
        return self.nodes[self.leaves + index]

    def set(self, index: np.ndarray, priority: np.ndarray | float) -> None:
        node = self.leaves + index
        self.nodes[node] = priority
        while node[0] > 1:
            node = np.unique(node >> 1)
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def draw(self, mass: np.ndarray) -> np.ndarray:
        """The leaf that holds each point of `mass`, 0 <= mass < total."""
        node = np.ones(len(mass), np.int64)
        while node[0] < self.leaves:
            node <<= 1
            left = self.nodes[node]
            right = (mass >= left) & (self.nodes[node + 1] > 0)
            mass = np.where(right, mass - left, mass)
            node += right
        return node - self.leaves


def ring_times(rows: int, lanes: int, length: int, history: int, stride: int) -> int:
    """Times a ring of `rows` rows holds: whole blocks, whole strides. ValueError if that is too few to draw from."""
    unit = int(np.lcm(BLOCK, stride))
    least = (length + history) // unit * unit + 3 * unit
    times = rows // lanes // unit * unit
    if times < least:
        raise ValueError(
            f"--replay-rows {rows}: too small; {lanes} envs and sequences of {length} rows need at least "
            f"{lanes * least}"
        )
    return times


class Replay:
    """The last rows of all lanes together, drawn as sequences of `length` rows and the `history` of frames before them.

    The actor's core state is kept, in half precision, where sequences may start. A *start* counts strides, as time
    counts rows: start s is the row at time s * stride. `rng` drives all draws.
    """

    COLUMNS = ("is_first", "action", "reward", "terminated", "truncated")

    def __init__(
        self,
        settings: ReplaySettings,
        lanes: int,
        *,
        length: int,
        history: int,
        state_size: int,
        rng: np.random.Generator,
        frame_shape: tuple[int, int] = (84, 84),
        pin: bool = False,
    ) -> None:
        s = self.settings = settings
        self.pin = pin  # frames are restored into pinned memory: a GPU copies from it while the host goes on
        self.lanes, self.length, self.history, self.rng = lanes, length, history, rng
        self.stride, self.state_size = s.sequence_stride, state_size
        self.capacity = ring_times(s.replay_rows, lanes, length, history, self.stride)  # in times
        self.starts_kept = self.capacity // self.stride
        self.time = 0  # rows written so far in every lane
        self._before = max(history, 1)  # a sequence needs the row before its first for the previous action
        types = {"action": np.uint8, "reward": np.float32}
        self._columns = {name: np.zeros((self.capacity, lanes), types.get(name, bool)) for name in self.COLUMNS}
        self._state = np.zeros((self.starts_kept, lanes, state_size if s.update == "stored" else 0), np.float16)
        self._blocks = [[b""] * lanes for _ in range(self.capacity // BLOCK)]
        self._compressed = 0  # bytes in `_blocks`
        self._open_block = np.zeros((lanes, BLOCK, *frame_shape), np.uint8)  # the block being filled
        self._tree = SumTree(self.starts_kept * lanes) if s.priority_exponent else None
        self._max_priority = 1.0

    def __len__(self) -> int:
        """Rows that can be read."""
        return (self.time - self._oldest) * self.lanes

    @property
    def _oldest(self) -> int:
        """The first time that can be read: the block being filled takes the place of the oldest one."""
        return max(0, (self.time // BLOCK + 1) * BLOCK - self.capacity)

    def _starts(self) -> range:
        """The starts that can be drawn."""
        first = -(-(self._oldest + self._before) // self.stride)  # rounded up
        return range(first, max(first, (self.time - self.length) // self.stride + 1))

    @property
    def can_sample(self) -> bool:
        return len(self._starts()) > 0

    @property
    def ready(self) -> bool:
        """Whether learning may begin: --start-rows rows were gathered, or the ring is full. Stays true."""
        gathered = self.time * self.lanes >= self.settings.start_rows or self.time >= self.capacity
        return gathered and self.can_sample

    @property
    def nbytes(self) -> int:
        """Memory in use: all arrays whole, and the compressed frames so far."""
        arrays = [*self._columns.values(), self._state, self._open_block]
        arrays += [] if self._tree is None else [self._tree.nodes]
        objects = BYTES_OBJECT * len(self._blocks) * self.lanes
        return sum(array.nbytes for array in arrays) + objects + self._compressed

    @property
    def nbytes_when_full(self) -> int:
        """`nbytes` of a full ring, if the frames to come compress like those so far. The first block tells."""
        blocks = min(self.time // BLOCK, len(self._blocks))
        return self.nbytes + (self._compressed * (len(self._blocks) - blocks) // blocks if blocks else 0)

    def append(self, rows: Rows) -> None:
        """Write one row in every lane."""
        slot, place, before = self.time % self.capacity, self.time % BLOCK, self._starts()
        self._open_block[:, place] = rows.frame
        for name, column in self._columns.items():
            column[slot] = getattr(rows, name)
        if self.time % self.stride == 0 and self._state.size:
            self._state[slot // self.stride] = rows.core_state
        if place == BLOCK - 1:
            self._keep_block(slot // BLOCK, [lz4.block.compress(lane, store_size=False) for lane in self._open_block])
        self.time += 1
        if self._tree is not None:
            now, lanes = self._starts(), np.arange(self.lanes)
            for start in range(before.start, min(now.start, before.stop)):  # overwritten: never drawn again
                self._tree.set(self._leaf(start, lanes), 0.0)
            for start in range(max(before.stop, now.start), now.stop):
                self._tree.set(self._leaf(start, lanes), self._max_priority**self.settings.priority_exponent)

    def _keep_block(self, index: int, lanes: list[bytes]) -> None:
        self._compressed += sum(map(len, lanes)) - sum(map(len, self._blocks[index]))
        self._blocks[index] = lanes

    def _leaf(self, start: int | np.ndarray, lane: np.ndarray) -> np.ndarray:
        return start % self.starts_kept * self.lanes + lane

    def sample(self, batch_size: int) -> Sequence:
        """Draw `batch_size` sequences with replacement."""
        starts = self._starts()
        if not starts:
            raise ValueError(f"the replay holds {self.time} rows a lane: no sequence of {self.length} yet")
        first, stop = starts.start * self.lanes, starts.stop * self.lanes
        if self._tree is None:
            origin = self.rng.integers(first, stop, size=batch_size)
            weight = np.ones(batch_size, np.float32)
        else:  # one point in each of B equal parts of the mass (Schaul et al. 2016, appendix B.2.1)
            mass = (np.arange(batch_size) + self.rng.random(batch_size)) / batch_size * self._tree.total
            leaf = self._tree.draw(mass)
            origin = first + (leaf - first) % (self.starts_kept * self.lanes)  # leaves are origins, once round the ring
            probability = self._tree.get(leaf) / self._tree.total
            weight = ((stop - first) * probability) ** -self.settings.importance_exponent
            weight = (weight / weight.max()).astype(np.float32)
        return self._gather(*np.divmod(origin, self.lanes), weight, origin)

    def _gather(self, start: np.ndarray, lane: np.ndarray, weight: np.ndarray, origin: np.ndarray) -> Sequence:
        time = start * self.stride
        slots = (time + np.arange(-self._before, self.length)[:, None]) % self.capacity  # [before + L, B]
        is_first, action, reward, *ends = (torch.from_numpy(column[slots, lane]) for column in self._columns.values())
        shape = (self.history + self.length, len(time), *self._open_block.shape[2:])
        frames = torch.empty(shape, dtype=torch.uint8, pin_memory=self.pin)
        array = frames.numpy()
        for b, (t, n) in enumerate(zip(time.tolist(), lane.tolist(), strict=True)):
            array[:, b] = self._frames(t - self.history, n)
        state = np.zeros((len(time), self.state_size), np.float32)
        if self._state.size:
            state[:] = self._state[start % self.starts_kept, lane]
        rows, previous, action = slice(self._before, None), slice(self._before - 1, -1), action.long()
        history = is_first[self._before - self.history :]
        inputs = Inputs(frames, history, action[previous], reward[previous])
        terminated, truncated = (x[rows] for x in ends)
        columns = (action[rows], reward[rows], terminated, truncated, torch.from_numpy(state), torch.from_numpy(weight))
        return Sequence(inputs, *columns, origin)

    def _frames(self, time: int, lane: int) -> np.ndarray:
        """The frames [history + L, H, W] of a lane from this time on: whole blocks, then cut."""
        end, first = time + self.history + self.length, time // BLOCK
        blocks = [self._block(block, lane) for block in range(first, (end - 1) // BLOCK + 1)]
        return np.concatenate(blocks)[time - first * BLOCK : end - first * BLOCK]

    def _block(self, block: int, lane: int) -> np.ndarray:
        """Eight frames [8, H, W] of a lane."""
        images = self._open_block[lane]
        if block == self.time // BLOCK:
            return images
        data = lz4.block.decompress(self._blocks[block % len(self._blocks)][lane], images.nbytes)
        return np.frombuffer(data, np.uint8).reshape(images.shape)

    def update_priorities(self, origin: np.ndarray, priority: torch.Tensor) -> None:
        """New priorities [B] for drawn sequences; those overwritten since are passed over."""
        if self._tree is None:
            return  # and no device is waited for
        starts, (start, lane) = self._starts(), np.divmod(origin, self.lanes)
        alive = (start >= starts.start) & (start < starts.stop)
        if alive.any():
            new = np.maximum(priority.cpu().numpy()[alive].astype(np.float64), 1e-6)
            self._max_priority = max(self._max_priority, float(new.max()))
            self._tree.set(self._leaf(start, lane)[alive], new**self.settings.priority_exponent)

    def state(self) -> dict[str, np.ndarray]:
        """Everything but the generator, as arrays. Frames stay compressed."""
        blocks = [data for lanes in self._blocks for data in lanes]
        frames = {
            "frames": np.frombuffer(bytearray().join(blocks), np.uint8),
            "frame_bytes": np.array([*map(len, blocks)]),
        }
        counters = {"time": np.array(self.time), "max_priority": np.array(self._max_priority)}
        tree = {} if self._tree is None else {"priority": self._tree.nodes[self._tree.leaves :]}
        return {"open_block": self._open_block, "state": self._state, **self._columns, **frames, **counters, **tree}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` gave. KeyError or ValueError if it does not fit."""
        for name, array in {"open_block": self._open_block, "state": self._state, **self._columns}.items():
            array[:] = state[name]
        self.time, self._max_priority = int(state["time"]), float(state["max_priority"])
        blocks = [part.tobytes() for part in np.split(state["frames"], np.cumsum(state["frame_bytes"])[:-1])]
        for index in range(len(self._blocks)):
            self._keep_block(index, blocks[index * self.lanes : (index + 1) * self.lanes])
        if self._tree is not None:
            self._tree.set(np.arange(self._tree.leaves), state["priority"])
