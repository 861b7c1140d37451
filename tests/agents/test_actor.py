import numpy as np
import pytest
import torch

from agents.actor import Actor
from agents.rows import Inputs
from tests.batches import ACTIONS, NO_AUTOCAST, make_network

N = 3


def make_actor(network):
    return Actor(network, N, np.random.default_rng(0), NO_AUTOCAST)


def play(length):
    """Frames, starts and rewards of so many steps of the envs: the same whatever is done."""
    generator = np.random.default_rng(1)
    is_first = generator.random((length, N)) < 0.2
    is_first[0] = True
    frames = generator.integers(0, 256, (length, N, 84, 84), np.uint8)
    return frames, is_first, generator.normal(size=(length, N)).astype(np.float32)


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_the_actors_states_are_those_of_an_unroll_over_what_it_did_also_at_random(epsilon) -> None:
    network = make_network(core="lstm", frame_stack=3, last_action_reward=True)
    (frame, is_first, reward), actor = play(8), make_actor(network)
    actions = [actor.act(frame[t], is_first[t], reward[t], np.full(N, epsilon)) for t in range(8)]
    frames = np.concatenate([np.zeros((2, N, 84, 84), np.uint8), frame])
    starts = np.concatenate([np.zeros((2, N), bool), is_first])
    before = np.stack([np.full(N, ACTIONS - 1), *actions[:-1]])  # a decoy before the first
    unroll = Inputs(*map(torch.from_numpy, (frames, starts, before, reward)))
    with torch.no_grad():
        q, last = network(unroll, torch.full((N, network.state_size), 99.0))  # and another
    torch.testing.assert_close(actor.core_state, last, rtol=1e-4, atol=1e-5)
    assert np.array_equal(np.stack(actions), q.argmax(-1).numpy()) == (epsilon == 0)


def test_lanes_that_do_not_play_keep_their_state_and_leave_the_others_and_the_draws_alone() -> None:
    network, (frame, is_first, reward) = make_network(core="lstm"), play(1)
    one, other = make_actor(network), make_actor(network)
    step, before = (frame[0], is_first[0], reward[0], np.full(N, 0.5)), other.core_state
    action, some = one.act(*step), other.act(*step, playing=np.array([True, False, True]))
    assert (some[[0, 2]] == action[[0, 2]]).all()
    torch.testing.assert_close(other.core_state[[0, 2]], one.core_state[[0, 2]])
    assert torch.equal(other.core_state[1], before[1])
    assert other.rng.bit_generator.state == one.rng.bit_generator.state


def test_the_number_of_random_draws_does_not_depend_on_epsilon() -> None:
    network, (frame, is_first, reward) = make_network(), play(1)
    states = []
    for epsilon in ([0.0, 0.0, 0.0], [0.0, 0.5, 1.0], [1.0, 1.0, 1.0]):
        actor = make_actor(network)
        actor.act(frame[0], is_first[0], reward[0], np.array(epsilon))
        states.append(actor.rng.bit_generator.state)
    assert states == [states[0]] * 3
    assert states[0] != np.random.default_rng(0).bit_generator.state
