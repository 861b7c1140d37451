import pytest

from envs.emulator import machine
from envs.families import rules
from envs.protocols import Protocol


def test_the_protocols_are_those_of_the_papers():
    assert rules("breakout", "v5") == Protocol("v5", 0.25, False, 0, False)
    assert rules("breakout", "machado18") == Protocol("machado18", 0.25, True, 0, False)
    assert rules("breakout", "dqn-2015") == Protocol("dqn-2015", 0.0, False, 30, True)
    with pytest.raises(ValueError, match="no protocol named 'v4': there are v5, "):
        rules("breakout", "v4")


def test_the_full_action_set_has_18_actions_and_the_minimal_one_what_the_game_reads():
    breakout = machine("breakout")
    assert breakout.actions(rules("breakout", "v5")) == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    assert len(breakout.actions(rules("breakout", "machado18"))) == 18
