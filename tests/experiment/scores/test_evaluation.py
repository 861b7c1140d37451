"""Playing whole episodes: who is computed, what is drawn at random, what a stop keeps."""

from typing import Any

import numpy as np
import pytest
import torch

from agents.actor import Actor
from agents.networks import NetworkSettings, QNetwork
from envs.protocols import protocol
from experiment.scores.evaluation import StoppedError, evaluate, middle_and_best
from experiment.settings.config import Config

CONFIG = Config(game="breakout", eval_episodes=3, eval_epsilon=1.0, seed=4, hidden=8, core_size=4, threads=1)


@pytest.fixture(scope="module")
def network() -> QNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return QNetwork(4, NetworkSettings(hidden=8, core_size=4))


def test_only_envs_with_episodes_left_are_computed_and_the_games_are_the_same(
    network: QNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    handle = network.register_forward_pre_hook(lambda _, given: sizes.append(given[1].shape[0]))
    shrunk = evaluate(network, CONFIG, protocol("v5"))
    handle.remove()
    steps = [record.steps for record in shrunk.records]
    assert sizes == [3] * min(steps) + [2] * (sorted(steps)[1] - min(steps)) + [1] * (max(steps) - sorted(steps)[1])

    act = Actor.act
    monkeypatch.setattr(Actor, "act", lambda self, *rows, playing: act(self, *rows))
    whole = evaluate(network, CONFIG, protocol("v5"))
    assert whole.scores == shrunk.scores
    for one, other in zip(whole.records, shrunk.records, strict=True):
        assert np.array_equal(one.actions, other.actions)


def test_a_stop_keeps_the_episodes_that_ended(network: QNetwork) -> None:
    reported: list[tuple[int, int]] = []

    def report(scores: list[float], steps: int) -> None:
        reported.append((len(scores), steps))

    def stop() -> bool:
        return bool(reported) and reported[-1][0] > 0

    with pytest.raises(StoppedError) as stopped:
        evaluate(network, CONFIG, protocol("v5"), stop, report=report)
    (record,) = stopped.value.partial.records
    assert stopped.value.partial.scores == [record.score]
    assert reported[-1] == (1, record.steps)  # the first tape of an env begins at step 0
    assert [steps for _, steps in reported] == [*range(1, record.steps + 1)]


def test_episodes_come_in_env_order_and_the_last_env_plays_the_rest(
    network: QNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiment.scores.evaluation.MAX_ENVS", 2)
    result: Any = evaluate(network, CONFIG, protocol("v5"))
    assert [record.env for record in result.records] == [0, 0, 1]  # 3 episodes: 2 an env, and what is left
    assert result.records[0].start < result.records[1].start  # both on one tape


def test_the_median_of_an_even_number_is_the_lower_one_and_of_equals_the_first_is_best() -> None:
    assert middle_and_best([1.0, 4.0, 4.0, 2.0]) == (3, 1)  # from the best: 4 (1), 4 (2), 2 (3), 1 (0)
