"""Playing whole episodes: who is computed, what is drawn at random, what a stop keeps."""

from dataclasses import replace

import numpy as np
import pytest

from agents.actor import Actor
from agents.networks import QNetwork
from envs.protocols import PROTOCOLS
from experiment import build
from experiment.scores.evaluation import Evaluation, evaluate, middle_and_best
from experiment.settings.config import Config

SMALL = dict(torso="dqn-2013", hidden=8, core_size=4, threads=1)
CONFIG = Config(game="breakout", eval_episodes=3, eval_epsilon=1.0, seed=4, **SMALL)
V5 = PROTOCOLS["v5"]


@pytest.fixture(scope="module")
def network() -> QNetwork:
    return build.make_network(CONFIG, 4)


@pytest.fixture(scope="module")
def played(network) -> tuple[Evaluation, list[int]]:
    """Three episodes, and the sizes of the batches that they took."""
    sizes: list[int] = []
    with network.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[1].shape[0])):
        return evaluate(network, CONFIG, V5), sizes


def test_only_envs_with_episodes_left_are_computed(network, played, monkeypatch) -> None:
    """And the games are the same as with all of them."""
    whole, sizes = played
    low, middle, high = sorted(record.steps for record in whole.records)
    assert sizes == [3] * low + [2] * (middle - low) + [1] * (high - middle)

    act = Actor.act
    monkeypatch.setattr(Actor, "act", lambda self, *rows, playing: act(self, *rows))
    every = evaluate(network, CONFIG, V5)
    assert every.scores == whole.scores
    for one, other in zip(every.records, whole.records, strict=True):
        assert np.array_equal(one.actions, other.actions)


def test_epsilon_is_the_share_of_random_actions(network, played) -> None:
    actions = np.concatenate([record.actions for record in played[0].records])
    shares = np.bincount(actions, minlength=4) / len(actions)
    assert np.allclose(shares, 0.25, atol=3 * np.sqrt(0.25 * 0.75 / len(actions)))
    greedy = evaluate(network, replace(CONFIG, eval_episodes=1, eval_epsilon=0.0), V5)
    assert np.bincount(greedy.records[0].actions).max() > 0.9 * greedy.records[0].steps


def test_a_stop_keeps_the_episodes_that_ended(network, played) -> None:
    reports = [(0, 0)]

    def report(scores, steps):
        reports.append((len(scores), steps))

    stopped = evaluate(network, CONFIG, V5, lambda: reports[-1][0] > 0, report=report)
    (record,) = stopped.records
    first = min(played[0].records, key=lambda record: record.steps)
    assert (stopped.scores, record.steps) == ([first.score], first.steps)
    assert reports == [*((0, step) for step in range(record.steps)), (1, record.steps)]


def test_episodes_come_in_env_order_and_the_last_env_plays_the_rest(network, monkeypatch) -> None:
    """Not the first 8 to end, which would be the short ones."""
    monkeypatch.setattr("experiment.scores.evaluation.MAX_ENVS", 3)
    records = evaluate(network, replace(CONFIG, eval_episodes=8), V5).records
    assert [record.env for record in records] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert records[0].start < records[1].start < records[2].start  # on one tape


def test_the_median_of_an_even_number_is_the_lower_one_and_of_equals_the_first_is_best() -> None:
    # From the best: 4 (1), 4 (2), 2 (3), 1 (0).
    assert middle_and_best([1.0, 4.0, 4.0, 2.0]) == (3, 1)
