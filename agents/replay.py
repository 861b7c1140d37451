"""Sequence replay: lanes (one per env) of rows in one ring, frames compressed, drawn uniformly or by priority.

All lanes advance together, so a row is addressed by (time, lane). Frames are compressed losslessly with LZ4 eight
rows at a time: LZ4 looks back 64 KiB, and eight 84x84 frames are 55 KiB, so that a frame costs little more
than its difference to the one before. Frames are never stored twice; stacks are made from rows.
"""

from collections.abc import Mapping
from typing import NamedTuple

import lz4.block
import numpy as np
import torch

from agents.rows import Inputs, Sequence

BLOCK = 8  # rows compressed together


class Rows(NamedTuple):
    """One row of every lane: what was seen at t, done at t, and what came of it at t+1. All arrays [N, ...]."""

    frame: np.ndarray  # [N, H, W] uint8
    is_first: np.ndarray  # [N] bool
    action: np.ndarray  # [N] int
    reward: np.ndarray  # [N] float32, unclipped
    terminated: np.ndarray  # [N] bool
    truncated: np.ndarray  # [N] bool
    core_state: np.ndarray  # [N, S] float32, before this row


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
    """The last `rows` rows (all lanes together, rounded to whole blocks), drawn as sequences of `length` rows.

    `stride`: sequences start at every stride-th time; the actor's core state is kept for those rows only, in half
    precision. `history`: frames before the first row that stacks need (frame_stack - 1).
    `priority_exponent` 0 draws uniformly. One random generator, passed in, drives all draws.

    `readers` 0: sequences start anywhere, from the stored state, or with `zero_state` from zeros (the bootstrapped
    random updates of Hausknecht & Stone 2015). `readers` B: each of the B sequences of a batch goes on,
    `advance` rows further and with the state the learner came to, where it was in its episode, and at the episode's
    end turns to the start of another (their bootstrapped sequential updates).
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
        rng: np.random.Generator,
        frame_shape: tuple[int, int] = (84, 84),
        priority_exponent: float = 0.0,
        importance_exponent: float = 0.0,
        zero_state: bool = False,
        readers: int = 0,
        advance: int = 0,
    ) -> None:
        if readers and (stride > 1 or priority_exponent):
            raise ValueError("sequential draws need a stride of 1 and no priorities")
        self.capacity = ring_times(rows, lanes, length, history, stride)
        self.lanes, self.length, self.history, self.stride, self.rng = lanes, length, history, stride, rng
        self.time = 0  # rows written so far in every lane
        self._before = max(history, 1)  # a sequence needs the row before its first for the previous action
        self._blocks: list[list[bytes]] = [[b""] * lanes for _ in range(self.capacity // BLOCK)]
        self._pending = np.zeros((lanes, BLOCK, *frame_shape), np.uint8)
        self._is_first = np.zeros((self.capacity, lanes), bool)
        self._action = np.zeros((self.capacity, lanes), np.uint8)
        self._reward = np.zeros((self.capacity, lanes), np.float32)
        self._terminated = np.zeros((self.capacity, lanes), bool)
        self._truncated = np.zeros((self.capacity, lanes), bool)
        self._zero_state = zero_state or readers > 0
        self._state_size = state_size
        self._state = np.zeros((self.capacity // stride, lanes, 0 if self._zero_state else state_size), np.float16)
        self._advance = advance
        self._reader_time = np.full(readers, -1)  # of the next row; -1: its episode has ended
        self._reader_lane = np.zeros(readers, np.int64)
        self._reader_state = np.zeros((readers, state_size), np.float32)
        self.priority_exponent, self.importance_exponent = priority_exponent, importance_exponent
        self._tree = SumTree(self.capacity // stride * lanes) if priority_exponent else None
        self._max_priority = 1.0

    # --- writing ---------------------------------------------------------------------------------------------

    def append(self, rows: Rows) -> None:
        """Write one row in every lane."""
        slot, place = self.time % self.capacity, self.time % BLOCK
        self._pending[:, place] = rows.frame
        self._is_first[slot], self._action[slot], self._reward[slot] = rows.is_first, rows.action, rows.reward
        self._terminated[slot], self._truncated[slot] = rows.terminated, rows.truncated
        if self.time % self.stride == 0 and not self._zero_state:
            self._state[slot // self.stride] = rows.core_state
        if place == BLOCK - 1:
            self._blocks[slot // BLOCK] = [
                lz4.block.compress(lane, store_size=False, mode="default") for lane in self._pending
            ]
        old_first, old_last = self._starts()
        self.time += 1
        if self._tree is not None:
            first, last = self._starts()
            lanes = np.arange(self.lanes)
            for start in range(old_first, min(first, old_last)):  # overwritten: never drawn again
                self._tree.set(self._leaf(start, lanes), 0.0)
            for start in range(max(old_last, first), last):
                self._tree.set(self._leaf(start, lanes), self._max_priority**self.priority_exponent)

    def _leaf(self, start: int | np.ndarray, lane: np.ndarray) -> np.ndarray:
        """The tree's leaves of starts (in strides) in lanes."""
        return start % (self.capacity // self.stride) * self.lanes + lane

    # --- drawing ---------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Rows that can be read."""
        return (self.time - self._oldest) * self.lanes

    @property
    def _oldest(self) -> int:
        # The block being filled takes the place of the oldest one.
        return max(0, (self.time // BLOCK + 1) * BLOCK - self.capacity)

    def _starts(self) -> tuple[int, int]:
        """The starts that can be drawn, first <= start < last, in strides."""
        first = -((self._oldest + self._before) // -self.stride)
        last = (self.time - self.length) // self.stride + 1
        return first, max(first, last)

    @property
    def can_sample(self) -> bool:
        first, last = self._starts()
        return last > first and (not len(self._reader_time) or len(self._episode_starts()) > 0)

    def sample(self, batch_size: int) -> Sequence:
        """Draw `batch_size` sequences with replacement; sequential draws are as many as there are readers."""
        first, last = self._starts()
        if last == first:
            raise ValueError(f"the replay holds {self.time} rows a lane: no sequence of {self.length} yet")
        if len(self._reader_time):
            return self._read_on()
        if self._tree is None:
            choice = self.rng.integers(first * self.lanes, last * self.lanes, size=batch_size)
            start, lane = np.divmod(choice, self.lanes)
            weight = np.ones(batch_size, np.float32)
        else:
            # One point in each of B equal parts of the mass (Schaul et al. 2016, appendix B.2.1).
            mass = (np.arange(batch_size) + self.rng.random(batch_size)) / batch_size * self._tree.total
            leaf = self._tree.draw(mass)
            slot, lane = np.divmod(leaf, self.lanes)
            start = first + (slot - first) % (self.capacity // self.stride)
            probability = self._tree.get(leaf) / self._tree.total
            weight = ((last - first) * self.lanes * probability) ** -self.importance_exponent
            weight = (weight / weight.max()).astype(np.float32)
        return self._gather(start * self.stride, lane, weight, start * self.lanes + lane)

    def _episode_starts(self) -> np.ndarray:
        """(time, lane) of the episodes' first rows that can be drawn [M, 2]."""
        first, last = self._starts()
        time, lane = self._is_first[np.arange(first, last) % self.capacity].nonzero()
        return np.stack([first + time, lane], axis=1)

    def _read_on(self) -> Sequence:
        """The next rows of every reader. One whose episode has ended or cannot be read further begins another."""
        first, last = self._starts()
        lost = (self._reader_time < first) | (self._reader_time >= last)
        if lost.any():
            starts = self._episode_starts()
            chosen = starts[self.rng.integers(len(starts), size=int(lost.sum()))]
            self._reader_time[lost], self._reader_lane[lost] = chosen.T
            self._reader_state[lost] = 0.0
        readers = np.arange(len(lost))
        batch = self._gather(self._reader_time, self._reader_lane, np.ones(len(lost), np.float32), readers)
        return batch._replace(core_state=torch.from_numpy(self._reader_state.copy()))

    def _gather(self, time: np.ndarray, lane: np.ndarray, weight: np.ndarray, index: np.ndarray) -> Sequence:
        t = time + np.arange(-self._before, self.length)[:, None]  # [before + L, B]
        slot = t % self.capacity
        rows = slice(self._before, None)
        previous = slice(self._before - 1, -1)
        action = self._action[slot, lane].astype(np.int64)
        reward = self._reward[slot, lane]
        is_first = self._is_first[slot, lane][self._before - self.history :]
        frames = torch.from_numpy(self._frames(time - self.history, lane)).transpose(0, 1)
        inputs = Inputs(frames, *map(torch.from_numpy, (is_first, action[previous], reward[previous])))
        if self._zero_state:
            state = np.zeros((len(time), self._state_size), np.float32)
        else:
            state = self._state[time // self.stride % len(self._state), lane].astype(np.float32)
        ends = self._terminated[slot, lane][rows], self._truncated[slot, lane][rows]
        columns = map(torch.from_numpy, (action[rows], reward[rows], *ends, state, weight))
        return Sequence._make((inputs, *columns, index))

    def _frames(self, time: np.ndarray, lane: np.ndarray) -> np.ndarray:
        """Frames [B, history + L, H, W] from each (time, lane) on: whole blocks restored, then cut."""
        count = self.history + self.length
        shape = self._pending.shape[1:]
        size = self._pending[0].nbytes
        frames = np.empty((len(time), count, *shape[1:]), np.uint8)
        pending = self.time // BLOCK
        for out, begin, n in zip(frames, time.tolist(), lane.tolist(), strict=True):
            for block in range(begin // BLOCK, (begin + count - 1) // BLOCK + 1):
                if block == pending:
                    images = self._pending[n]
                else:
                    data = self._blocks[block % len(self._blocks)][n]
                    images = np.frombuffer(lz4.block.decompress(data, size), np.uint8).reshape(shape)
                low, high = max(begin, block * BLOCK), min(begin + count, (block + 1) * BLOCK)
                out[low - begin : high - begin] = images[low - block * BLOCK : high - block * BLOCK]
        return frames

    def learned(self, index: np.ndarray, priority: np.ndarray, core_state: np.ndarray) -> None:
        """What came of a batch: its `origin`, new priorities [B], the core state after the unrolled rows [B, S]."""
        if len(self._reader_time):
            rows = self._reader_time + np.arange(1, self._advance + 1)[:, None]  # [T, B]
            ended = self._is_first[rows % self.capacity, self._reader_lane].any(0)
            self._reader_time = np.where(ended, -1, self._reader_time + self._advance)
            self._reader_state[:] = core_state
        self.update_priorities(index, priority)

    def update_priorities(self, index: np.ndarray, priority: np.ndarray) -> None:
        """New priorities [B] for drawn sequences; those overwritten since are passed over."""
        if self._tree is None:
            return
        start, lane = np.divmod(index, self.lanes)
        first, last = self._starts()
        alive = (start >= first) & (start < last)
        if alive.any():
            priority = np.maximum(priority[alive].astype(np.float64), 1e-6)
            self._max_priority = max(self._max_priority, float(priority.max()))
            self._tree.set(self._leaf(start, lane)[alive], priority**self.priority_exponent)

    # --- checkpoint ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, np.ndarray]:
        """Everything but the generator, as arrays. Frames stay compressed."""
        blocks = [data for block in self._blocks for data in block]
        state = {
            "time": np.array(self.time),
            "frames": np.frombuffer(bytearray().join(blocks), np.uint8),
            "frame_bytes": np.array([len(data) for data in blocks], np.int32),
            "max_priority": np.array(self._max_priority),
            **{name: getattr(self, f"_{name}") for name in self._COLUMNS},
        }
        if self._tree is not None:
            state["priority"] = self._tree.nodes[self._tree.leaves :]
        return state

    _COLUMNS = ("pending", "is_first", "action", "reward", "terminated", "truncated", "state",
                "reader_time", "reader_lane", "reader_state")  # fmt: skip

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` gave. ValueError if it does not fit this replay, whoever made it."""
        # A checkpoint from before there were readers has none.
        state = {f"reader_{k}": getattr(self, f"_reader_{k}") for k in ("time", "lane", "state")} | dict(state)
        for name in self._COLUMNS:
            column = getattr(self, f"_{name}")
            if state[name].shape != column.shape or state[name].dtype != column.dtype:
                raise ValueError(f"replay column {name}: {state[name].shape}, expected {column.shape}")
            column[:] = state[name]
        time, most, sizes = int(state["time"]), float(state["max_priority"]), state["frame_bytes"].astype(np.int64)
        if not (0 <= time < 2**53 and 0 < most < 1e30):
            raise ValueError(f"replay time {time}, highest priority {most}")
        if state["frames"].dtype != np.uint8 or state["frames"].ndim != 1:
            raise ValueError("replay frames are not bytes")
        if sizes.shape != (len(self._blocks) * self.lanes,) or sizes.min() < 0 or sizes.sum() != len(state["frames"]):
            raise ValueError("replay frames do not fit their sizes")
        ends = np.cumsum(sizes)
        data = [state["frames"][end - n : end].tobytes() for end, n in zip(ends, sizes, strict=True)]
        self._blocks = [data[i : i + self.lanes] for i in range(0, len(data), self.lanes)]
        if (self._reader_lane < 0).any() or (self._reader_lane >= self.lanes).any():
            raise ValueError("a replay reader is in a lane that is not there")
        self.time, self._max_priority = time, most
        self._check_blocks()
        if self._tree is not None:
            leaves = state["priority"]
            alive = np.zeros(self._tree.leaves, bool)
            alive[self._leaf(np.arange(*self._starts())[:, None], np.arange(self.lanes))] = True
            if leaves.shape != alive.shape or leaves.dtype != np.float64:
                raise ValueError(f"replay priorities: {leaves.shape}, expected {alive.shape}")
            if not ((leaves > 0) == alive).all() or not (leaves < 1e30).all():
                raise ValueError("replay priorities are not those of the rows it holds")
            self._tree.set(np.arange(len(leaves)), leaves)

    def _check_blocks(self) -> None:
        """ValueError unless every block that can be read unpacks to its frames."""
        size = self._pending[0].nbytes
        for block in range(self._oldest // BLOCK, self.time // BLOCK):
            for data in self._blocks[block % len(self._blocks)]:
                try:
                    whole = len(lz4.block.decompress(data, size)) == size
                except (lz4.block.LZ4BlockError, ValueError):
                    whole = False
                if not whole:
                    raise ValueError("replay frames cannot be unpacked")
