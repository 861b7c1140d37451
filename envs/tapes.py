"""`Envs`: reproducible environments of any family in parallel, for training and evaluation.

Each environment plays a *tape*: a seed and all actions since. The images and rewards of a tape
depend on nothing else, neither on the other environments nor on the number of threads. A tape holds
several episodes with resets without a seed between them, because a reset of an Atari game with a
seed takes about 0.1 s. A new tape begins at the first episode's end after TAPE_STEPS steps, so that
a replay of a tape (to resume, or to watch) takes little time.
"""

import copy
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from envs.episodes import EpisodeRecord
from envs.families import MAX_SEED, open_games, rules, task
from envs.screens import Observe, Observer, make_observer

TAPE_STEPS = 4000


class Transition(NamedTuple):
    """One step of all N environments; later calls do not change these arrays."""

    reward: np.ndarray  # float32 [N], the environment's own, not clipped
    terminated: np.ndarray  # bool [N], the episode is over
    truncated: np.ndarray  # bool [N], a time limit ended the episode (Atari: 30 minutes)
    life_lost: np.ndarray  # bool [N], a life was lost and the game continues
    frame: np.ndarray  # uint8 [N, H, W], the agent's next image; after an end, of the next episode
    is_first: np.ndarray  # bool [N], terminated or truncated: `frame` begins an episode


@dataclass
class _Tape:
    """The tape of one environment so far."""

    number: int
    seed: int
    observe_seed: int
    observer: Observer
    actions: bytearray = field(default_factory=bytearray)
    start: int = 0  # index of the running episode's first action
    score: float = 0.0  # of the running episode


class Envs:
    """N environments of one game. Call `reset` (or `restore`) once, then `send` and `recv` in turn.

    Atari emulators run in parallel with the caller between `send` and `recv`. The step that ends an
    episode also begins the next one. A score is the undiscounted sum of an episode's rewards.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        protocol: str = "v5",
        seed: int = 0,
        *,
        observe: Observe = Observe(),  # noqa: B008 - frozen
        threads: int = 1,
        stream: int = 0,
    ) -> None:
        """game: an Atari game (`breakout`) or the id of a gymnasium environment.

        seed and stream, both from 0, determine all random numbers. Streams of one seed are
        independent: training uses 0, evaluation 1. ValueError on an unknown name.
        """
        self.game, self.num_envs, self.protocol = game, num_envs, rules(game, protocol)
        self.frame_shape, self.frame_skip, self.action_names, _ = task(game, self.protocol)
        self.num_actions = len(self.action_names)
        # The last frame [H, W] of each episode that ended in the last `recv`, by environment.
        self.final_frames: dict[int, np.ndarray] = {}
        self._seeds, self._stream, self._observe = [seed] * num_envs, stream, observe
        self._games = open_games(game, num_envs, self.protocol, threads)
        self._tapes: list[_Tape] = []
        self._sent = False

    def reset(self, seeds: Sequence[int] | None = None) -> np.ndarray:
        """Start the next tape in every environment, or the first one of its seed in `seeds` [N].

        Returns frames, uint8 [N, H, W]. ValueError on another number of seeds.
        """
        if seeds is not None:
            if len(seeds) != self.num_envs:
                raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
            self._seeds, self._tapes = seeds, []
        self._tapes = [
            self._tape(i, self._tapes[i].number + 1 if self._tapes else 0)
            for i in range(self.num_envs)
        ]
        self._finished: list[EpisodeRecord] = []
        every = np.ones(self.num_envs, np.bool_)
        self._begin(every, every)
        return self._see(every)

    def send(self, actions: np.ndarray) -> None:
        """Start a step. actions: integers [N], each from 0 to num_actions - 1, else ValueError."""
        actions = np.asarray(actions)
        is_whole = actions.shape == (self.num_envs,) and np.issubdtype(actions.dtype, np.integer)
        # The emulator would hang on an action out of range.
        if not is_whole or actions.min() < 0 or actions.max() >= self.num_actions:
            raise ValueError(
                f"actions must be {self.num_envs} integers from 0 to {self.num_actions - 1}, "
                f"not {actions.dtype} {actions.tolist()}"
            )
        self._games.send(actions.astype(np.int64))
        for tape, action in zip(self._tapes, actions.tolist(), strict=True):
            tape.actions.append(action)
        self._sent = True

    def recv(self) -> Transition:
        """Wait for the end of the step; record the episodes that end, and begin new ones."""
        self._sent = False
        self._screens, reward, terminated, truncated, lives = self._games.recv()
        over = terminated | truncated
        life_lost = (lives < self._lives) & ~over
        self._lives = lives
        for tape, points in zip(self._tapes, reward.tolist(), strict=True):
            tape.score += points
        ended = np.flatnonzero(over).tolist()
        self._finished = [self._record(i, bool(terminated[i])) for i in ended]
        # Only users of gymnasium see the last frame: the agents' observers must not change by it.
        self.final_frames = {
            i: copy.deepcopy(self._tapes[i].observer)(self._screens[i], False) for i in ended
        }
        fresh = over & np.array([len(tape.actions) >= TAPE_STEPS for tape in self._tapes])
        for i in ended:
            tape = self._tapes[i]
            tape.start, tape.score = len(tape.actions), 0.0
            if fresh[i]:
                self._tapes[i] = self._tape(i, tape.number + 1)
        if ended:
            self._begin(over, fresh)
        return Transition(
            reward.astype(np.float32), terminated, truncated, life_lost, self._see(over), over
        )

    def finished(self) -> list[EpisodeRecord]:
        """The episodes that ended in the last `recv`, in the order of the environments."""
        return self._finished

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs: a byte for each action of the tapes, and a few numbers."""
        return {
            "tape_number": np.array([tape.number for tape in self._tapes], np.int64),
            "tape_seed": np.array([tape.seed for tape in self._tapes], np.int64),
            "tape_length": np.array([len(tape.actions) for tape in self._tapes], np.int64),
            # The actions of all tapes, one tape after the other.
            "actions": np.frombuffer(b"".join(t.actions for t in self._tapes), np.uint8),
            "episode_start": np.array([tape.start for tape in self._tapes], np.int64),
            "episode_score": np.array([tape.score for tape in self._tapes], np.float64),
            "screen_crc": np.array([zlib.crc32(s.tobytes()) for s in self._screens], np.int64),
        }

    def restore(
        self,
        state: dict[str, np.ndarray],
        progress: Callable[[int, int], object] = lambda done, total: None,
    ) -> np.ndarray:
        """Play every tape of `state` again, so that these environments continue exactly from there.

        Returns the frames of that time, uint8 [N, H, W]. Takes as long as the longest tape, up to
        minutes; `progress` gets the number of steps so far and their total. ValueError if the state
        is that of other environments, or if these are not reproducible.
        """
        numbers, lengths = state["tape_number"].tolist(), state["tape_length"]
        seeds = [self._tape(i, n).seed for i, n in enumerate(numbers)]
        if (
            seeds != state["tape_seed"].tolist()
            or len(lengths) != self.num_envs
            or lengths.min() < 0
            or lengths.sum() != len(state["actions"])
        ):
            raise ValueError(
                "saved environments: the tapes belong to another seed, stream or program version"
            )
        # All environments step together, and all tapes end together, where play continues (time
        # runs to the right):
        #
        #     env 0  [s a a a a a a a a a|      s  reset from the tape's seed
        #     env 1   0 0 0 0[s a a a a a|      a  an action of the tape
        #     env 2   0 0 0 0 0 0 0[s a a|      0  action 0, of no tape
        #
        # After a reset with a seed nothing depends on earlier steps.
        total = int(lengths.max())
        begins = total - lengths  # [N]
        script = np.zeros((total, self.num_envs), np.uint8)
        for i, tape in enumerate(np.split(state["actions"], np.cumsum(lengths)[:-1])):
            script[begins[i] :, i] = tape
        self._tapes = [self._tape(i, 0) for i in range(self.num_envs)]
        every = np.ones(self.num_envs, np.bool_)
        self._begin(every, ~every)
        frames = self._screens.copy()
        for t in range(total + 1):
            if (starts := begins == t).any():
                first = np.flatnonzero(starts).tolist()
                for i in first:
                    self._tapes[i] = self._tape(i, numbers[i])
                self._begin(starts, starts)
                for i in first:
                    frames[i] = self._tapes[i].observer(self._screens[i], True)
            if t < total:
                self.send(script[t])
                frames = self.recv().frame
                progress(t + 1, total)
        self._finished = []
        for name, value in self.state().items():
            if not np.array_equal(value, state[name]):
                raise ValueError(
                    f"saved environments: the same actions lead to another {name}: {self.game} "
                    "does not repeat itself, or another version of it made the state; the run "
                    "cannot go on exactly"
                )
        return frames

    def close(self) -> None:
        """Stop the environments; of all methods only `close` may be called afterwards."""
        if self._sent:
            self.recv()
        self._games.close()

    def _tape(self, env: int, number: int) -> _Tape:
        """A new tape; its seeds depend on the run's seed and stream, on env and on number."""
        entropy = [self._seeds[env], self._stream, env, number]
        words = np.random.SeedSequence(entropy).generate_state(2)
        seed, observe_seed = 1 + int(words[0]) % MAX_SEED, int(words[1])
        return _Tape(number, seed, observe_seed, make_observer(self._observe, observe_seed))

    def _begin(self, mask: np.ndarray, seeded: np.ndarray) -> None:
        """Reset the environments in mask, bool [N]; those in seeded, bool [N], with a seed."""
        seeds = np.where(seeded, [tape.seed for tape in self._tapes], -1)
        # The present images, of which nothing is hidden.
        self._screens, self._lives = self._games.reset(mask, seeds)

    def _see(self, is_first: np.ndarray) -> np.ndarray:
        """The agent's images, uint8 [N, H, W]."""
        return np.stack(
            [t.observer(self._screens[i], bool(is_first[i])) for i, t in enumerate(self._tapes)]
        )

    def _record(self, env: int, terminated: bool) -> EpisodeRecord:
        tape = self._tapes[env]
        return EpisodeRecord(
            game=self.game,
            protocol=self.protocol.name,
            seed=tape.seed,
            actions=np.frombuffer(bytes(tape.actions), np.uint8),
            start=tape.start,
            score=tape.score,
            steps=len(tape.actions) - tape.start,
            terminated=terminated,
            observe=self._observe,
            observe_seed=tape.observe_seed,
            env=env,
            tape=tape.number,
        )


def repeats_itself(game: str, steps: int = 100) -> bool:
    """Whether a seed and actions determine images and rewards, in `steps` steps of one game."""

    def play() -> Iterator[list[bytes]]:
        with closing(Envs(game, 1)) as envs:
            yield [envs.reset().tobytes()]
            for action in np.random.default_rng(1).integers(envs.num_actions, size=(steps, 1)):
                envs.send(action)
                yield [part.tobytes() for part in envs.recv()]

    return [*play()] == [*play()]
