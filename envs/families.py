"""The families of environments, and one door to all of them: an Atari game has a name, any other a
gymnasium id."""

import re
from typing import NamedTuple
from typing import Protocol as Interface

import numpy as np

from envs import emulator, recall  # noqa: F401 - recall registers its environments
from envs.emulator import Emulators, available_games, check_game, machine
from envs.images import Images, facts
from envs.protocols import OWN, Protocol, protocol

# Of a tape: the emulator takes 32-bit signed seeds; a negative one means "no seed".
MAX_SEED = 2**31 - 1


class Games(Interface):
    """N environments of one kind, as `envs.tapes` drives them.

    After a seeded reset, images, rewards and ends must depend on the seed and the actions alone.
    """

    # 1; more where a step is a part of what an action brings (every frame of a film)
    steps_an_action: int

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Begin an episode where `mask` is True, bool [N], at any time. seeds: int64 [N], -1: no
        seed, the random numbers go on. Returns the images of all, uint8 [N, H, W] (or [N, H, W, 3]
        in colour), and lives, int [N]."""
        ...

    def send(self, actions: np.ndarray) -> None:
        """Set the environments going. actions: int64 [N], in range."""

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Wait. Returns images, rewards [N], terminated and truncated, bool [N], and lives, int
        [N]. An environment whose episode is over is reset before its next step."""
        ...

    def close(self) -> None:
        """Stop the environments."""


class Task(NamedTuple):
    """An environment as an agent meets it."""

    frame_shape: tuple[int, int]  # height and width of the images, pixels
    frame_skip: int  # frames of the environment for each action
    action_names: list[str]  # an action is an index into this list


def is_atari(game: str) -> bool:
    """Whether this names an Atari game: the ids of gymnasium end in a version, such as -v0."""
    return game in available_games()


def check_env(name: str) -> str:
    """The name itself, if there is such an environment. ValueError, with the name probably meant,
    if not."""
    if is_atari(name) or not re.search(r"-v\d+$", name):
        return check_game(name)
    facts(name)
    return name


def rules(game: str, name: str) -> Protocol:
    """The protocol that this environment is played under: the named one for Atari games, `own` for
    all others.

    ValueError on an unknown environment or protocol.
    """
    return protocol(name) if is_atari(check_env(game)) else OWN


def task(game: str, rules: Protocol) -> Task:
    """The properties of an environment that an agent is built from. ValueError on an unknown
    one."""
    if is_atari(game):
        return Task(
            (emulator.SIZE, emulator.SIZE), emulator.FRAME_SKIP, machine(game).actions(rules)
        )
    shape, actions = facts(game)
    return Task(shape, 1, actions)


def open_games(
    game: str,
    num_envs: int,
    rules: Protocol,
    threads: int = 1,
    *,
    colour: bool = False,
    every: bool = False,
    pooled: bool = False,
) -> Games:
    """The environments themselves, grey; or in colour and their native size, with `every` frame,
    for films."""
    if is_atari(game):
        return Emulators(game, num_envs, rules, threads, colour=colour, every=every, pooled=pooled)
    return Images(game, num_envs, colour=colour)
