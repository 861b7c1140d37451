"""The one file that imports ale_py: which games there are, and emulators with every setting spelled
out."""

import re
from functools import lru_cache
from typing import NamedTuple

import ale_py
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv

from envs.games import no_such
from envs.protocols import Protocol

FRAME_SKIP = 4  # emulator frames for each action (Mnih et al. 2015)
# Emulator frames after which an episode is truncated: 30 minutes at 60 a second.
MAX_FRAMES = 108_000
SIZE = 84  # height and width of what agents see, pixels


# Opened for one player, the emulator ends the process.
TWO_PLAYERS = {"combat", "joust", "maze_craze", "warlords"}


class Machine(NamedTuple):
    """Constants of a game's cartridge."""

    height: int  # of the native screen, pixels: 210 for most games
    width: int  # 160
    minimal_actions: list[str]  # names, in the emulator's order
    all_actions: list[str]

    def actions(self, protocol: Protocol) -> list[str]:
        """The names of the actions an agent has under this protocol; an action is an index into
        this list."""
        return self.all_actions if protocol.full_action_set else self.minimal_actions


@lru_cache
def available_games() -> list[str]:
    """The names of all games that ale_py brings and one player can play, sorted."""
    return sorted(set(roms.get_all_rom_ids()) - TWO_PLAYERS)


def check_game(name: str) -> str:
    """The name itself, if there is such a game. ValueError, with the name probably meant, if
    not."""
    if name in TWO_PLAYERS:
        raise ValueError(f"{name} needs two players; an agent plays games for one")
    if name in available_games():
        return name
    bare = re.sub(r"^ALE/|(-ram|Deterministic|NoFrameskip)*(-v\d+)?$", "", name)
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\s-]+", "_", bare).lower()
    raise ValueError(no_such("game", name, available_games(), hint=snake))


@lru_cache
def machine(game: str) -> Machine:
    """Reads the game's screen size and actions from an emulator of its own. ValueError on an
    unknown game."""
    rom = roms.get_rom_path(check_game(game))
    assert rom is not None
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(rom)
    height, width = ale.getScreenDims()
    minimal, every = ale.getMinimalActionSet(), ale.getLegalActionSet()
    return Machine(
        height, width, [action.name for action in minimal], [action.name for action in every]
    )


class Emulators:
    """`num_envs` emulators of one game on native threads, with every setting spelled out (see
    `envs.families.Games`).

    ale_py's defaults would clip rewards, press fire after a reset and stack frames. An action out
    of range makes its `step` wait for ever: check before. A reset with a seed loads the cartridge
    anew (about 0.1 s), one without goes on with the same random numbers (a few milliseconds).
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        protocol: Protocol,
        threads: int,
        *,
        colour: bool = False,
        every: bool = False,
        pooled: bool = False,
    ) -> None:
        """colour: images [height, width, 3] in the native size in place of grey ones; every: a step
        is one emulator frame, not four; pooled: the brighter of the last two frames in colour too,
        as always in grey."""
        screen = machine(game)
        self.steps_an_action = FRAME_SKIP if every else 1
        self._native = AtariVectorEnv(
            game,
            num_envs,
            num_threads=threads,
            max_num_frames_per_episode=MAX_FRAMES,
            repeat_action_probability=protocol.sticky,
            full_action_space=protocol.full_action_set,
            noop_max=protocol.noop_max,
            frameskip=1 if every else FRAME_SKIP,
            img_height=screen.height if colour else SIZE,
            img_width=screen.width if colour else SIZE,
            grayscale=not colour,
            # Over the last two frames: what flickers on the screen stays seen.
            maxpool=pooled or not colour,
            stack_num=1,
            reward_clipping=False,
            use_fire_reset=False,
            episodic_life=False,  # True would reset the whole game at every life lost
            life_loss_info=False,
        )

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        screens, info = self._native.reset(seed=seeds[mask], options={"reset_mask": mask})
        return screens[:, 0], info["lives"]

    def send(self, actions: np.ndarray) -> None:
        self._native.send(actions)

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        screens, reward, terminated, truncated, info = self._native.recv()
        return screens[:, 0], reward, terminated, truncated, info["lives"]

    def close(self) -> None:
        vars(self).pop("_native", None)  # its threads end with it
