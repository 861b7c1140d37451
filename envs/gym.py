"""gymnasium environments of our Atari games, single and vectorised, and a wrapper of our screens.

This module registers every game when it is imported, under ids such as recall/Breakout-v0.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import RecordEpisodeStatistics, vector

from envs.emulator import available_games
from envs.families import MAX_SEED, open_games, rules, task
from envs.images import is_image
from envs.screens import make_observer, parse_screen
from envs.tapes import Envs

ONE = np.ones(1, np.bool_)


def _random_word(entropy: int | Sequence[int] | None) -> int:
    """32 random bits; None: from the operating system."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


class Screen(gym.ObservationWrapper, RecordConstructorArgs):
    """Hides a part of an environment's images; observe: such as flicker:0.5 (envs/screens.py).

    ValueError unless it observes images, uint8 [H, W], [H, W, 1] or [H, W, 3].
    """

    def __init__(self, env: gym.Env, observe: str = "flicker:0.5") -> None:
        RecordConstructorArgs.__init__(self, observe=observe)
        super().__init__(env)
        space = env.observation_space
        if not is_image(space):
            raise ValueError(
                f"Screen hides images, uint8 [H, W], [H, W, 1] or [H, W, 3], not {space}"
            )
        self._screen = parse_screen(observe)
        self._observer = make_observer(self._screen, _random_word(None))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            # Independent of the environment's random numbers, which come from the same seed.
            self._observer = make_observer(self._screen, _random_word([seed, 1]))
        self._is_first = True
        return super().reset(seed=seed, options=options)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        is_first, self._is_first = self._is_first, False
        return self._observer(observation, is_first)


class AtariEnv(gym.Env[np.ndarray, np.int64]):
    """One game: images [84, 84] uint8, the game's own rewards, four emulator frames a step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 - as gymnasium has it

    def __init__(
        self,
        game: str = "breakout",
        protocol: str = "v5",
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode {render_mode!r}: only rgb_array")
        game_rules = rules(game, protocol)
        self.render_mode = render_mode
        shape, _, names, _ = task(game, game_rules)
        self.observation_space = Box(0, 255, shape, np.uint8)
        self.action_space = Discrete(len(names))
        # To render in colour, a second emulator plays the same tape.
        colours = (False, True) if render_mode else (False,)
        self._games = [open_games(game, 1, game_rules, colour=colour) for colour in colours]
        self._images: list[np.ndarray] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        goes_on = seed is None and self._images
        tape_seed = -1 if goes_on else int(self.np_random.integers(1, MAX_SEED))
        self._images = [games.reset(ONE, np.array([tape_seed]))[0][0] for games in self._games]
        return self._images[0], {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):  # the emulator would hang
            raise ValueError(f"action {action!r} is not in {self.action_space}")
        for games in self._games:
            games.send(np.array([action], np.int64))
        outcomes = [games.recv() for games in self._games]
        self._images = [images[0] for images, *_ in outcomes]
        reward, terminated, truncated, lives = (x[0].item() for x in outcomes[0][1:])
        return self._images[0], float(reward), terminated, truncated, {"lives": lives}

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The screen in colour in its native size, with render_mode rgb_array."""
        return self._images[-1] if self.render_mode else None

    def close(self) -> None:
        for games in self._games:
            games.close()


class AtariVectorEnv(gym.vector.VectorEnv):
    """Many games in parallel on native threads: the `envs.tapes.Envs` of our agents.

    The step that ends an episode also begins the next one; info["final_obs"] holds the last image.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012 - as gymnasium has it

    def __init__(
        self,
        num_envs: int = 1,
        game: str = "breakout",
        protocol: str = "v5",
        observe: str = "full",
        threads: int = 1,
    ) -> None:
        self._envs = Envs(
            game,
            num_envs,
            protocol,
            _random_word(None),
            observe=parse_screen(observe),
            threads=threads,
        )
        self.num_envs = num_envs
        self.single_observation_space = Box(0, 255, self._envs.frame_shape, np.uint8)
        self.single_action_space = Discrete(self._envs.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | np.ndarray | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every game. seed: a number, or one for each game; None: no reseed.

        A None among the seeds of the games stands for a random one. ValueError on a `reset_mask`
        or another number of seeds.
        """
        if options and "reset_mask" in options:
            raise ValueError("reset_mask: a game begins again at its end, or all of them at once")
        many = isinstance(seed, (Sequence, np.ndarray))
        seeds = map(_random_word, seed if many else [seed] * self.num_envs)
        return self._envs.reset(None if seed is None else [*seeds]), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self._envs.send(np.asarray(actions))
        step = self._envs.recv()
        final = np.fromiter(map(self._envs.final_frames.get, range(self.num_envs)), object)
        info = {"final_obs": final, "_final_obs": step.is_first} if step.is_first.any() else {}
        return step.frame, step.reward.astype(np.float64), step.terminated, step.truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        self._envs.close()


def make(observe: str = "full", **settings: Any) -> RecordEpisodeStatistics:
    """`AtariEnv` behind a `Screen`.

    At an episode's end info["episode"] holds score r, steps l and seconds t.
    """
    return RecordEpisodeStatistics(Screen(AtariEnv(**settings), observe))


def make_vector(**settings: Any) -> vector.RecordEpisodeStatistics:
    """`AtariVectorEnv` with the same info; info["_episode"], bool [N], marks ended episodes."""
    return vector.RecordEpisodeStatistics(AtariVectorEnv(**settings))


for _game in available_games():
    gym.register(
        f"recall/{''.join(map(str.capitalize, _game.split('_')))}-v0",
        entry_point=f"{__name__}:make",
        vector_entry_point=f"{__name__}:make_vector",
        kwargs={"game": _game},
    )
