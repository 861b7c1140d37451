from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from tests.agents.test_ring import SHAPES
from tests.batches import Shape, equal, random_rows


@settings(max_examples=15)
@given(SHAPES, st.integers(0, 500))
def test_learning_begins_at_start_rows_or_with_a_full_ring_and_never_stops(s, start_rows) -> None:
    replay = s._replace(start_rows=start_rows).replay()
    capacity = replay.rings[0].capacity
    for time, row in enumerate(islice(random_rows(s.lanes), 2 * capacity), start=1):
        replay.append(row)
        gathered = time * s.lanes >= start_rows and bool(replay.rings[0].origins)
        assert replay.ready == (gathered if time < capacity else True)


def test_a_sample_does_not_change_when_its_rows_are_overwritten() -> None:
    (replay, written), (again, _) = Shape().filled(), Shape().filled()
    batch = replay.sample(8)
    for row in written:
        replay.append(row)
    assert equal(batch, again.sample(8))


def filled(s, rings):
    """One ring that went round; or three, the i-th with i stretches of two units."""
    if rings == 1:
        return s.filled()[0]
    replay = s._replace(spare=8).replay(rings=rings)
    for i in range(rings):
        for stretch in islice(s.stretches(i, i), i):
            replay.append(stretch)
    return replay


def drawable(replay):
    """The origins of all sequences of all rings."""
    count = len(replay.rings)
    return np.sort([o * count + i for i, ring in enumerate(replay.rings) for o in ring.origins])


@pytest.mark.parametrize("rings", [1, 3])
@pytest.mark.parametrize("exponent", [0.0, 0.9])
def test_draws_are_in_proportion_to_priority_and_weighted_against_it(rings, exponent) -> None:
    replay = filled(Shape(stride=8, priority_exponent=exponent), rings)
    if rings == 3:  # sequences of 3 rows at 8 of 16 rows, and at 8, 16 and 24 of 32, in two lanes
        assert [len(ring.origins) for ring in replay.rings] == [0, 1 * 2, 3 * 2]
        assert len(replay) == (0 + 16 + 32) * 2
    origin = drawable(replay)
    priority = np.random.default_rng(5).uniform(0.1, 3.0, len(origin))
    replay.update_priorities(origin, torch.from_numpy(priority))
    share = priority**exponent / (priority**exponent).sum()
    batch = replay.sample(5_000)
    counts = np.array([(batch.origin == o).sum() for o in origin])
    assert chisquare(counts, 5_000 * share).pvalue > 0.01
    if exponent:  # one draw in each of 5000 equal parts of the mass, or two once more a ring
        assert (abs(counts - 5_000 * share) < 3).all()
    weight = (len(origin) * share[np.searchsorted(origin, batch.origin)]) ** -0.6
    np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-6)
    for b in range(0, 5_000, 250):  # each is that of its ring
        place, of = divmod(int(batch.origin[b]), rings)
        ring, frames = replay.rings[of], torch.from_numpy(replay.rings[of].frames(place))[:, None]
        rest = frames, batch.weight[b : b + 1].numpy(), batch.origin[b : b + 1]
        alone = ring.as_sequence(*ring.gather(np.array([place])), *rest)
        assert equal(alone, batch.lanes(slice(b, b + 1)))


def prioritised():
    """A full replay whose last sequence has the priority 7, the others 0.5. All origins."""
    replay, _ = Shape(priority_exponent=0.9).filled()
    origin = drawable(replay)
    replay.update_priorities(origin, torch.from_numpy(np.where(origin == origin[-1], 7.0, 0.5)))
    return replay, origin


def test_new_sequences_get_the_largest_priority_so_far() -> None:
    replay, origin = prioritised()
    for row in islice(random_rows(2), 3):
        replay.append(row)
    new = set(replay.sample(4000).origin.tolist()) - set(origin.tolist())
    assert len(new) == 3 * 2
    assert np.isclose(replay.state()["0.priority"], 7.0**0.9).sum() == 1 + len(new)


def test_overwritten_sequences_are_never_drawn_and_their_updates_are_ignored() -> None:
    replay, origin = prioritised()
    for row in islice(random_rows(2), 2 * replay.rings[0].capacity):
        replay.append(row)
        undrawable = 2 * (1 + 3 - 1)  # a row before, 3 of length, in two lanes
        assert (replay.state()["0.priority"] > 0).sum() == len(replay) - undrawable
    assert not set(replay.sample(2_000).origin) & set(origin)
    before, alive = replay.state()["0.priority"].copy(), drawable(replay)[:1]
    replay.update_priorities(np.append(origin, alive), torch.tensor([99.0] * len(origin) + [2.0]))
    assert (replay.state()["0.priority"] != before).sum() == 1
    assert replay.state()["0.max_priority"] < 99


@pytest.mark.parametrize("exponent", [0.0, 0.9])
@pytest.mark.parametrize(("rings", "written"), [(1, 0), (1, 5), (1, 43), (1, 100), (3, 0)])
def test_a_restored_replay_goes_on_as_if_never_stopped(rings, written, exponent) -> None:
    stride = 1 if rings == 1 else 8
    s = Shape(2, stride, history=2, written=written, spare=8, priority_exponent=exponent)
    one, other = filled(s, rings), s.replay(99, rings)
    if len(drawable(one)):
        one.update_priorities(one.sample(16).origin, torch.linspace(0.1, 2.5, 16))
    other.restore({name: array.copy() for name, array in one.state().items()})
    other.rng.bit_generator.state = one.rng.bit_generator.state
    assert len(one) == len(other)
    for new in islice(random_rows(2, 1), 50) if rings == 1 else islice(s.stretches(5, 2), 3):
        for replay in (one, other):
            replay.append(new)
        if len(drawable(one)):
            drawn, also = one.sample(6), other.sample(6)
            assert equal(drawn, also)
            for replay in (one, other):
                replay.update_priorities(drawn.origin, torch.linspace(0.2, 3.0, 6))
    for name, array in one.state().items():
        assert (array == other.state()[name]).all(), name
