from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from agents.actor import Actor
from agents.networks import NetworkSettings, stack_frames
from agents.replay import BLOCK, Replay, ReplaySettings, Shards, Stretch, ring_times
from agents.rows import Inputs, Rows, Sequence

FRAME = (2, 3)  # frame[0] holds time (two bytes) and lane, so that a row can be told from every other
STATE = 2


class Settings(NamedTuple):
    lanes: int
    stride: int
    length: int
    history: int
    spare: int  # units of the ring beyond the fewest allowed
    written: int  # rows appended in each lane
    priority_exponent: float = 0.0
    start_rows: int = 0
    update: str = "stored"

    def replay(self, seed: int = 0) -> Replay:
        unit = int(np.lcm(BLOCK, self.stride))
        times = ((self.length + self.history) // unit + 3 + self.spare) * unit  # spare 0: the fewest allowed
        settings = ReplaySettings(
            update=self.update,  # type: ignore[arg-type]
            replay_rows=times * self.lanes,
            start_rows=self.start_rows,
            sequence_stride=self.stride,
            priority_exponent=self.priority_exponent,
        )
        shape = {"length": self.length, "history": self.history, "state_size": STATE, "frame_shape": FRAME}
        return Replay(settings, self.lanes, rng=np.random.default_rng(seed), **shape)  # type: ignore[arg-type]

    @property
    def before(self) -> int:
        """Rows a sequence needs before its first: those of the stack, and one for the previous action."""
        return max(self.history, 1)


def rows(lanes: int, seed: int = 0) -> Iterator[Rows]:
    """Endless rows of random content, each told by its frame."""
    generator, time = np.random.default_rng(seed), 0
    while True:
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
        time += 1


def filled(s: Settings) -> tuple[Replay, list[Rows]]:
    """A replay and, as the reference, the plain list of all rows ever written."""
    replay, written = s.replay(), []
    for _, row in zip(range(s.written), rows(s.lanes), strict=False):
        replay.append(row)
        written.append(row)
    return replay, written


def place(batch: Sequence, history: int, b: int) -> tuple[int, int]:
    """Time and lane of the first row of sequence b, read from its frame."""
    high, low, lane = batch.inputs.frames[history, b, 0].tolist()
    return 256 * high + low, lane


def tiny(**changes: int | float | str) -> Settings:
    plain = Settings(lanes=2, stride=1, length=3, history=0, spare=0, written=60)
    return plain._replace(**changes)  # type: ignore[arg-type]


SETTINGS = st.builds(
    Settings,
    lanes=st.integers(1, 3),
    stride=st.integers(1, 12),
    length=st.integers(1, 20),
    history=st.integers(0, 4),
    spare=st.integers(0, 2),
    written=st.integers(0, 260),
    priority_exponent=st.sampled_from([0.0, 0.9]),
    start_rows=st.integers(0, 500),
    update=st.just("stored"),
)
PROPERTY = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@PROPERTY
@given(SETTINGS)
def test_sampled_rows_are_consecutive_and_equal_bit_for_bit_to_those_written(s: Settings) -> None:
    replay, written = filled(s)
    if not replay.can_sample:
        return
    batch = replay.sample(24)
    for b in range(24):
        time, lane = place(batch, s.history, b)
        assert time % s.stride == 0
        assert time + s.length <= s.written
        for i in range(s.length):
            row, before = written[time + i], written[time + i - 1]
            assert batch.inputs.prev_action[i, b] == before.action[lane]
            assert batch.inputs.prev_reward[i, b].item() == before.reward[lane]
            assert batch.action[i, b] == row.action[lane]
            assert batch.reward[i, b].item() == row.reward[lane]
            assert batch.terminated[i, b] == row.terminated[lane]
            assert batch.truncated[i, b] == row.truncated[lane]
        for i in range(s.history + s.length):
            row = written[time - s.history + i]
            assert (batch.inputs.frames[i, b].numpy() == row.frame[lane]).all()
            assert batch.inputs.is_first[i, b] == row.is_first[lane]
        state = written[time].core_state[lane].astype(np.float16).astype(np.float32)
        assert batch.core_state[b].tolist() == state.tolist()


@PROPERTY
@given(SETTINGS)
def test_every_start_whose_rows_are_kept_can_be_drawn_and_no_other(s: Settings) -> None:
    replay, _ = filled(s)
    kept = len(replay) // s.lanes
    oldest = s.written - kept
    # The ring keeps all it can; the block that is being filled takes the place of the oldest.
    assert kept == s.written or kept > replay.capacity - BLOCK - 1
    starts = [t for t in range(oldest + s.before, s.written - s.length + 1) if t % s.stride == 0]
    expected = {(time, lane) for time in starts for lane in range(s.lanes)}
    assert replay.can_sample == bool(expected)
    drawn: set[tuple[int, int]] = set()
    while replay.can_sample and len(drawn) < len(expected):
        batch = replay.sample(200)
        drawn |= {place(batch, s.history, b) for b in range(200)}
    assert drawn == expected


@PROPERTY
@given(SETTINGS)
def test_learning_may_begin_at_start_rows_or_with_a_full_ring_and_never_has_to_stop(s: Settings) -> None:
    replay, ready = s.replay(), False
    for time, row in zip(range(1, 3 * replay.capacity), rows(s.lanes), strict=False):
        replay.append(row)
        assert replay.ready >= ready
        ready = replay.ready
        if time < replay.capacity:
            assert ready == (time * s.lanes >= s.start_rows and replay.can_sample)
        else:
            assert ready


def test_memory_is_counted_to_the_byte_and_foretold_from_the_first_block() -> None:
    s = tiny(written=0, spare=4, priority_exponent=0.9)
    replay = s.replay()
    noise = np.random.default_rng(0)
    for time, row in zip(range(3 * replay.capacity), rows(s.lanes), strict=False):
        replay.append(row._replace(frame=noise.integers(0, 256, row.frame.shape, np.uint8)))
        state, blocks = replay.state(), replay.capacity // BLOCK * s.lanes
        arrays = [
            v.nbytes for k, v in state.items() if k not in ("frames", "frame_bytes", "time", "max_priority", "priority")
        ]
        assert replay.nbytes == sum(arrays) + 2 * state["priority"].nbytes + len(state["frames"]) + 41 * blocks
        if time == BLOCK - 1:
            foretold = replay.nbytes_when_full
    assert replay.nbytes_when_full == replay.nbytes == foretold  # noise does not compress: all blocks are alike


class Spy:
    """Stands in for the network: keeps the stacks the actor shows it."""

    def __init__(self, depth: int) -> None:
        self.settings, self.num_actions, self.stacks = NetworkSettings(frame_stack=depth), 2, []

    def initial_state(self, batch_size: int) -> torch.Tensor:
        return torch.zeros(batch_size, 0)

    def __call__(self, inputs: Inputs, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.stacks.append(stack_frames(inputs.frames[..., None], inputs.is_first, self.settings.frame_stack)[0])
        return torch.zeros(*inputs.prev_action.shape, 2), state


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_rebuilt_stack_equals_the_one_the_actor_saw(depth: int) -> None:
    s = tiny(history=depth - 1, length=5, written=75)
    replay, written = filled(s)
    spy, no_autocast = Spy(depth), lambda: torch.autocast("cpu", torch.bfloat16, enabled=False)
    actor = Actor(spy, s.lanes, np.random.default_rng(0), no_autocast, FRAME)  # type: ignore[arg-type]
    for row in written:
        actor.act(row.frame, row.is_first, row.reward, np.ones(s.lanes))
    batch = replay.sample(50)
    stacks = stack_frames(batch.inputs.frames[..., None], batch.inputs.is_first, depth)
    for b in range(50):
        time, lane = place(batch, s.history, b)
        for i in range(s.length):
            assert torch.equal(stacks[i, b], spy.stacks[time + i][lane])


def test_a_sample_does_not_change_when_its_rows_are_overwritten() -> None:
    replay, written = filled(tiny())
    batch = replay.sample(8)
    before = [x.clone() for x in (*batch.inputs, *batch[1:-1])]  # type: ignore[union-attr]
    for row in written:
        replay.append(row)
    assert all(torch.equal(a, b) for a, b in zip(before, (*batch.inputs, *batch[1:-1]), strict=True))  # type: ignore[arg-type]


def test_uniform_draws_are_uniform_with_weights_of_1() -> None:
    s = tiny(stride=2, written=70)
    replay, _ = filled(s)
    counts: dict[tuple[int, int], int] = {}
    for _ in range(20):
        batch = replay.sample(200)
        assert (batch.weight == 1).all()
        for b in range(200):
            key = place(batch, 0, b)
            counts[key] = counts.get(key, 0) + 1
    assert chisquare(list(counts.values())).pvalue > 0.01


def origins(replay: Replay) -> np.ndarray:
    """Origins of all sequences that can be drawn."""
    return np.unique(np.concatenate([replay.sample(200).origin for _ in range(5)]))


def prioritised(**changes: int) -> tuple[Replay, np.ndarray, np.ndarray]:
    """A full replay with a priority of its own for every sequence: replay, origins, priorities."""
    replay, _ = filled(tiny(priority_exponent=0.9, **changes))
    origin = origins(replay)
    priority = np.random.default_rng(5).uniform(0.1, 3.0, len(origin))
    replay.update_priorities(origin, torch.from_numpy(priority))
    return replay, origin, priority


def test_sequences_are_drawn_in_proportion_to_priority_to_the_exponent() -> None:
    replay, origin, priority = prioritised()
    share = priority**0.9 / (priority**0.9).sum()
    # One draw in each of 5000 equal parts of the mass: no count is off by as much as 2.
    counts = np.array([(replay.sample(5000).origin == o).sum() for o in origin[:4]])
    assert (abs(counts - 5000 * share[:4]) < 2).all()
    drawn = replay.sample(5000).origin
    counts = np.array([(drawn == o).sum() for o in origin])
    assert counts.sum() == 5000
    assert (abs(counts - 5000 * share) < 2).all()


def test_importance_weights_are_m_p_to_minus_beta_over_the_largest() -> None:
    replay, origin, priority = prioritised()
    probability = dict(zip(origin.tolist(), priority**0.9 / (priority**0.9).sum(), strict=True))
    batch = replay.sample(10)
    weight = np.array([(len(origin) * probability[o]) ** -0.6 for o in batch.origin.tolist()])
    np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-6)


def test_new_sequences_get_the_largest_priority_so_far() -> None:
    replay, origin, _ = prioritised()
    replay.update_priorities(origin, torch.from_numpy(np.where(origin == origin[-1], 7.0, 0.5)))
    before = set(origin.tolist())
    for _, row in zip(range(3), rows(2), strict=False):
        replay.append(row)
    drawn = replay.sample(4000)
    new = [o for o in set(drawn.origin.tolist()) if o not in before]
    assert len(new) == 3 * 2
    leaf = replay.state()["priority"]
    assert np.isclose(leaf, 7.0**0.9).sum() == 1 + len(new)


def test_overwritten_sequences_are_never_drawn() -> None:
    replay, origin, _ = prioritised()
    replay.update_priorities(origin[:6], torch.full((6,), 1e6))
    for _, row in zip(range(2 * replay.capacity), rows(2), strict=False):
        replay.append(row)
        kept = len(replay) // 2
        assert (replay.state()["priority"] > 0).sum() == 2 * (kept - 1 - 3 + 1)  # one row before, 3 of length
    assert not set(origins(replay).tolist()) & set(origin.tolist())


def test_an_update_of_overwritten_sequences_is_ignored() -> None:
    replay, origin, _ = prioritised()
    for _, row in zip(range(2 * replay.capacity), rows(2), strict=False):
        replay.append(row)
    alive = origins(replay)[:1]
    before = replay.state()["priority"].copy()
    replay.update_priorities(origin, torch.full((len(origin),), 99.0))
    assert (replay.state()["priority"] == before).all()
    replay.update_priorities(np.append(origin, alive), torch.tensor([99.0] * len(origin) + [2.0]))
    assert (replay.state()["priority"] != before).sum() == 1
    assert replay.state()["max_priority"] < 99


def copy(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in state.items()}


def equal(one: Sequence, other: Sequence) -> bool:
    tensors = zip((*one.inputs, *one[1:-1]), (*other.inputs, *other[1:-1]), strict=True)
    return all(torch.equal(a, b) for a, b in tensors) and (one.origin == other.origin).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("exponent", [0.0, 0.9])
@pytest.mark.parametrize("written", [0, 5, 16, 43, 100])
def test_a_restored_replay_goes_on_as_if_never_stopped(written: int, exponent: float) -> None:
    s = tiny(history=2, written=written, priority_exponent=exponent)
    one, _ = filled(s)
    if one.can_sample:
        one.update_priorities(one.sample(16).origin, torch.linspace(0.1, 2.5, 16))
    other = s.replay(seed=99)
    other.restore(copy(one.state()))
    other.rng.bit_generator.state = one.rng.bit_generator.state
    assert len(one) == len(other)
    for _, row in zip(range(50), rows(2, seed=1), strict=False):
        if one.can_sample:
            drawn = one.sample(6)
            assert equal(drawn, other.sample(6))
            for replay in (one, other):
                replay.update_priorities(drawn.origin, torch.linspace(0.2, 3.0, 6))
        for replay in (one, other):
            replay.append(row)
    for name, array in one.state().items():
        assert (array == other.state()[name]).all(), name


@pytest.mark.parametrize("change", [{"lanes": 3}, {"spare": 1}, {"stride": 2}])
def test_the_state_of_a_replay_of_another_shape_is_refused(change: dict[str, int]) -> None:
    replay, _ = filled(tiny())
    with pytest.raises(ValueError, match="broadcast"):
        tiny(**change).replay().restore(copy(replay.state()))


@PROPERTY
@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 4), st.integers(1, 12))
def test_a_ring_that_is_too_small_is_refused_with_the_rows_it_needs(
    lanes: int, length: int, history: int, stride: int
) -> None:
    shape = (lanes, length, history, stride)
    with pytest.raises(ValueError, match=rf"--replay-rows 9: too small; {lanes} envs and sequences of {length} ") as e:
        ring_times(9, *shape)
    needed = int(str(e.value).split("at least ")[1].split()[0])
    assert ring_times(needed, *shape) * lanes == needed
    with pytest.raises(ValueError, match="too small"):
        ring_times(needed - 1, *shape)


def test_random_updates_start_from_zeros_and_store_no_state() -> None:
    replay, _ = filled(tiny(update="random"))
    assert replay.sample(16).core_state.shape == (16, STATE)
    assert not replay.sample(16).core_state.any()
    assert replay.state()["state"].size == 0


# --- stretches and shards


def packed(s: Settings, seed: int = 0, shard: int = 0, priorities: bool = False) -> Iterator[Stretch]:
    """Stretches of two units, as an actor elsewhere would send them from a ring of its own."""
    unit = int(np.lcm(BLOCK, s.stride))
    ring, endless = s._replace(spare=3 + s.length // unit).replay(), rows(s.lanes, seed)
    while True:
        for _, row in zip(range(2 * unit), endless, strict=False):
            ring.append(row)
        if priorities:
            ring.update_priorities(origin := origins(ring), torch.from_numpy(0.1 + origin % 7))
        yield ring.stretch(ring.time - 2 * unit, shard)


@PROPERTY
@given(SETTINGS)
def test_a_replay_of_stretches_equals_one_of_rows_bit_for_bit_and_draws_the_same(s: Settings) -> None:
    unit = int(np.lcm(BLOCK, s.stride))
    one, other = s.replay(), s.replay()
    for _, row in zip(range(2 * unit * 5), rows(s.lanes), strict=False):
        one.append(row)
    for _, stretch in zip(range(5), packed(s), strict=False):
        assert stretch.steps == 2 * unit * s.lanes
        other.extend(stretch)
    a, b = one.state(), other.state()
    for name in a.keys() - {"open_block"}:  # at whole blocks it holds nothing that is read
        assert (a[name] == b[name]).all(), name
    assert one.can_sample
    assert equal(one.sample(16), other.sample(16))
    assert one.nbytes == other.nbytes


def test_what_follows_a_gap_is_cut_off_from_what_was_before() -> None:
    s = tiny(stride=8, spare=8)
    replay, first, second = s.replay(), next(packed(s)), next(packed(s, seed=1))
    replay.extend(first)
    ends = first.columns["terminated"][-1]
    replay.extend(second)
    truncated = replay.state()["truncated"]
    assert (truncated[15] == first.columns["truncated"][15] | ~ends).all()  # a row of a gap is in no loss
    assert (truncated[:15] == first.columns["truncated"][:15]).all()
    assert (truncated[16:32] == second.columns["truncated"]).all()
    follows = next(stretch for stretch in packed(s) if stretch.time)
    assert follows.time == 16
    replay.extend(follows)
    assert (replay.state()["truncated"][31] == second.columns["truncated"][15]).all()


def test_first_priorities_of_a_stretch_are_kept_and_where_it_knows_none_the_largest_so_far_stands() -> None:
    s = tiny(stride=8, length=8, spare=8, priority_exponent=0.9)
    one, other = s.replay(), s.replay()
    for seed in (0, 1):
        one.extend(next(packed(s, seed, priorities=True)))
    # Of its first 16 rows an actor knows the sequence of time 8, with a row before it: origins 2 and 3. In the replay
    # that of time 16, right after the gap, has a row before it too.
    leaves = one.state()["priority"].reshape(-1, s.lanes)
    known = [2.1**0.9, 3.1**0.9]
    assert leaves[:5].tolist() == [[0, 0], known, [1, 1], known, [0, 0]]
    for _, stretch in zip(range(2), packed(s, priorities=True), strict=False):
        other.extend(stretch)
    leaves = other.state()["priority"].reshape(-1, s.lanes)
    assert leaves[1:4].tolist() == [known, [4.1**0.9, 5.1**0.9], [6.1**0.9, 0.1**0.9]]


def shards(s: Settings, count: int = 3, seed: int = 0) -> Shards:
    """Shards whose first frames tell them apart by their time: the i-th has i stretches."""
    both = Shards([s.replay(seed) for _ in range(count)])
    for i in range(count):
        for _, stretch in zip(range(i), packed(s, i, i), strict=False):
            both.append(stretch)
    return both


def test_shards_are_drawn_as_one_replay_of_all_their_sequences() -> None:
    s = tiny(stride=8, spare=8)
    both = shards(s)
    # Sequences of 3 rows at multiples of 8 from 8 on: of 16 rows that of time 8, of 32 rows those of 8, 16 and 24.
    assert [shard.drawable for shard in both.shards] == [0, 1 * 2, 3 * 2]
    assert len(both) == (0 + 16 + 32) * 2
    batch = both.sample(8_000)
    assert (batch.weight == 1).all()
    origin, shard = np.divmod(batch.origin, 3)
    assert chisquare(np.unique(batch.origin, return_counts=True)[1]).pvalue > 0.01
    for b in range(0, 8_000, 500):
        single = both.shards[shard[b]]
        frames = torch.empty((3, 1, *FRAME), dtype=torch.uint8)
        single.read_frames(origin[b : b + 1], frames)
        alone = single.gather(origin[b : b + 1], np.ones(1, np.float32), frames)
        assert equal(alone, batch.lanes(slice(b, b + 1))._replace(origin=origin[b : b + 1]))


def test_priorities_of_shards_are_drawn_and_weighted_over_all_and_go_back_to_where_they_came_from() -> None:
    s = tiny(stride=8, spare=8, priority_exponent=0.9)
    both = shards(s)
    origin = np.unique(both.sample(200).origin)
    assert len(origin) == (1 + 3) * 2
    both.update_priorities(origin, torch.arange(1, 9, dtype=torch.float64))
    probability = np.arange(1, 9) ** 0.9 / (np.arange(1, 9) ** 0.9).sum()
    batch = both.sample(5_000)
    counts = np.array([(batch.origin == o).sum() for o in origin])
    assert (abs(counts - 5_000 * probability) < 3).all()
    weight = (8 * probability[np.searchsorted(origin, batch.origin)]) ** -0.6
    np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-6)


def test_shards_are_ready_when_all_together_hold_the_start_rows() -> None:
    s = tiny(stride=8, spare=8, start_rows=64)
    both, one, other = Shards([s.replay(), s.replay()]), packed(s, 0, 0), packed(s, 1, 1)
    both.append(next(one))
    assert not both.ready  # 32 rows
    both.append(next(other))
    assert both.ready


def test_restored_shards_go_on_as_if_never_stopped() -> None:
    s = tiny(stride=8, spare=8, priority_exponent=0.9)
    one, other = shards(s), Shards([s.replay(9) for _ in range(3)])
    other.restore(copy(one.state()))
    other.rng.bit_generator.state = one.rng.bit_generator.state
    for source in (packed(s, 5, 0), packed(s, 6, 2)):
        stretch = next(source)
        for both in (one, other):
            both.append(stretch)
        assert equal(one.sample(16), other.sample(16))
