from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from agents.actor import Actor
from agents.networks import NetworkSettings, stack_frames
from agents.replay import Replay
from agents.rows import Inputs
from tests.agents.test_ring import SHAPES
from tests.batches import FRAME, Shape, equal, place, random_rows


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(SHAPES, st.integers(0, 500))
def test_learning_may_begin_at_start_rows_or_with_a_full_ring_and_never_has_to_stop(
    s: Shape, start_rows: int
) -> None:
    replay = s._replace(start_rows=start_rows).replay()
    capacity = replay.rings[0].capacity
    for time, row in enumerate(islice(random_rows(s.lanes), 2 * capacity), start=1):
        replay.append(row)
        gathered = time * s.lanes >= start_rows and bool(replay.rings[0].origins)
        assert replay.ready == (gathered if time < capacity else True)


class Spy:
    """Stands in for the network: keeps the stacks the actor shows it."""

    def __init__(self, depth: int) -> None:
        self.settings, self.num_actions, self.stacks = NetworkSettings(frame_stack=depth), 2, []

    def initial_state(self, batch_size: int) -> torch.Tensor:
        return torch.zeros(batch_size, 0)

    def __call__(self, inputs: Inputs, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.stacks.append(
            stack_frames(inputs.frames[..., None], inputs.is_first, self.settings.frame_stack)[0]
        )
        return torch.zeros(*inputs.prev_action.shape, 2), state


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_rebuilt_stack_equals_the_one_the_actor_saw(depth: int) -> None:
    s = Shape(history=depth - 1, length=5, written=75)
    replay, written = s.filled()
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
    (replay, written), (again, _) = Shape().filled(), Shape().filled()
    batch = replay.sample(8)
    for row in written:
        replay.append(row)
    assert equal(batch, again.sample(8))


def filled(s: Shape, rings: int) -> Replay:
    """One ring that went round; or three, the i-th with i stretches of two units."""
    if rings == 1:
        return s.filled()[0]
    replay = s._replace(spare=8).replay(rings=rings)
    for i in range(rings):
        for stretch in islice(s.stretches(i, i), i):
            replay.append(stretch)
    return replay


def drawable(replay: Replay) -> np.ndarray:
    """The origins of all sequences of all rings."""
    count = len(replay.rings)
    return np.sort([o * count + i for i, ring in enumerate(replay.rings) for o in ring.origins])


@pytest.mark.parametrize("rings", [1, 3])
def test_uniform_draws_are_uniform_over_all_rings_with_weights_of_1(rings: int) -> None:
    s = Shape(stride=8)
    replay = filled(s, rings)
    # Sequences of 3 rows at multiples of 8 from 8 on: of 16 rows that of time 8; of 32 at 8, 16 and
    # 24.
    if rings == 3:
        assert [len(ring.origins) for ring in replay.rings] == [0, 1 * 2, 3 * 2]
        assert len(replay) == (0 + 16 + 32) * 2
    batch = replay.sample(4_000)
    counts = Counter(batch.origin.tolist())
    assert sorted(counts) == drawable(replay).tolist()
    assert chisquare(list(counts.values())).pvalue > 0.01
    assert (batch.weight == 1).all()
    for b in range(0, 4_000, 250):  # each is that of its ring
        place, of = divmod(int(batch.origin[b]), rings)
        ring, one = replay.rings[of], np.ones(1, np.float32)
        frames, origin = torch.from_numpy(ring.frames(place))[:, None], batch.origin[b : b + 1]
        alone = ring.as_sequence(*ring.gather(np.array([place])), frames, one, origin)
        assert equal(alone, batch.lanes(slice(b, b + 1)))


@pytest.mark.parametrize("rings", [1, 3])
def test_sequences_are_drawn_in_proportion_to_priority_and_weighted_against_it_over_all_rings(
    rings: int,
) -> None:
    replay = filled(Shape(stride=8, priority_exponent=0.9), rings)
    origin = drawable(replay)
    priority = np.random.default_rng(5).uniform(0.1, 3.0, len(origin))
    replay.update_priorities(origin, torch.from_numpy(priority))
    share = priority**0.9 / (priority**0.9).sum()
    batch = replay.sample(5_000)
    # One draw in each of 5000 equal parts of the mass: no count is off by as much as 2, at most
    # once more a ring.
    counts = np.array([(batch.origin == o).sum() for o in origin])
    assert (abs(counts - 5_000 * share) < 3).all()
    weight = (len(origin) * share[np.searchsorted(origin, batch.origin)]) ** -0.6
    np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-6)


def prioritised() -> tuple[Replay, np.ndarray]:
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
        # one row before, 3 of length
        assert (replay.state()["0.priority"] > 0).sum() == len(replay) - 2 * (1 + 3 - 1)
    assert not set(replay.sample(2_000).origin) & set(origin)
    before, alive = replay.state()["0.priority"].copy(), drawable(replay)[:1]
    replay.update_priorities(np.append(origin, alive), torch.tensor([99.0] * len(origin) + [2.0]))
    assert (replay.state()["0.priority"] != before).sum() == 1
    assert replay.state()["0.max_priority"] < 99


@pytest.mark.parametrize("exponent", [0.0, 0.9])
@pytest.mark.parametrize(("rings", "written"), [(1, 0), (1, 5), (1, 43), (1, 100), (3, 0)])
def test_a_restored_replay_goes_on_as_if_never_stopped(
    rings: int, written: int, exponent: float
) -> None:
    s = Shape(
        stride=1 if rings == 1 else 8,
        history=2,
        written=written,
        spare=8,
        priority_exponent=exponent,
    )
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
            drawn = one.sample(6)
            assert equal(drawn, other.sample(6))
            for replay in (one, other):
                replay.update_priorities(drawn.origin, torch.linspace(0.2, 3.0, 6))
    for name, array in one.state().items():
        assert (array == other.state()[name]).all(), name
