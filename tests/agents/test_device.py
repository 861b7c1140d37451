"""Learner and actor on a device that is not the host: tests/stand_in.py says which one, where there
is no GPU."""

from functools import partial

import numpy as np
import pytest
import torch

from agents.actor import Actor
from agents.learner import Learner, LearnerSettings
from agents.networks import NetworkSettings, QNetwork
from tests.batches import ACTIONS, random_batch
from tests.stand_in import DEVICE, Moves, no_reads

LANES = 2
PLAIN = partial(torch.autocast, "cpu", torch.bfloat16, enabled=False)
AGENTS = {
    "recurrent, without a target network": (
        NetworkSettings(hidden=8, core="lstm", core_size=4, head="hl-gauss"),
        LearnerSettings(burn_in=2, unroll=3, n_step=1),
    ),
    "stacked, with a target network": (
        NetworkSettings(
            hidden=8,
            core="identity",
            frame_stack=2,
            head="qr",
            last_action_reward=False,
            torso="lean",
        ),
        LearnerSettings(
            burn_in=0, unroll=3, n_step=2, trace_lambda=None, target_period=2, max_grad_norm=None
        ),
    ),
}


def play_and_learn(
    agent: str, device: torch.device, steps: int = 1
) -> tuple[list[list[int]], dict[str, float]]:
    """An update after each step of all envs. The actions, and the metrics of the last update."""
    settings, learning = AGENTS[agent]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learner = Learner(QNetwork(ACTIONS, settings), learning, PLAIN, device)
    network = learner.online
    actor = Actor(network, LANES, np.random.default_rng(1), PLAIN)
    rows, depth = learning.burn_in + learning.unroll + learning.n_step, settings.frame_stack
    rng, actions, metrics = np.random.default_rng(2), [], {}
    for step in range(steps):
        batch = random_batch(rows, LANES, network.state_size, depth, step, ends=0.2)
        frame = rng.integers(0, 256, (LANES, 84, 84), np.uint8)
        action = actor.act(
            frame, np.full(LANES, step == 0), np.ones(LANES, np.float32), np.zeros(LANES)
        )
        actions.append(action.tolist())
        with no_reads():
            update = learner.update(batch)
        metrics = {name: float(value) for name, value in update.metrics.items()}
    learner.check_finite()
    learner.restore(learner.state())
    return actions, metrics


@pytest.mark.parametrize("agent", AGENTS)
def test_the_device_computes_what_the_host_computes_and_an_update_never_waits_for_it(
    agent: str,
) -> None:
    actions, metrics = play_and_learn(agent, torch.device("cpu"), steps=3)
    on_device = play_and_learn(agent, DEVICE, steps=3)
    assert on_device[0] == actions
    assert on_device[1] == pytest.approx(metrics, rel=1e-3)


def needed(agent: str, move: tuple[str, int]) -> bool:
    """Whether the agent fails without this move to the device."""
    try:
        with Moves(move):
            play_and_learn(agent, DEVICE)
    except (RuntimeError, TypeError):
        return True
    return False


def test_whatever_is_left_on_the_host_raises() -> None:
    made, failing = set[tuple[str, int]](), set[tuple[str, int]]()
    for agent in AGENTS:  # one reads what another does not: a core state, the last reward
        with Moves() as noted:
            play_and_learn(agent, DEVICE)
        made |= noted.made
        failing |= {move for move in noted.made - failing if needed(agent, move)}
    places = " ".join(line for line, _ in made)
    assert all(
        file in places
        for file in ("actor", "cores", "heads", "learner", "losses", "networks", "rows")
    )
    assert not made - failing
