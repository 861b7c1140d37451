"""Any registered gymnasium environment that shows images and takes discrete actions, as grey
images."""

from functools import lru_cache, partial
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from PIL import Image

from envs.emulator import FRAME_SKIP, MAX_FRAMES, SIZE, check_game

MAX_STEPS = MAX_FRAMES // FRAME_SKIP  # of an episode: it is truncated then, at the latest


class GreyImage(gym.ObservationWrapper):
    """Grey images, uint8 [H, W], of an environment that observes uint8 [H, W], [H, W, 1] or [H, W,
    3], or a Dict with such an `image`. ValueError for any other.

    Images of at least 36 pixels a side, which the convolutions need, are resized to 84x84; smaller
    ones stay as they are, for a torso that takes them.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        space = env.observation_space
        self._key = isinstance(space, Dict) and "image" in space.spaces
        image = space["image"] if isinstance(space, Dict) and self._key else space
        shape = image.shape or ()
        if (
            not isinstance(image, Box)
            or image.dtype != np.uint8
            or len(shape) < 2
            or shape[2:] not in ((), (1,), (3,))
        ):
            what = f"{type(image).__name__}, {image.dtype} {list(shape)}"
            raise ValueError(
                f"it observes {what}, not an image: uint8 [H, W], [H, W, 1] or [H, W, 3]"
            )
        self.shape = (
            (SIZE, SIZE) if min(image.shape[:2]) >= 36 else (image.shape[0], image.shape[1])
        )
        self.observation_space = Box(0, 255, self.shape, np.uint8)

    def observation(self, observation: Any) -> np.ndarray:
        pixels = observation["image"] if self._key else observation
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).convert("L")
        height, width = self.shape
        return np.array(
            image
            if image.size == (width, height)
            else image.resize((width, height), Image.Resampling.BOX)
        )


def single(name: str, colour: bool = False) -> GreyImage:
    """One environment with this id, truncated after MAX_STEPS steps at the latest. ValueError, in
    one line, if there is none, or if it has no images or no discrete actions."""
    module, _, bare = name.rpartition(":")
    try:
        if module:
            import_module(module)
        spec = gym.spec(bare)
        if str(spec.entry_point).startswith("ale_py"):
            # Raises, with the name of the game: its own family is faster and counts true scores.
            check_game(name)
        limit = min(spec.max_episode_steps or MAX_STEPS, MAX_STEPS)
        render = {"render_mode": "rgb_array"} if colour else {}
        env = gym.make(spec, max_episode_steps=limit, disable_env_checker=True, **render)
        actions = env.action_space
        if not isinstance(actions, Discrete) or actions.start != 0 or actions.n > 256:
            raise ValueError(f"its actions are {actions}, not Discrete(n) with n up to 256")
        if type(env.unwrapped).__module__.startswith("minigrid"):
            from minigrid.wrappers import RGBImgPartialObsWrapper  # an extra

            # MiniGrid observes numbers of objects: this draws them, 8 pixels a tile.
            env = RGBImgPartialObsWrapper(env)
        return GreyImage(env)
    except (gym.error.Error, ImportError, ValueError) as error:
        raise ValueError(f"environment {name!r}: {' '.join(str(error).split())}") from None


@lru_cache
def facts(name: str) -> tuple[tuple[int, int], list[str]]:
    """Height and width of its images, and the names of its actions. ValueError as in `single`."""
    env = single(name)
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    names = meanings() if meanings else [str(a) for a in range(int(env.action_space.n))]  # type: ignore[attr-defined]
    env.close()
    return env.shape, names


class Images:
    """`num_envs` gymnasium environments with one id, one after the other in this thread (see
    `envs.families.Games`)."""

    steps_an_action = 1

    def __init__(self, name: str, num_envs: int, *, colour: bool = False) -> None:
        """colour: images are what the environment renders, [height, width, 3]; they may be of any
        size."""
        makers = [partial(single, name, colour)] * num_envs
        self._envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
        self._colour, self._lives, self._actions = (
            colour,
            np.zeros(num_envs, np.int64),
            np.zeros(num_envs, np.int64),
        )

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given = [seed if seed >= 0 else None for seed in seeds.tolist()]
        image, _ = self._envs.reset(seed=given, options={"reset_mask": mask})
        return self._screens(image), self._lives

    def send(self, actions: np.ndarray) -> None:
        self._actions = actions

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        image, reward, terminated, truncated, _ = self._envs.step(self._actions)
        return self._screens(image), reward, terminated, truncated, self._lives

    def close(self) -> None:
        self._envs.close()

    def _screens(self, image: np.ndarray) -> np.ndarray:
        return np.stack(self._envs.render()) if self._colour else image
