"""One action for ever: what it does, and what it scores."""

import json
from pathlib import Path

import pytest
import torch

from agents.rows import Inputs
from benchmarks import one_action
from experiment.settings.config import preset


def test_a_network_that_always_takes_one_action_does_so_whatever_it_sees() -> None:
    network = one_action.always(2, preset("dqn"), num_actions=4)
    frames = torch.randint(0, 256, (4, 3, 84, 84), dtype=torch.uint8)  # a stack of 4, three envs
    inputs = Inputs(
        frames,
        torch.zeros(4, 3, dtype=torch.bool),
        torch.zeros(1, 3, dtype=torch.int64),
        torch.ones(1, 3),
    )
    q, _ = network(inputs, network.initial_state(3))
    assert q.tolist() == [[[0.0, 0.0, 1.0, 0.0]] * 3]


def test_in_breakout_each_action_is_scored_and_the_best_is_kept(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "held.json"
    path.write_text('{"pong": {}}', encoding="utf-8")
    monkeypatch.setattr(one_action, "HELD_BUTTONS", path)
    assert one_action.main(["--game", "breakout", "--episodes", "1", "--epsilon", "0.3"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    means = {name: float(mean) for name, _, mean, *_ in lines[:-1]}
    assert list(means) == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    written = json.loads(path.read_text())
    assert written["pong"] == {}
    assert (
        written["breakout"]["score"] == means[written["breakout"]["action"]] == max(means.values())
    )


def test_an_unknown_game_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert one_action.main(["--game", "pongg"]) == 2
    assert "pong" in capsys.readouterr().err
