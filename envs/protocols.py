"""Protocols: the rules of a score. Scores under different protocols must never be compared."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """Settings of the emulator. Frame skip (4) and longest episode (30 minutes) are constants."""

    name: str
    sticky: float  # probability, at every emulator frame, that the last action is repeated instead
    full_action_set: bool  # all 18 actions instead of the game's minimal set
    noop_max: int  # after a reset a random number of no-op frames, below this number; 0: none
    life_loss_terminal: bool  # a lost life is a termination for learning; the game continues


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        # The -v5 environments of gymnasium.
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

# For environments other than Atari, which have their own rules.
OWN = Protocol("own", sticky=0.0, full_action_set=False, noop_max=0, life_loss_terminal=False)
