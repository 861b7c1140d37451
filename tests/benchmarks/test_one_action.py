"""One action for ever: what it does, and what it scores."""

import json

from benchmarks import one_action
from experiment.settings.config import preset
from tests.batches import random_inputs


def test_a_network_that_always_takes_one_action_does_so_whatever_it_sees() -> None:
    network = one_action.always(2, preset("dqn"), num_actions=4)
    q, _ = network(random_inputs(1, lanes=3, depth=4), network.initial_state(3))
    assert q.tolist() == [[[0.0, 0.0, 1.0, 0.0]] * 3]


def test_each_action_is_scored_and_the_best_is_kept(capsys, monkeypatch, tmp_path) -> None:
    path = tmp_path / "held.json"
    path.write_text('{"pong": {}}', encoding="utf-8")
    monkeypatch.setattr(one_action, "HELD_BUTTONS", path)
    assert one_action.main("--game breakout --episodes 1 --epsilon 0.3".split()) == 0
    *lines, _ = (line.split() for line in capsys.readouterr().out.splitlines())
    means = {name: float(mean) for name, _, mean, *_ in lines}
    assert list(means) == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    written = json.loads(path.read_text())
    assert written["pong"] == {}
    best = written["breakout"]
    assert best["score"] == means[best["action"]] == max(means.values())


def test_a_wrong_game_is_one_line(error_of) -> None:
    assert "'pong'" in error_of(one_action.main, ["--game", "pongg"])
    other = "recall/Recall-v0"
    assert "must be an Atari game" in error_of(one_action.main, ["--game", other])
