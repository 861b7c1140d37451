"""The rules a score is measured under. Scores of different protocols must never be compared."""

from dataclasses import dataclass

from envs.games import choose


@dataclass(frozen=True)
class Protocol:
    """How the emulator is set up. Frame skip (4) and longest episode (30 minutes) are the same in
    all."""

    name: str
    sticky: float  # probability, at every emulator frame, that the last action is repeated instead
    full_action_set: bool  # all 18 actions instead of the game's minimal set
    # Fewer than this many no-ops, at random, in emulator frames, after every reset; 0: none.
    noop_max: int
    # Training learns a lost life as a termination; the game is never reset by it.
    life_loss_terminal: bool


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        # The `v5` environments of gymnasium.
        Protocol("v5", sticky=0.25, full_action_set=False, noop_max=0, life_loss_terminal=False),
        # Machado et al. 2018, "Revisiting the Arcade Learning Environment".
        Protocol(
            "machado18", sticky=0.25, full_action_set=True, noop_max=0, life_loss_terminal=False
        ),
        # Mnih et al. 2015, "Human-level control through deep reinforcement learning".
        Protocol(
            "dqn-2015", sticky=0.0, full_action_set=False, noop_max=30, life_loss_terminal=True
        ),
    )
}

# Environments other than Atari: their own rules, whichever protocol is asked for.
OWN = Protocol("own", sticky=0.0, full_action_set=False, noop_max=0, life_loss_terminal=False)


def protocol(name: str) -> Protocol:
    """The protocol of this name. ValueError if there is none."""
    return choose("protocol", name, PROTOCOLS)
