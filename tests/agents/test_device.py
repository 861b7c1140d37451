"""Learner and actor on a device that is not the host: tests/stand_in.py says which."""

from unittest.mock import patch

import numpy as np
import pytest
import torch

from agents.actor import Actor
from agents.learner import Learner, LearnerSettings
from experiment import build
from experiment.scores.evaluation import evaluate
from experiment.settings.config import Config
from tests import stand_in
from tests.batches import NO_AUTOCAST, make_network, random_batch
from tests.stand_in import DEVICE, Moves

LANES = 2
PLAIN = {"trace_lambda": None, "target_period": 2, "max_grad_norm": None}
AGENTS = {  # settings of the network and of the learner
    "recurrent, without a target network": (
        {"torso": "nature", "core": "lstm", "head": "hl-gauss", "last_action_reward": True},
        {"burn_in": 2, "n_step": 1},
    ),
    "stacked, with a target network": (
        {"torso": "pooled", "core": "identity", "head": "qr", "frame_stack": 2}
        | {"standardize": True},
        {"burn_in": 0, "n_step": 2, **PLAIN},
    ),
}


def play_and_learn(agent, device, steps=2):
    """An update after each step of all envs; between them the learner is saved and resumed.

    The actions, and the metrics of the last update.
    """
    network, settings = AGENTS[agent]
    learning = LearnerSettings(unroll=3, **settings)
    network = make_network(norm=True, center="standardize" not in network, **network)
    learner = Learner(network, learning, NO_AUTOCAST, device)
    actor = Actor(learner.online, LANES, np.random.default_rng(1), NO_AUTOCAST)
    rows, depth = learning.burn_in + 3 + learning.n_step, network.settings.frame_stack
    rng, actions = np.random.default_rng(2), []
    for step in range(steps):
        batch = random_batch(rows, LANES, network.state_size, depth, step, ends=0.2)
        frame, is_first = rng.integers(0, 256, (LANES, 84, 84), np.uint8), np.full(LANES, step == 0)
        reward = np.ones(LANES, np.float32)
        actions.append(actor.act(frame, is_first, reward, np.zeros(LANES)).tolist())
        with patch.object(stand_in, "reads_raise", True):  # nothing waits for the device
            update = learner.update(batch)
        learner.check_finite()
        learner.restore({name: tensor.cpu().clone() for name, tensor in learner.state().items()})
    return actions, {name: float(value) for name, value in update.metrics.items()}


@pytest.mark.parametrize("agent", AGENTS)
def test_the_device_computes_what_the_host_computes_and_an_update_never_waits_for_it(agent) -> None:
    actions, metrics = play_and_learn(agent, torch.device("cpu"), steps=3)
    on_device = play_and_learn(agent, DEVICE, steps=3)
    assert on_device == (actions, pytest.approx(metrics, rel=1e-3))


def test_a_device_without_a_number_gets_its_number() -> None:
    # A copy's memory is protected from reuse by a comparison of devices: agents/rows.py.
    assert Learner(make_network(), LearnerSettings(), NO_AUTOCAST, "standin").device == DEVICE


def test_an_evaluation_on_the_device_has_the_scores_of_the_host() -> None:
    small = {"torso": "dqn-2013", "hidden": 8, "core_size": 4, "precision": "fp32"}
    config = Config(eval_episodes=1, eval_epsilon=0.5, **small)
    protocol, network = build.rules(config), build.make_network(config, 4)
    on_host = evaluate(network, config, protocol).scores
    assert evaluate(network.to(DEVICE), config, protocol).scores == on_host


def test_whatever_is_left_on_the_host_raises() -> None:
    made, failing = set(), set()
    for agent in AGENTS:  # one reads what another does not: a core state, the last reward
        with Moves() as noted:
            play_and_learn(agent, DEVICE)
        made |= noted.made
        for move in noted.made - failing:
            try:
                with Moves(forgotten=move):
                    play_and_learn(agent, DEVICE)
            except (RuntimeError, TypeError):
                failing.add(move)
    places = " ".join(line for line, _ in made)
    for file in "actor cores heads learner losses networks rows".split():
        assert file in places
    assert made == failing
