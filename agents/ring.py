"""A ring of the last rows of some lanes (one per env), from which sequences are read.

All lanes advance together, so (time, lane) is the address of a row. LZ4 looks back 64 KiB, and
eight 84x84 frames are 55 KiB: in a compressed block of eight rows, a frame takes little more than
its difference from the frame before. Each frame is stored once; the network makes the stacks.
"""

from collections.abc import Mapping
from typing import NamedTuple

import lz4.block
import numpy as np
import torch

from agents.rows import Inputs, Rows, Sequence
from agents.sum_tree import SumTree

BLOCK = 8  # rows compressed together
BYTES_OBJECT = 41  # bytes of a bytes object and of the reference to it, without its contents
COLUMNS = {"reward": "f4", "is_first": "?", "action": "u1", "terminated": "?", "truncated": "?"}
ROW = np.dtype([*COLUMNS.items()])  # of one lane, without frame and core state


class Stretch(NamedTuple):
    """T consecutive rows of all N lanes, in a ring's format: whole blocks and whole strides."""

    ring: int  # index of the ring of these rows
    time: int  # of the first row in the ring of its actor; 0: there is no row before it
    rows: np.ndarray  # ROW [T, N]
    state: np.ndarray  # [T / stride, N, S] float16
    blocks: np.ndarray  # bytes [T / BLOCK, N], compressed frames
    priority: np.ndarray  # float64, as in the sum tree, of the last sequences that end here

    @property
    def steps(self) -> int:
        """Rows of all lanes together."""
        return self.rows.size


def ring_times(rows: int, lanes: int, length: int, history: int, stride: int) -> int:
    """Capacity in times of a ring of `rows` rows: whole blocks and whole strides.

    ValueError if the ring is too small for a sequence.
    """
    unit = int(np.lcm(BLOCK, stride))
    least = (length + history) // unit * unit + 3 * unit
    times = rows // lanes // unit * unit
    if times < least:
        raise ValueError(
            f"--replay-rows {rows}: too small; {lanes} envs and sequences of {length} rows need "
            f"at least {lanes * least}"
        )
    return times


class Ring:
    """The last rows of all lanes, from which sequences of `length` rows are read.

    The frames of the `history` rows before a sequence come with it. Sequences may start at every
    `stride` rows; there the ring also stores the actor's core state, in half precision, if
    `stored`. The *origin* of a sequence numbers these places: (time / stride) * lanes + lane.
    """

    def __init__(
        self,
        rows: int,
        lanes: int,
        *,
        length: int,
        history: int,
        stride: int,
        state_size: int,
        stored: bool = True,
        priority_exponent: float = 0.0,
        frame_shape: tuple[int, int] = (84, 84),
    ) -> None:
        self.lanes, self.length, self.history, self.stride = lanes, length, history, stride
        self.capacity = ring_times(rows, lanes, length, history, stride)  # in times
        self.time = 0  # rows in every lane so far, with the overwritten ones
        self.frames_shape = (history + length, *frame_shape)  # of a sequence and its history
        self.before = max(history, 1)  # rows before a sequence: one holds its previous action
        self._state_size, self._exponent = state_size, priority_exponent
        self._rows = np.zeros((self.capacity, lanes), ROW)
        self._places = self.capacity // stride * lanes  # where sequences can start, in all lanes
        self._state = np.zeros(
            (self.capacity // stride, lanes, state_size if stored else 0), np.float16
        )
        self._blocks = np.full((self.capacity // BLOCK, lanes), b"", object)
        self._open_block = np.zeros((lanes, BLOCK, *frame_shape), np.uint8)  # the newest frames
        self._tree = SumTree(self._places) if priority_exponent else None
        self._max_priority = 1.0

    def __len__(self) -> int:
        """Rows that can be read."""
        return (self.time - self._oldest) * self.lanes

    @property
    def _oldest(self) -> int:
        """The first time that can be read: the open block occupies the place of the oldest one."""
        return max(0, (self.time // BLOCK + 1) * BLOCK - self.capacity)

    @property
    def origins(self) -> range:
        """The origins of the sequences that can be drawn."""
        first = -(-(self._oldest + self.before) // self.stride)  # rounded up
        stop = (self.time - self.length) // self.stride + 1
        return range(first * self.lanes, max(first, stop) * self.lanes)

    @property
    def _compressed(self) -> int:
        """Bytes in `_blocks`."""
        return sum(map(len, self._blocks.flat))

    @property
    def nbytes(self) -> int:
        """Memory in use: all arrays whole, and the compressed frames so far."""
        tree = self._tree.nodes.nbytes if self._tree else 0
        arrays = self._rows.nbytes + self._state.nbytes + self._open_block.nbytes + tree
        return arrays + BYTES_OBJECT * self._blocks.size + self._compressed

    @property
    def nbytes_when_full(self) -> int:
        """`nbytes` of a full ring, if all blocks compress like the present ones."""
        blocks = min(self.time // BLOCK, len(self._blocks))
        return self.nbytes + self._compressed * (len(self._blocks) - blocks) // max(blocks, 1)

    def append(self, rows: Rows) -> None:
        """Write one row in every lane."""
        slot, place, before = self.time % self.capacity, self.time % BLOCK, self.origins
        self._open_block[:, place] = rows.frame
        for name in COLUMNS:
            self._rows[name][slot] = getattr(rows, name)
        if self.time % self.stride == 0:
            self._state[slot // self.stride] = rows.core_state[:, : self._state.shape[2]]
        if place == BLOCK - 1:
            self._blocks[slot // BLOCK] = [
                lz4.block.compress(lane, store_size=False) for lane in self._open_block
            ]
        self.time += 1
        self._prioritise(before, np.empty(0))

    def extend(self, stretch: Stretch) -> None:
        """Append the rows of a stretch in every lane; the ring holds whole blocks and strides.

        If the stretch has no row before it, the last row here becomes truncated, so that no target
        crosses the gap between them.
        """
        before, slots = self.origins, (self.time + np.arange(len(stretch.rows))) % self.capacity
        if stretch.time == 0 and self.time:
            last = self._rows[(self.time - 1) % self.capacity]
            last["truncated"] |= ~last["terminated"]
        self._rows[slots] = stretch.rows
        self._state[slots[:: self.stride] // self.stride] = stretch.state
        self._blocks[slots[::BLOCK] // BLOCK] = stretch.blocks
        self.time += len(slots)
        self._prioritise(before, stretch.priority)

    def stretch(self, first: int, ring: int = 0) -> Stretch:
        """The rows from time `first` on, for the ring of that index.

        `first` and the ring's time must be at whole blocks and strides, and the rows still here.
        """
        slots = np.arange(first, self.time) % self.capacity
        places = self.completed(first) % self._places
        return Stretch(
            ring=ring,
            time=first,
            rows=self._rows[slots],
            state=self._state[slots[:: self.stride] // self.stride],
            blocks=self._blocks[slots[::BLOCK] // BLOCK],
            priority=self._tree.get(places) if self._tree else np.empty(0),
        )

    def completed(self, first: int) -> np.ndarray:
        """The origins of the sequences whose last row is at time `first` or later."""
        begin = (first - self.length) // self.stride + 1
        return np.arange(max(self.origins.start, begin * self.lanes), self.origins.stop)

    def _prioritise(self, before: range, priority: np.ndarray) -> None:
        """Set the priorities of new sequences: the last ones to `priority`, others to the maximum.

        `before`: the origins before the new rows. The priority of overwritten sequences becomes 0.
        """
        if self._tree:
            now = self.origins
            new = np.arange(max(before.stop, now.start), now.stop)
            largest = np.full(len(new), self._max_priority**self._exponent)
            value = np.concatenate([largest, priority])[len(priority) :]
            overwritten = np.arange(before.start, min(now.start, before.stop))
            self._tree.set(overwritten % self._places, 0.0)
            self._tree.set(new % self._places, value)

    @property
    def mass(self) -> float:
        """The sum of the priorities; the number of sequences if draws are uniform."""
        return self._tree.total if self._tree else len(self.origins)

    def locate(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The origins [B] of the sequences at points [B] from 0 to `mass`, and the mass of each."""
        first = self.origins.start
        if self._tree is None:
            return first + point, np.ones(len(point))
        leaf = self._tree.draw(point)
        return first + (leaf - first) % self._places, self._tree.get(leaf)

    def set_priorities(self, origin: np.ndarray, priority: np.ndarray) -> None:
        """Set priorities [B] of sequences; those that were overwritten since are ignored."""
        current = (origin >= self.origins.start) & (origin < self.origins.stop)
        if self._tree and current.any():
            new = np.maximum(priority[current].astype(np.float64), 1e-6)
            self._max_priority = max(self._max_priority, float(new.max()))
            self._tree.set(origin[current] % self._places, new**self._exponent)

    def gather(self, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows ROW [B, before + L] and core states [B, S] of the sequences of origins [B]."""
        start, lane = np.divmod(origin, self.lanes)
        times = start[:, None] * self.stride + np.arange(-self.before, self.length)
        state = np.zeros((len(origin), self._state_size), np.float32)
        state[:, : self._state.shape[2]] = self._state[start % len(self._state), lane]
        return self._rows[times % self.capacity, lane[:, None]], state

    def as_sequence(
        self,
        rows: np.ndarray,
        state: np.ndarray,
        frames: torch.Tensor,
        weight: np.ndarray,
        origin: np.ndarray,
    ) -> Sequence:
        """A batch of sequences.

        rows and state: of `gather`; frames [history + L, B, H, W]; weight and origin [B].
        """
        columns = {name: torch.from_numpy(rows[name].T.copy()) for name in COLUMNS}
        action, reward = columns["action"].long(), columns["reward"]  # [before + L, B] each
        here, previous = slice(self.before, None), slice(self.before - 1, -1)
        is_first = columns["is_first"][self.before - self.history :]
        return Sequence(
            Inputs(frames, is_first, action[previous], reward[previous]),
            action[here],
            reward[here],
            columns["terminated"][here],
            columns["truncated"][here],
            torch.from_numpy(state),
            torch.from_numpy(weight),
            origin,
        )

    def frames(self, origin: int) -> np.ndarray:
        """The frames [history + L, H, W] of the sequence of this origin."""
        start, lane = divmod(origin, self.lanes)
        time = start * self.stride - self.history
        first, end = time // BLOCK, time + self.history + self.length
        blocks = [self.block(block, lane) for block in range(first, (end - 1) // BLOCK + 1)]
        return np.concatenate(blocks)[time - first * BLOCK : end - first * BLOCK]

    def block(self, block: int, lane: int) -> np.ndarray:
        """The eight frames [8, H, W] of a block of a lane."""
        images = self._open_block[lane]
        if block == self.time // BLOCK:
            return images
        data = lz4.block.decompress(self._blocks[block % len(self._blocks), lane], images.nbytes)
        return np.frombuffer(data, np.uint8).reshape(images.shape)

    def state(self) -> dict[str, np.ndarray]:
        """All of the ring as arrays by name; frames stay compressed."""
        return {
            "open_block": self._open_block,
            "state": self._state,
            **{name: self._rows[name].copy() for name in COLUMNS},
            "frames": np.frombuffer(bytearray().join(self._blocks.flat), np.uint8),
            "frame_bytes": np.array([*map(len, self._blocks.flat)]),
            "time": np.array(self.time),
            "max_priority": np.array(self._max_priority),
            **({"priority": self._tree.nodes[self._tree.leaves :]} if self._tree else {}),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore from a result of `state`. KeyError or ValueError if names or shapes differ."""
        for name in COLUMNS:
            self._rows[name] = state[name]
        self._open_block[:], self._state[:] = state["open_block"], state["state"]
        self.time, self._max_priority = int(state["time"]), float(state["max_priority"])
        parts = np.split(state["frames"], np.cumsum(state["frame_bytes"])[:-1])
        blocks = np.array([part.tobytes() for part in parts], object)
        self._blocks = blocks.reshape(self._blocks.shape)
        if self._tree:
            self._tree.set(np.arange(self._tree.leaves), state["priority"])
