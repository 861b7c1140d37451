"""One action for ever: what it does, and what it scores."""

from pathlib import Path

import pytest
import torch

from agents.rows import Inputs
from benchmarks import one_action
from experiment.settings.config import preset


def test_a_network_that_always_takes_one_action_does_so_whatever_it_sees() -> None:
    network = one_action.always(2, preset("dqn"), num_actions=4)
    frames = torch.randint(0, 256, (4, 3, 84, 84), dtype=torch.uint8)  # a stack of 4, three envs
    inputs = Inputs(frames, torch.zeros(4, 3, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3))
    q, _ = network(inputs, network.initial_state(3))
    assert q.tolist() == [[[0.0, 0.0, 1.0, 0.0]] * 3]


def test_in_space_invaders_only_actions_that_fire_score(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "held.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(one_action, "HELD_BUTTONS", tmp_path / "held.json")
    assert one_action.main(["--episodes", "1", "--epsilon", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    means = {line.split()[0]: float(line.split()[2]) for line in lines if not line.startswith("best")}
    assert set(means) == {"NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"}
    assert {name for name, mean in means.items() if mean > 0} == {"FIRE", "RIGHTFIRE", "LEFTFIRE"}


def test_an_unknown_game_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert one_action.main(["--game", "pongg"]) == 2
    assert "pong" in capsys.readouterr().err
