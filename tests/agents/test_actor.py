from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from agents.actor import Actor
from agents.exploration import ActorEpsilon, LinearEpsilon, epsilon_greedy
from agents.networks import QNetwork
from agents.rows import Inputs
from tests.batches import ACTIONS, make_network

N = 3
NO_AUTOCAST = partial(torch.autocast, "cpu", torch.bfloat16, enabled=False)


def make_actor(network: QNetwork, seed: int = 0) -> Actor:
    return Actor(network, N, np.random.default_rng(seed), NO_AUTOCAST)


class Play:
    """What `length` steps of the envs look like, the same whatever is done."""

    def __init__(self, length: int, seed: int = 1, starts: float = 0.0) -> None:
        generator = np.random.default_rng(seed)
        self.frame = generator.integers(0, 256, (length, N, 84, 84), np.uint8)
        self.is_first = generator.random((length, N)) < starts
        self.reward = generator.normal(size=(length, N)).astype(np.float32)

    def through(self, actor: Actor, epsilon: float, start: int = 0, stop: int | None = None) -> tuple[list, list]:
        """Actions and core states after each step."""
        actions, states = [], []
        for t in range(len(self.frame))[start:stop]:
            actions.append(actor.act(self.frame[t], self.is_first[t], self.reward[t], np.full(N, epsilon)))
            states.append(actor.core_state)
        return actions, states


def test_an_exploratory_action_advances_the_core_state_like_any_other() -> None:
    """Without the last action in the inputs, what is done cannot matter to the state."""
    network, play = make_network(core="lstm", last_action_reward=False), Play(6, starts=0.2)
    greedy, after_greedy = play.through(make_actor(network), epsilon=0.0)
    explored, after_explored = play.through(make_actor(network), epsilon=1.0)
    assert not np.array_equal(greedy, explored)
    for one, other in zip(after_greedy, after_explored, strict=True):
        assert torch.equal(one, other)
    for before, after in pairwise(after_explored):
        assert (before != after).any(-1).all()


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_the_actors_states_are_those_of_an_unroll_over_what_it_did(epsilon: float) -> None:
    network = make_network(core="lstm", frame_stack=3, last_action_reward=True)
    play = Play(8, starts=0.2)
    play.is_first[0] = True
    actions, states = play.through(make_actor(network), epsilon)
    black, no = np.zeros((2, N, 84, 84), np.uint8), np.zeros((2, N), bool)
    unroll = Inputs(
        torch.from_numpy(np.concatenate([black, play.frame])),
        torch.from_numpy(np.concatenate([no, play.is_first])),
        torch.from_numpy(np.stack([np.full(N, ACTIONS - 1), *actions[:-1]])),  # a decoy before the first
        torch.from_numpy(play.reward),
    )
    with torch.no_grad():
        q, last = network(unroll, torch.full((N, network.state_size), 99.0))  # and another
    torch.testing.assert_close(states[-1], last, rtol=1e-4, atol=1e-5)
    if epsilon == 0:
        assert np.array_equal(np.stack(actions), q.argmax(-1).numpy())


def test_lanes_that_do_not_play_keep_their_state_and_leave_the_others_and_the_draws_alone() -> None:
    network, play, epsilon = make_network(core="lstm"), Play(2), np.full(N, 0.5)
    one, other = make_actor(network), make_actor(network)
    step = play.frame[0], play.is_first[0], play.reward[0], epsilon
    before = other.core_state
    action, some = one.act(*step), other.act(*step, playing=np.array([True, False, True]))
    assert (some[[0, 2]] == action[[0, 2]]).all()
    torch.testing.assert_close(other.core_state[[0, 2]], one.core_state[[0, 2]])
    assert torch.equal(other.core_state[1], before[1])
    assert other.rng.bit_generator.state == one.rng.bit_generator.state


def test_a_restored_actor_goes_on_bit_for_bit() -> None:
    network, play = make_network(core="lstm", frame_stack=4, last_action_reward=True), Play(9, starts=0.2)
    one = make_actor(network)
    play.through(one, epsilon=0.5, stop=4)
    other = make_actor(network, seed=99)
    other.restore({k: v.clone() for k, v in one.state().items()})
    other.rng.bit_generator.state = one.rng.bit_generator.state
    actions, states = play.through(one, epsilon=0.5, start=4)
    again, states_again = play.through(other, epsilon=0.5, start=4)
    assert np.array_equal(again, actions)
    assert all(torch.equal(a, b) for a, b in zip(states_again, states, strict=True))


def test_the_same_amount_is_drawn_whatever_q_and_epsilon() -> None:
    states = []
    for q, epsilon in ((np.zeros((5, 3)), 0.0), (99 * np.eye(5, 3), 0.5), (np.full((5, 3), -7.0), 1.0)):
        rng = np.random.default_rng(4)
        epsilon_greedy(q, np.full(5, epsilon), rng)
        states.append(rng.bit_generator.state)
    assert states[0] == states[1] == states[2]


def test_actions_are_random_as_often_as_epsilon_says_and_then_uniform() -> None:
    draws, q = 20_000, np.tile([0.0, 0, 1, 0, 0], (60_000, 1))
    taken = epsilon_greedy(q, np.repeat([0.0, 0.3, 1.0], draws), np.random.default_rng(0)).reshape(3, draws)
    shares = [np.bincount(of_env, minlength=5) / draws for of_env in taken]  # every env has its own epsilon
    expected = [[epsilon / 5 + (1 - epsilon) * (action == 2) for action in range(5)] for epsilon in (0, 0.3, 1)]
    np.testing.assert_allclose(shares, expected, atol=4 * np.sqrt(0.25 / draws))


def test_the_ladder_of_epsilons_goes_from_0_4_to_0_4_to_the_8() -> None:
    ladder = ActorEpsilon()(frame=99, num_envs=8)
    assert ladder.tolist() == pytest.approx([0.4 ** (1 + 7 * i / 7) for i in range(8)])
    assert (ladder[0], ladder[-1]) == pytest.approx((0.4, 0.4**8))
    assert ActorEpsilon()(0, 256)[100] == pytest.approx(0.4 ** (1 + 7 * 100 / 255))
    assert ActorEpsilon()(0, 1).tolist() == pytest.approx([0.4])


def test_linear_epsilon_falls_by_equal_parts_and_then_stays() -> None:
    epsilon = LinearEpsilon(start=1.0, final=0.1, frames=1000)
    for frame, expected in ((0, 1.0), (250, 1.0 - 0.25 * 0.9), (1000, 0.1), (99_999, 0.1)):
        assert epsilon(frame, 2).tolist() == pytest.approx([expected] * 2)
    assert LinearEpsilon(start=99.0, final=0.05, frames=0)(0, 3).tolist() == pytest.approx([0.05] * 3)
