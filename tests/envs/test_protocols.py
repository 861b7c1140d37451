from envs.emulator import machine
from envs.protocols import PROTOCOLS, Protocol, protocol


def test_the_protocols_are_those_of_the_papers():
    assert protocol("v5") == Protocol("v5", 0.25, False, 0, False)
    assert protocol("machado18") == Protocol("machado18", 0.25, True, 0, False)
    assert protocol("dqn-2015") == Protocol("dqn-2015", 0.0, False, 30, True)
    assert all(name == rules.name for name, rules in PROTOCOLS.items())


def test_the_full_action_set_has_18_actions_and_the_minimal_one_what_the_game_reads():
    breakout = machine("breakout")
    assert breakout.actions(protocol("v5")) == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    assert len(breakout.actions(protocol("machado18"))) == 18
    assert breakout.actions(protocol("dqn-2015")) == breakout.minimal_actions
