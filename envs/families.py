"""The families of environments: an Atari game has a name, any other environment a gymnasium id."""

import re

from envs import recall  # noqa: F401 - registers its environments
from envs.emulator import FPS, FRAME_SKIP, SIZE, Emulators, available_games, check_game, machine
from envs.games import choose
from envs.images import Images, Task, image_task
from envs.protocols import OWN, PROTOCOLS, Protocol

MAX_SEED = 2**31 - 1  # of a tape: seeds of the emulator are 32-bit signed, negative for none


# N environments of one kind. Both classes have the same methods. After a seeded reset, images,
# rewards and ends must depend on the seed and the actions alone.
Games = Emulators | Images


def is_atari(game: str) -> bool:
    """Whether this is the name of an Atari game."""
    return game in available_games()


def check_env(name: str) -> str:
    """Return the name of an environment. ValueError for any other name, with the nearest one."""
    # Ids of gymnasium end in a version; those of Atari games are names in another spelling.
    if is_atari(name) or not re.search(r"^(?!ALE/|.*NoFrameskip).*-v\d+$", name):
        return check_game(name)
    image_task(name)
    return name


def rules(game: str, name: str) -> Protocol:
    """The protocol of this name for Atari games, `own` for all other environments.

    ValueError on an unknown environment or protocol.
    """
    return choose("protocol", name, PROTOCOLS) if is_atari(check_env(game)) else OWN


def task(game: str, rules: Protocol) -> Task:
    """The `Task` of an environment under these rules. ValueError on an unknown environment."""
    return (
        Task((SIZE, SIZE), FRAME_SKIP, machine(game).actions(rules), FPS)
        if is_atari(game)
        else image_task(game)
    )


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
    """`num_envs` environments of one game; colour, every, pooled: as of `Emulators`, for films.

    `threads` and the last two have an effect on Atari games alone.
    """
    return (
        Emulators(game, num_envs, rules, threads, colour=colour, every=every, pooled=pooled)
        if is_atari(game)
        else Images(game, num_envs, colour=colour)
    )
