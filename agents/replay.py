"""Sequence replay: lanes (one per env) of rows in one ring, frames compressed, drawn uniformly or by priority.

All lanes advance together, so a row is addressed by (time, lane). LZ4 looks back 64 KiB, and eight 84x84 frames are
55 KiB: compressed eight rows at a time, a frame costs little more than its difference to the one before. Frames are
never stored twice; stacks are made from rows.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from typing import Annotated, Literal, NamedTuple

import lz4.block
import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from agents.fields import FORBID, Count, Share, Whole
from agents.rows import Inputs, Rows, Sequence
from agents.sum_tree import SumTree

BLOCK = 8  # rows compressed together
BYTES_OBJECT = 41  # of a bytes object and the reference to it, beside its contents


@dataclass(frozen=True, config=FORBID)
class ReplaySettings:
    """The replay: its size, and how sequences are drawn."""

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


class Stretch(NamedTuple):
    """T consecutive rows of all N lanes of a replay, packed as it keeps them: whole blocks and whole strides."""

    shard: int  # the replay that it belongs to, among several
    time: int  # of its first row, where it was packed; 0: nothing comes before it
    columns: dict[str, np.ndarray]  # [T, N]
    state: np.ndarray  # [T / stride, N, S] float16
    blocks: list[list[bytes]]  # [T / BLOCK][N], compressed frames
    priority: np.ndarray  # [starts, N] float64, as in the sum tree: of the last sequences that these rows complete

    @property
    def steps(self) -> int:
        """Rows of all lanes together."""
        return self.columns["action"].size


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
    def frames_shape(self) -> tuple[int, ...]:
        """Images of a sequence, with those before it, their height and width."""
        return (self.history + self.length, *self._open_block.shape[2:])

    @property
    def drawable(self) -> int:
        """Sequences that can be drawn."""
        return len(self._starts()) * self.lanes

    @property
    def can_sample(self) -> bool:
        return self.drawable > 0

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
        self._prioritise(before, np.empty(0))

    def _prioritise(self, before: range, priority: np.ndarray) -> None:
        """After rows were written: priorities of new starts, the last ones as given; `before` could be drawn."""
        if self._tree is None:
            return
        now, lanes = self._starts(), np.arange(self.lanes)
        for start in range(before.start, min(now.start, before.stop)):  # overwritten: never drawn again
            self._tree.set(self._leaf(start, lanes), 0.0)
        for start in range(max(before.stop, now.start), now.stop):
            given = len(priority) - (now.stop - start)
            new = priority[given] if given >= 0 else self._max_priority**self.settings.priority_exponent
            self._tree.set(self._leaf(start, lanes), new)

    def stretch(self, first: int, shard: int = 0) -> Stretch:
        """The rows from time `first` on, packed. Both ends are whole blocks and strides, and the rows are kept."""
        slots = np.arange(first, self.time) % self.capacity
        columns = {name: column[slots] for name, column in self._columns.items()}
        blocks = [self._blocks[slot // BLOCK] for slot in slots[::BLOCK]]
        leaves = self._leaf(*np.divmod(self.completed(first), self.lanes))
        priority = np.empty(0) if self._tree is None else self._tree.get(leaves)
        state = self._state[slots[:: self.stride] // self.stride]
        return Stretch(shard, first, columns, state, blocks, priority.reshape(-1, self.lanes))

    def completed(self, first: int) -> np.ndarray:
        """The origins of the sequences that the rows from time `first` on have completed."""
        starts = self._starts()
        begin = max(starts.start, (first - self.length) // self.stride + 1)
        return np.arange(begin * self.lanes, starts.stop * self.lanes)

    def extend(self, stretch: Stretch) -> None:
        """Write the rows of a stretch in every lane, after those here: whole blocks and strides as well.

        Where nothing comes before the stretch, the last row here is truncated: no target crosses the gap.
        """
        before, times = self._starts(), len(stretch.columns["action"])
        slots = (self.time + np.arange(times)) % self.capacity
        if stretch.time == 0 and self.time:
            last = (self.time - 1) % self.capacity
            self._columns["truncated"][last] |= ~self._columns["terminated"][last]
        for name, column in self._columns.items():
            column[slots] = stretch.columns[name]
        self._state[slots[:: self.stride] // self.stride] = stretch.state
        for slot, lanes in zip(slots[::BLOCK], stretch.blocks, strict=True):
            self._keep_block(slot // BLOCK, lanes)
        self.time += times
        self._prioritise(before, stretch.priority)

    def _keep_block(self, index: int, lanes: list[bytes]) -> None:
        self._compressed += sum(map(len, lanes)) - sum(map(len, self._blocks[index]))
        self._blocks[index] = lanes

    def _leaf(self, start: int | np.ndarray, lane: np.ndarray) -> np.ndarray:
        return start % self.starts_kept * self.lanes + lane

    @property
    def mass(self) -> float:
        """Points to draw among: the sum of the priorities, or the number of sequences where all are equal."""
        return self.drawable if self._tree is None else self._tree.total

    def sample(self, batch_size: int) -> Sequence:
        """Draw `batch_size` sequences with replacement."""
        return draw([self], batch_size, self.rng)

    def locate(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The origins [B] of the sequences at points from 0 to `mass`, and the mass of each."""
        starts = self._starts()
        first = starts.start * self.lanes
        if self._tree is None:
            return first + point, np.ones(len(point))
        leaf = self._tree.draw(point)  # leaves are origins, once round the ring
        return first + (leaf - first) % (self.starts_kept * self.lanes), self._tree.get(leaf)

    def read_frames(self, origin: np.ndarray, frames: torch.Tensor) -> None:
        """Write the frames of the sequences of these origins [B] to `frames` [history + L, B, H, W]."""
        start, lane = np.divmod(origin, self.lanes)
        array = frames.numpy()
        for b, (t, n) in enumerate(zip((start * self.stride).tolist(), lane.tolist(), strict=True)):
            array[:, b] = self._frames(t - self.history, n)

    def gather(self, origin: np.ndarray, weight: np.ndarray, frames: torch.Tensor) -> Sequence:
        """The sequences of these origins [B], with the `frames` that `read_frames` has written."""
        start, lane = np.divmod(origin, self.lanes)
        time = start * self.stride
        slots = (time + np.arange(-self._before, self.length)[:, None]) % self.capacity  # [before + L, B]
        is_first, action, reward, *ends = (torch.from_numpy(column[slots, lane]) for column in self._columns.values())
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


def draw(shards: Seq[Replay], batch_size: int, rng: np.random.Generator) -> Sequence:
    """Sequences of all shards together, with replacement. Their origins count the shards too, which vary fastest."""
    head, masses = shards[0], np.cumsum([shard.mass for shard in shards])
    settings, total = head.settings, masses[-1]
    if not total:
        raise ValueError(f"the replay holds {head.time} rows a lane: no sequence of {head.length} yet")
    if settings.priority_exponent:  # one point in each of B equal parts (Schaul et al. 2016, appendix B.2.1)
        point = (np.arange(batch_size) + rng.random(batch_size)) / batch_size * total
    else:
        point = rng.integers(total, size=batch_size)
    drawable = [i for i, shard in enumerate(shards) if shard.can_sample]
    of = np.minimum(np.searchsorted(masses, point, side="right"), drawable[-1])  # rounding may reach the total
    used = np.unique(of)
    places = [shards[i].locate(point[of == i] - (masses[i - 1] if i else 0)) for i in used]
    weight = np.ones(batch_size, np.float32)
    if settings.priority_exponent:
        count = sum(shard.drawable for shard in shards)
        mass = np.concatenate([mass for _, mass in places])
        scaled = (count * (mass / total)) ** -settings.importance_exponent
        weight = (scaled / scaled.max()).astype(np.float32)
    images, *size = head.frames_shape
    frames = torch.empty((images, batch_size, *size), dtype=torch.uint8, pin_memory=head.pin)
    parts, begin = [], 0
    for i, (origin, _) in zip(used, places, strict=True):
        here = slice(begin, begin + len(origin))
        shards[i].read_frames(origin, frames[:, here])
        part = shards[i].gather(origin, weight[here], frames[:, here])
        parts.append(part._replace(origin=origin * len(shards) + i))
        begin = here.stop
    if len(parts) == 1:
        return parts[0]
    inputs, *columns, origins = zip(*parts, strict=True)
    _, *others = (torch.cat(x, 1) for x in zip(*inputs, strict=True))
    # the first four columns are [L, B], the core state and the weight [B, ...]
    joined = [torch.cat(x, int(k < 4)) for k, x in enumerate(columns)]
    return Sequence(Inputs(frames, *others), *joined, np.concatenate(origins))  # type: ignore[call-arg]


class Shards:
    """Replays of one shape side by side, one for each actor that plays elsewhere, drawn from as one."""

    def __init__(self, shards: list[Replay]) -> None:
        self.shards, self.settings, self.rng = shards, shards[0].settings, shards[0].rng

    def __len__(self) -> int:
        """Rows that can be read."""
        return sum(map(len, self.shards))

    @property
    def ready(self) -> bool:
        """As of a replay: --start-rows rows were gathered, or a ring is full. Stays true."""
        gathered = sum(shard.time * shard.lanes for shard in self.shards) >= self.settings.start_rows
        full = any(shard.time >= shard.capacity for shard in self.shards)
        return (gathered or full) and any(shard.can_sample for shard in self.shards)

    @property
    def nbytes(self) -> int:
        return sum(shard.nbytes for shard in self.shards)

    @property
    def nbytes_when_full(self) -> int:
        return sum(shard.nbytes_when_full for shard in self.shards)

    def append(self, stretch: Stretch) -> None:
        """Write the rows of one actor, or none."""
        if stretch.steps:
            self.shards[stretch.shard].extend(stretch)

    def sample(self, batch_size: int) -> Sequence:
        """Draw `batch_size` sequences with replacement."""
        return draw(self.shards, batch_size, self.rng)

    def update_priorities(self, origin: np.ndarray, priority: torch.Tensor) -> None:
        """New priorities [B] for drawn sequences; those overwritten since are passed over."""
        if self.settings.priority_exponent:
            origin, of = np.divmod(origin, len(self.shards))
            priority = priority.cpu()
            for i in np.unique(of):
                self.shards[i].update_priorities(origin[of == i], priority[of == i])

    def state(self) -> dict[str, np.ndarray]:
        """Everything but the generator, as arrays."""
        return {f"{i}.{k}": v for i, shard in enumerate(self.shards) for k, v in shard.state().items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` gave. KeyError or ValueError if it does not fit."""
        for i, shard in enumerate(self.shards):
            shard.restore({k.removeprefix(f"{i}."): v for k, v in state.items() if k.startswith(f"{i}.")})
