"""Grey images of any registered gymnasium environment with images and discrete actions."""

from enum import EnumMeta
from functools import lru_cache, partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit, TransformObservation
from PIL import Image

from envs.emulator import FRAME_SKIP, MAX_FRAMES, SIZE, check_game

MAX_STEPS = MAX_FRAMES // FRAME_SKIP  # of an episode, until it is truncated
FPS = 10  # of a film, if the environment names none: slow enough to follow


class Task(NamedTuple):
    """The properties of an environment that determine an agent's network."""

    frame_shape: tuple[int, int]  # height and width of the images, pixels
    frame_skip: int  # frames of the environment for each action
    action_names: list[str]  # an action is an index into this list
    fps: int  # frames of the environment for each second of a film


def is_image(space: gym.Space) -> bool:
    """Whether a space has images: uint8 [H, W], [H, W, 1] or [H, W, 3]."""
    shape = space.shape or ()
    return (
        isinstance(space, Box)
        and space.dtype == np.uint8
        and len(shape) >= 2
        and shape[2:] in ((), (1,), (3,))
    )


def grey(env: gym.Env) -> TransformObservation:
    """The environment with grey images, uint8 [H, W].

    It must observe uint8 [H, W], [H, W, 1] or [H, W, 3], or a Dict with such an `image`, else
    ValueError. Images of at least 36 pixels a side, which the convolutions need, are resized to
    84x84; smaller ones keep their size, for a torso without convolutions.
    """
    space = env.observation_space
    image = space.get("image", space) if isinstance(space, Dict) else space
    shape = [*(image.shape or ())]
    if not is_image(image):
        raise ValueError(
            f"it observes {type(image).__name__}, {image.dtype} {shape}, not an image: "
            "uint8 [H, W], [H, W, 1] or [H, W, 3]"
        )
    height, width = (SIZE, SIZE) if min(shape[:2]) >= 36 else (shape[0], shape[1])

    def convert(observation: Any) -> np.ndarray:
        pixels = observation if image is space else observation["image"]
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
        return np.array(picture.convert("L").resize((width, height), Image.Resampling.BOX))

    return TransformObservation(env, convert, Box(0, 255, (height, width), np.uint8))


def single(name: str, colour: bool = False) -> gym.Env:
    """One environment with this id, truncated after MAX_STEPS steps at the latest.

    ValueError in one line if there is none, or if it has no images or no discrete actions.
    """
    try:
        render: dict[str, Any] = {"render_mode": "rgb_array"} if colour else {}
        env = gym.make(name, disable_env_checker=True, **render)
        if type(env.unwrapped).__module__.startswith("ale_py"):
            # Raises with the name of the game, whose own family is faster and has true scores.
            check_game(name)
        actions = env.action_space
        if not isinstance(actions, Discrete) or actions.start != 0 or actions.n > 256:
            raise ValueError(f"its actions are {actions}, not Discrete(n) with n up to 256")
        if type(env.unwrapped).__module__.startswith("minigrid"):
            from minigrid.wrappers import RGBImgPartialObsWrapper  # an extra

            # MiniGrid observes numbers of objects; the wrapper draws them, 8 pixels a tile.
            env = RGBImgPartialObsWrapper(env)
        return grey(TimeLimit(env, MAX_STEPS))
    except (gym.error.Error, ImportError, ValueError) as error:
        raise ValueError(f"environment {name!r}: {' '.join(str(error).split())}") from None


@lru_cache
def image_task(name: str) -> Task:
    """The `Task` of an environment with this id. ValueError as in `single`.

    The names of the actions are those of the environment's `get_action_meanings` or of its enum
    `actions`, else numbers.
    """
    env = single(name)
    names = [str(action) for action in range(int(env.action_space.n))]  # type: ignore[attr-defined]
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    members = getattr(env.unwrapped, "actions", None)
    if meanings:
        names = meanings()
    elif isinstance(members, EnumMeta) and len(members) == len(names):
        names = [*members.__members__]
    env.close()
    fps = max(1, round(env.metadata.get("render_fps") or FPS))
    return Task(env.observation_space.shape, 1, names, fps)  # type: ignore[arg-type]


class Images:
    """`num_envs` gymnasium environments in this thread, with the methods of `Emulators`."""

    steps_an_action = 1

    def __init__(self, name: str, num_envs: int, *, colour: bool = False) -> None:
        """colour: the images are those that `render` returns, [height, width, 3] of any size."""
        makers = [partial(single, name, colour)] * num_envs
        self._envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
        self._colour, self._lives = colour, np.zeros(num_envs, np.int64)

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = [seed if seed >= 0 else None for seed in seeds.tolist()]
        image, _ = self._envs.reset(seed=own, options={"reset_mask": mask})
        return self._images(image), self._lives

    def send(self, actions: np.ndarray) -> None:
        self._actions = actions

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        image, reward, terminated, truncated, _ = self._envs.step(self._actions)
        return self._images(image), reward, terminated, truncated, self._lives

    def close(self) -> None:
        self._envs.close()

    def _images(self, grey: np.ndarray) -> np.ndarray:
        return np.stack(self._envs.render()) if self._colour else grey
