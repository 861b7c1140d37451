"""The only file that imports ale_py: the list of games, and emulators with explicit settings."""

import re
from functools import lru_cache
from typing import NamedTuple

import ale_py
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv

from envs.games import no_such
from envs.protocols import Protocol

FPS = 60  # emulator frames a second
FRAME_SKIP = 4  # emulator frames for each action (Mnih et al. 2015)
MAX_FRAMES = 108_000  # emulator frames until truncation: 30 minutes at 60 a second
SIZE = 84  # height and width of an agent's images, pixels
# With one player, the emulator of these games ends the process.
TWO_PLAYERS = {"combat", "joust", "maze_craze", "warlords"}


class Machine(NamedTuple):
    """Constants of a game's cartridge."""

    screen: tuple[int, int]  # height and width, pixels: 210 and 160 for most games
    minimal_actions: list[str]  # names, in the emulator's order
    all_actions: list[str]

    def actions(self, protocol: Protocol) -> list[str]:
        """Names of an agent's actions under this protocol; an action is an index into the list."""
        return self.all_actions if protocol.full_action_set else self.minimal_actions


@lru_cache
def available_games() -> list[str]:
    """The names, sorted, of all games of ale_py for one player."""
    return sorted(set(roms.get_all_rom_ids()) - TWO_PLAYERS)


def check_game(name: str) -> str:
    """Return the name of a game. ValueError for any other name, with the nearest one."""
    if name in available_games():
        return name
    bare = re.sub(r"^ALE/|(-ram|Deterministic|NoFrameskip)*(-v\d+)?$", "", name)
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\s-]+", "_", bare).lower()
    if snake in TWO_PLAYERS:
        raise ValueError(f"{name} needs two players; an agent plays games for one")
    raise ValueError(no_such("game", name, available_games(), hint=snake))


@lru_cache
def machine(game: str) -> Machine:
    """The constants of a game, which an emulator loads to read them. ValueError on other names."""
    check_game(game)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(roms.get_rom_path(game))  # type: ignore[arg-type]
    minimal = [action.name for action in ale.getMinimalActionSet()]
    return Machine(ale.getScreenDims(), minimal, [a.name for a in ale.getLegalActionSet()])


class Emulators:
    """`num_envs` emulators of one game on native threads.

    ale_py's defaults would clip rewards, press fire after a reset and stack frames. An action out
    of range makes its `step` wait for ever, so callers check actions. A reset with a seed loads the
    cartridge again (about 0.1 s); one without a seed continues the random numbers (a few ms).
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
        """Start the emulators.

        colour: images are [height, width, 3] in the native size, in place of grey ones. every: a
        step is one emulator frame, not four. pooled: a pixel in colour is the brighter of the last
        two frames, as it always is in grey.
        """
        height, width = machine(game).screen if colour else (SIZE, SIZE)
        self.steps_an_action = FRAME_SKIP if every else 1  # calls of `send` for each action
        self._native = AtariVectorEnv(
            game,
            num_envs,
            num_threads=threads,
            max_num_frames_per_episode=MAX_FRAMES,
            repeat_action_probability=protocol.sticky,
            full_action_space=protocol.full_action_set,
            noop_max=protocol.noop_max,
            frameskip=1 if every else FRAME_SKIP,
            img_height=height,
            img_width=width,
            grayscale=not colour,
            # The brighter of the last two frames shows sprites that flicker.
            maxpool=pooled or not colour,
            stack_num=1,
            reward_clipping=False,
            use_fire_reset=False,
            episodic_life=False,  # True would reset the whole game at every lost life
            life_loss_info=False,
        )

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Begin an episode where `mask`, bool [N], is True; images and lives, int [N], of all.

        seeds: int64 [N]; -1: no seed, the random numbers continue. The images are uint8 [N, H, W],
        in colour [N, H, W, 3]. A reset is possible at any time.
        """
        screens, info = self._native.reset(seed=seeds[mask], options={"reset_mask": mask})
        return screens[:, 0], info["lives"]

    def send(self, actions: np.ndarray) -> None:
        """Start a step. actions: int64 [N], in range."""
        self._native.send(actions)

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Images, rewards [N], terminated and truncated, bool [N], and lives, int [N].

        Waits for the end of the step. The caller resets an environment after its episode's end,
        before the next step.
        """
        screens, reward, terminated, truncated, info = self._native.recv()
        return screens[:, 0], reward, terminated, truncated, info["lives"]

    def close(self) -> None:
        """Stop the emulators."""
        vars(self).pop("_native", None)  # ends its threads
