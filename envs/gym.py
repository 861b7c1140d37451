"""Our Atari games as gymnasium environments, single and vectorised, and our screens as a gymnasium
wrapper.

Importing this module registers recall/Breakout-v0 and its like, for all games.
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
from envs.screens import make_observer, parse_screen
from envs.tapes import Envs

ONE = np.ones(1, np.bool_)


class Screen(gym.ObservationWrapper, RecordConstructorArgs):
    """Hides a part of the images of any environment: observe is flicker:0.5, delay:4 and so on
    (envs/screens.py)."""

    def __init__(self, env: gym.Env, observe: str = "flicker:0.5") -> None:
        RecordConstructorArgs.__init__(self, observe=observe)
        super().__init__(env)
        self._how = parse_screen(observe)
        self._start(None)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._start(seed) if seed is not None else None
        self._is_first = True
        return super().reset(seed=seed, options=options)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        is_first, self._is_first = self._is_first, False
        return self._observer(observation, is_first)

    def _start(self, seed: int | None) -> None:
        """Random numbers of its own: those of the environment come from the same seed."""
        words = np.random.SeedSequence(None if seed is None else [seed, 1]).generate_state(1)
        self._observer, self._is_first = make_observer(self._how, int(words[0])), True


class AtariEnv(gym.Env[np.ndarray, np.int64]):
    """One game: images [84, 84] uint8, rewards as the game gives them. A step is four emulator
    frames."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 - as gymnasium has it

    def __init__(
        self,
        game: str = "breakout",
        protocol: str = "v5",
        observe: str = "full",
        render_mode: str | None = None,
    ) -> None:
        played, self._how, self.render_mode = (
            rules(game, protocol),
            parse_screen(observe),
            render_mode,
        )
        shape, _, names = task(game, played)
        self.observation_space, self.action_space = (
            Box(0, 255, shape, np.uint8),
            Discrete(len(names)),
        )
        # In colour, a second emulator plays the same tape.
        self._games = [
            open_games(game, 1, played, colour=colour)
            for colour in (False, True)[: 1 + bool(render_mode)]
        ]
        self._screens: list[np.ndarray] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        tape_seed = -1
        if seed is not None or not self._screens:
            tape_seed = int(self.np_random.integers(1, MAX_SEED))
            self._observer = make_observer(self._how, int(self.np_random.integers(2**32)))
        self._screens = [games.reset(ONE, np.array([tape_seed]))[0][0] for games in self._games]
        return self._observer(self._screens[0], True), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):  # the emulator would hang
            raise ValueError(f"action {action!r} is not in {self.action_space}")
        for games in self._games:
            games.send(np.array([action], np.int64))
        outcomes = [games.recv() for games in self._games]
        self._screens = [screens[0] for screens, *_ in outcomes]
        reward, terminated, truncated, lives = (x[0].item() for x in outcomes[0][1:])
        return (
            self._observer(self._screens[0], False),
            float(reward),
            terminated,
            truncated,
            {"lives": lives},
        )

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The screen in colour and its native size, with render_mode rgb_array."""
        return self._screens[-1] if self.render_mode else None

    def close(self) -> None:
        for games in self._games:
            games.close()


class AtariVectorEnv(gym.vector.VectorEnv):
    """Many games side by side on native threads, as our agents play them (`envs.tapes.Envs`).

    An ended episode is followed by the next one in the same step: its last image is in
    info["final_obs"].
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
        at_random = np.random.SeedSequence().generate_state(1)
        self._envs = Envs(
            game,
            num_envs,
            protocol,
            int(at_random[0]),
            observe=parse_screen(observe),
            threads=threads,
        )
        self.num_envs, shape = num_envs, self._envs.frame_shape
        self.single_observation_space = Box(0, 255, shape, np.uint8)
        self.single_action_space = Discrete(self._envs.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A seed, or one for each game, gives all randomness; without one, the random numbers go
        on."""
        given = [s or 0 for s in seed] if isinstance(seed, Sequence) else seed
        return self._envs.reset(
            None if seed is None else int(np.random.SeedSequence(given).generate_state(1)[0])
        ), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self._envs.send(np.asarray(actions))
        moved, final = self._envs.recv(), np.full(self.num_envs, None, dtype=object)
        for i, image in self._envs.final_frames.items():
            final[i] = image
        info = {"final_obs": final, "_final_obs": moved.is_first} if moved.is_first.any() else {}
        return moved.frame, moved.reward.astype(np.float64), moved.terminated, moved.truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        self._envs.close()


def make(**settings: Any) -> RecordEpisodeStatistics:
    """`AtariEnv`; at an episode's end info["episode"] holds the true score r, the steps l and the
    seconds t."""
    return RecordEpisodeStatistics(AtariEnv(**settings))


def make_vector(**settings: Any) -> vector.RecordEpisodeStatistics:
    """`AtariVectorEnv`, with the same of ended episodes; info["_episode"] is True where an episode
    ended."""
    return vector.RecordEpisodeStatistics(AtariVectorEnv(**settings))


for _game in available_games():
    gym.register(
        f"recall/{''.join(map(str.capitalize, _game.split('_')))}-v0",
        entry_point="envs.gym:make",
        vector_entry_point="envs.gym:make_vector",
        kwargs={"game": _game},
    )
