"""Environments of any family side by side, each exactly repeatable: `Envs`, what the loop and the
evaluation play.

Each environment plays a *tape*: a seed and all actions since. The images and rewards of a tape
depend on nothing else, neither on the other environments nor on the number of threads. Several
episodes follow each other on a tape, parted by resets without a seed, because a seeded reset of an
Atari game costs about 0.1 s. A new tape begins at the first episode's end after TAPE_STEPS steps,
so that playing a tape again (to resume, or to watch) stays cheap.
"""

import copy
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from envs.episodes import EpisodeRecord
from envs.families import MAX_SEED, open_games, rules, task
from envs.screens import Observe, Observer, make_observer

TAPE_STEPS = 4000


class Transition(NamedTuple):
    """One step of all N environments. No later call changes these arrays."""

    reward: np.ndarray  # float32 [N], the environment's own, not clipped
    terminated: np.ndarray  # bool [N], the episode is over
    truncated: np.ndarray  # bool [N], cut off by a time limit (Atari: 30 minutes)
    life_lost: np.ndarray  # bool [N], a life was lost and the game goes on
    # uint8 [N, H, W], what the agent sees next; after an end the next first frame
    frame: np.ndarray
    is_first: np.ndarray  # bool [N], terminated or truncated: `frame` begins an episode


@dataclass
class _Tape:
    """One environment's tape so far."""

    number: int
    seed: int
    observe_seed: int
    observer: Observer
    actions: bytearray = field(default_factory=bytearray)
    start: int = 0  # index of the running episode's first action
    score: float = 0.0  # of the running episode


class Envs:
    """N environments of one game. Call `reset` (or `restore`) once, then `send` and `recv` in turn.

    Atari emulators run beside the caller between `send` and `recv`. An ended episode is followed by
    the next one at once: no step is spent on the reset. A score is the sum of an episode's rewards,
    neither clipped nor discounted.
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
        """game: an Atari game (`breakout`) or the id of a gymnasium environment. seed and stream,
        both from 0, give all randomness; the same seed with another stream is independent (training
        0, evaluation 1, say). ValueError on an unknown name.
        """
        self.game, self.num_envs, self.protocol = game, num_envs, rules(game, protocol)
        self.frame_shape, self.frame_skip, self.action_names = task(game, self.protocol)
        self.num_actions = len(self.action_names)
        # Of the envs that ended in the last `recv`: [H, W], their last.
        self.final_frames: dict[int, np.ndarray] = {}
        self._seed, self._stream, self._observe = seed, stream, observe
        self._games = open_games(game, num_envs, self.protocol, threads)
        self._tapes: list[_Tape] = []
        self._lives = np.zeros(num_envs, np.int32)
        # As they are now, nothing hidden.
        self._screens = np.zeros((num_envs, *self.frame_shape), np.uint8)
        self._finished: list[EpisodeRecord] = []
        self._sent = False

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start a tape in every environment: its first, also of another seed, or the next one.
        Returns frames, uint8 [N, H, W]."""
        if seed is not None:
            self._seed, self._tapes = seed, []
        self._tapes = [
            self._tape(i, self._tapes[i].number + 1 if self._tapes else 0)
            for i in range(self.num_envs)
        ]
        self._finished = []
        every = np.ones(self.num_envs, np.bool_)
        self._begin(every, every)
        return self._see(every)

    def send(self, actions: np.ndarray) -> None:
        """Set the environments going. actions: integers [N], each from 0 to num_actions - 1, else
        ValueError."""
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(
                f"actions must be {self.num_envs} integers, not {actions.dtype} "
                f"{list(actions.shape)}"
            )
        if actions.min() < 0 or actions.max() >= self.num_actions:  # the emulator would hang
            raise ValueError(
                f"actions must be from 0 to {self.num_actions - 1}, not {actions.tolist()}"
            )
        self._games.send(actions.astype(np.int64))
        for tape, action in zip(self._tapes, actions.tolist(), strict=True):
            tape.actions.append(action)
        self._sent = True

    def recv(self) -> Transition:
        """Wait for the environments. Ended episodes are recorded and followed by new ones."""
        self._sent = False
        self._screens, reward, terminated, truncated, lives = self._games.recv()
        over = terminated | truncated
        life_lost = (lives < self._lives) & ~over
        self._lives = lives
        for tape, points in zip(self._tapes, reward.tolist(), strict=True):
            tape.score += points
        ended = np.flatnonzero(over).tolist()
        self._finished = [self._record(i, bool(terminated[i])) for i in ended]
        # The last frame is for users of gymnasium alone: the agents' observers are not asked for
        # it.
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
        """All that `restore` needs: a byte for each action of the running tapes, and a few
        numbers."""
        return {
            "tape_number": np.array([tape.number for tape in self._tapes], np.int64),  # [N]
            "tape_seed": np.array([tape.seed for tape in self._tapes], np.int64),  # [N]
            "tape_length": np.array([len(tape.actions) for tape in self._tapes], np.int64),  # [N]
            # [sum of lengths]
            "actions": np.frombuffer(b"".join(t.actions for t in self._tapes), np.uint8),
            "episode_start": np.array([tape.start for tape in self._tapes], np.int64),  # [N]
            "episode_score": np.array([tape.score for tape in self._tapes], np.float64),  # [N]
            # [N]
            "screen_crc": np.array([zlib.crc32(s.tobytes()) for s in self._screens], np.int64),
        }

    def restore(
        self,
        state: dict[str, np.ndarray],
        progress: Callable[[int, int], object] = lambda done, total: None,
    ) -> np.ndarray:
        """Play every tape of `state` again: all that follows is as if these environments had never
        stopped.

        Returns the frames as they were, uint8 [N, H, W]. Takes as long as the longest tape, up to
        minutes: `progress` is told the steps done and their total. ValueError if the state belongs
        to other environments, or if these do not repeat themselves.
        """
        numbers, lengths = state["tape_number"].tolist(), state["tape_length"]
        same_seeds = [self._tape(i, n).seed for i, n in enumerate(numbers)] == state[
            "tape_seed"
        ].tolist()
        whole = (
            len(lengths) == self.num_envs
            and lengths.min() >= 0
            and lengths.sum() == len(state["actions"])
        )
        if not same_seeds or not whole:
            raise ValueError(
                "saved environments: the tapes belong to another seed, stream or program version"
            )
        # All tapes are played at the same time, flush at their ends, where play goes on (time runs
        # to the right):
        #
        #     env 0  [s a a a a a a a a a|      s  reset from the tape's seed
        #     env 1   0 0 0 0[s a a a a a|      a  an action of the tape
        #     env 2   0 0 0 0 0 0 0[s a a|      0  action 0 on a tape that is thrown away
        #
        # A seeded reset leaves nothing of what an environment played before it.
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
                    "does not repeat "
                    "itself, or another version of it made the state; the run cannot go on exactly"
                )
        return frames

    def close(self) -> None:
        """Stop the environments. Nothing but `close` may be called afterwards."""
        if self._sent:
            self.recv()
        self._tapes = []
        self._games.close()

    def _tape(self, env: int, number: int) -> _Tape:
        """A tape's seeds come from the run's seed and stream, the environment and the tape's
        number."""
        words = np.random.SeedSequence([self._seed, self._stream, env, number]).generate_state(2)
        observe_seed = int(words[1])
        return _Tape(
            number,
            1 + int(words[0]) % MAX_SEED,
            observe_seed,
            make_observer(self._observe, observe_seed),
        )

    def _begin(self, mask: np.ndarray, seeded: np.ndarray) -> None:
        """Reset the environments in `mask`; those in `seeded` from their tape's seed. Both bool
        [N]."""
        seeds = np.where(seeded, [tape.seed for tape in self._tapes], -1)
        self._screens, self._lives = self._games.reset(mask, seeds)

    def _see(self, is_first: np.ndarray) -> np.ndarray:
        """The agent's view, uint8 [N, H, W]."""
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
