from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.ring import BLOCK, ring_times
from agents.rows import Rows
from tests.batches import STATE, Shape, equal, place, random_rows

SHAPES = st.builds(
    Shape,
    lanes=st.integers(1, 3),
    stride=st.integers(1, 12),
    length=st.integers(1, 20),
    history=st.integers(0, 4),
    spare=st.integers(0, 2),
    written=st.integers(0, 260),
    priority_exponent=st.sampled_from([0.0, 0.9]),
    start_rows=st.just(0),
    stored=st.just(True),
)
PROPERTY = settings(max_examples=25)


@PROPERTY
@given(SHAPES)
def test_sequences_are_the_rows_written_bit_for_bit_from_every_start_that_is_kept(s) -> None:
    replay, written = s.filled()
    ring, count = replay.rings[0], len(replay) // s.lanes
    # The ring keeps all it can; the block that is being filled takes the place of the oldest.
    assert count == s.written or count > ring.capacity - BLOCK - 1
    oldest = s.written - count + max(s.history, 1)  # a sequence needs the row before its first
    starts = [t for t in range(oldest, s.written - s.length + 1) if t % s.stride == 0]
    expected = [t // s.stride * s.lanes + lane for t in starts for lane in range(s.lanes)]
    assert [*ring.origins] == expected
    if not starts:
        return
    batch, w = replay.sample(24), Rows(*map(np.stack, zip(*written, strict=True)))
    for b in range(24):
        time, lane = place(batch, s.history, b)
        assert batch.origin[b] == time // s.stride * s.lanes + lane
        here, before = slice(time, time + s.length), slice(time - 1, time + s.length - 1)
        seen = slice(time - s.history, time + s.length)
        inputs = w.frame[seen], w.is_first[seen], w.action[before], w.reward[before]
        rest = w.action[here], w.reward[here], w.terminated[here], w.truncated[here]
        for ours, row in zip((*batch.inputs, *batch[1:5]), (*inputs, *rest), strict=True):
            np.testing.assert_array_equal(ours[:, b], row[:, lane])
        assert (batch.core_state[b].numpy() == w.core_state[time, lane].astype(np.float16)).all()


def test_memory_is_counted_to_the_byte_and_foretold_from_the_first_block() -> None:
    s, noise, foretold = Shape(spare=4, priority_exponent=0.9), np.random.default_rng(0), []
    ring = s.replay().rings[0]
    for row in islice(random_rows(s.lanes), 2 * ring.capacity):
        ring.append(row._replace(frame=noise.integers(0, 256, row.frame.shape, np.uint8)))
        foretold.append(ring.nbytes_when_full)
    size = {k: v.nbytes for k, v in ring.state().items()}
    arrays = sum(size[k] for k in size.keys() - {"frame_bytes", "time", "max_priority"})
    # The tree holds its leaves and as many sums; a compressed block is an object of 41 bytes more.
    assert ring.nbytes == arrays + size["priority"] + 41 * ring.capacity // BLOCK * s.lanes
    assert set(foretold[BLOCK - 1 :]) == {ring.nbytes}  # noise does not compress: blocks are alike


@PROPERTY
@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 4), st.integers(1, 12))
def test_too_small_a_ring_is_refused_with_the_rows_it_needs(lanes, length, history, stride) -> None:
    shape = (lanes, length, history, stride)
    says = rf"--replay-rows 9: too small; {lanes} envs and sequences of {length} "
    with pytest.raises(ValueError, match=says) as error:
        ring_times(9, *shape)
    needed = int(str(error.value).split("at least ")[1])
    assert ring_times(needed, *shape) * lanes == needed
    with pytest.raises(ValueError, match="too small"):
        ring_times(needed - 1, *shape)


def test_random_updates_start_from_zeros_and_store_no_state() -> None:
    replay, _ = Shape(stored=False).filled()
    assert replay.sample(16).core_state.tolist() == [[0] * STATE] * 16
    assert replay.rings[0].state()["state"].size == 0


# --- stretches


@PROPERTY
@given(SHAPES)
def test_a_ring_of_stretches_equals_one_of_rows_bit_for_bit_and_draws_the_same(s) -> None:
    one, other = s.replay(), s.replay()
    for row in islice(random_rows(s.lanes), 2 * s.unit * 5):
        one.append(row)
    for stretch in islice(s.stretches(), 5):
        assert stretch.steps == 2 * s.unit * s.lanes
        other.append(stretch)
    a, b = one.state(), other.state()
    for name in a.keys() - {"0.open_block"}:  # at whole blocks it holds nothing that is read
        assert (a[name] == b[name]).all(), name
    assert equal(one.sample(16), other.sample(16))
    assert one.nbytes == other.nbytes


def test_rows_after_a_gap_are_cut_off_from_those_before() -> None:
    s = Shape(stride=8, spare=8)
    ring, of_first = s.replay().rings[0], s.stretches()
    first, follows, second = next(of_first), next(of_first), next(s.stretches(seed=1))
    for stretch in (first, second, follows):
        ring.extend(stretch)
    expected = np.concatenate([first.rows, second.rows, follows.rows])["truncated"]
    expected[15] |= ~first.rows["terminated"][-1]  # the row before the gap is in no loss
    assert (ring.state()["truncated"][:48] == expected).all()
    assert (first.time, second.time, follows.time) == (0, 0, 16)


def test_first_priorities_of_a_stretch_are_kept_else_the_largest_so_far_stands() -> None:
    s = Shape(stride=8, length=8, spare=8, priority_exponent=0.9)
    one, other = s.replay().rings[0], s.replay().rings[0]
    for seed in (0, 1):
        one.extend(next(s.stretches(seed, priorities=True)))
    for stretch in islice(s.stretches(priorities=True), 2):
        other.extend(stretch)
    after_gap, in_a_row = (
        x.state()["priority"].reshape(-1, s.lanes).tolist() for x in (one, other)
    )
    # Of its first 16 rows an actor knows the sequence of time 8, with a row before it: origins 2
    # and 3. In the replay that of time 16, right after the gap, has a row before it too.
    known = [2.1**0.9, 3.1**0.9]
    assert after_gap[:5] == [[0, 0], known, [1, 1], known, [0, 0]]
    assert in_a_row[1:4] == [known, [4.1**0.9, 5.1**0.9], [6.1**0.9, 0.1**0.9]]
