"""Many games of one kind, played side by side by native threads, each exactly repeatable.

Each environment plays a *tape*: a seed and all actions since. What a tape shows depends on nothing else,
neither on the other environments nor on the number of threads. Several episodes follow each other on a
tape; they are parted by resets without a seed, because a reset with one costs about 0.1 s. A new tape
begins at the first episode's end after `tape_steps` steps, so that playing a tape again (to resume, or to
watch) stays cheap.
"""

import zlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from envs.emulator import FRAME_SKIP, MAX_FRAMES, MAX_SEED, SIZE, check_game, emulators, machine
from envs.episodes import MAX_ACTIONS, EpisodeRecord
from envs.protocols import Protocol
from envs.screens import Observe, Observer, make_observer


class Transition(NamedTuple):
    """What one step of all N environments brought. No later call changes these arrays."""

    reward: np.ndarray  # float32 [N], the game's own points, not clipped
    terminated: np.ndarray  # bool [N], the game is over
    truncated: np.ndarray  # bool [N], cut off after 30 minutes
    life_lost: np.ndarray  # bool [N], a life was lost and the game goes on
    frame: np.ndarray  # uint8 [N, 84, 84], what the agent sees next; after an end the next first frame
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


class AtariEnvs:
    """N environments of one game. Call `reset` (or `restore`) once, then `send` and `recv` in turn.

    What runs between `send` and `recv` runs beside the emulators. An ended episode is followed by the next
    one at once: no step is spent on the reset.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        protocol: Protocol,
        seed: int,
        *,
        observe: Observe = Observe(),  # noqa: B008 - frozen
        threads: int = 2,
        tape_steps: int = 4000,
        stream: int = 0,
    ) -> None:
        """seed and stream, both from 0, give all randomness; runs with the same seed and another stream are
        independent (training 0, evaluation 1, say). tape_steps: agent steps after which a tape is changed.
        ValueError on anything that is out of range or unknown.
        """
        longest = MAX_ACTIONS - MAX_FRAMES // FRAME_SKIP
        for name, value, low, high in (
            ("num_envs", num_envs, 1, 4096),
            ("seed", seed, 0, 2**63 - 1),
            ("threads", threads, 1, 1024),
            ("tape_steps", tape_steps, 1, longest),
            ("stream", stream, 0, 2**63 - 1),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {value}")
        self.game = check_game(game)
        self.protocol = protocol
        self.num_envs = num_envs
        self.action_meanings = machine(game).actions(protocol)
        self.num_actions = len(self.action_meanings)
        self._seed, self._stream, self._observe, self._tape_steps = seed, stream, observe, tape_steps
        self._emulators = emulators(game, num_envs, protocol, threads=threads)
        self._tapes: list[_Tape] = []
        self._lives = np.zeros(num_envs, np.int32)
        self._screens = np.zeros((num_envs, SIZE, SIZE), np.uint8)  # as they are now, nothing hidden
        self._finished: list[EpisodeRecord] = []
        self._sent = False

    def reset(self) -> np.ndarray:
        """Start a tape in every environment, its first or the next one. Returns frames, uint8 [N, 84, 84]."""
        if self._sent:
            raise RuntimeError("reset() between send() and recv()")
        self._tapes = [self._tape(i, self._tapes[i].number + 1 if self._tapes else 0) for i in range(self.num_envs)]
        every = np.ones(self.num_envs, np.bool_)
        self._begin(every, every)
        self._finished = []
        return self._see(every)

    def send(self, actions: np.ndarray) -> None:
        """Set the emulators going. actions: integers [N], each from 0 to num_actions - 1, else ValueError."""
        actions = np.asarray(actions)
        if not self._tapes or self._sent:
            raise RuntimeError("send() comes after reset(), restore() or recv(), once")
        if actions.shape != (self.num_envs,) or not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(f"actions must be {self.num_envs} integers, not {actions.dtype} {list(actions.shape)}")
        if actions.min() < 0 or actions.max() >= self.num_actions:  # the emulator would hang
            raise ValueError(f"actions must be from 0 to {self.num_actions - 1}, not {actions.tolist()}")
        self._emulators.send(actions.astype(np.int64))
        for tape, action in zip(self._tapes, actions.tolist(), strict=True):
            tape.actions.append(action)
        self._sent = True

    def recv(self) -> Transition:
        """Wait for the emulators. Ended episodes are recorded and followed by new ones."""
        if not self._sent:
            raise RuntimeError("recv() without send()")
        self._sent = False
        screens, reward, terminated, truncated, info = self._emulators.recv()
        self._screens = screens[:, 0]  # [N, 84, 84]
        over = terminated | truncated
        life_lost = (info["lives"] < self._lives) & ~over
        self._lives = info["lives"]
        for tape, points in zip(self._tapes, reward.tolist(), strict=True):
            tape.score += points
        self._finished = [self._record(i, bool(terminated[i])) for i in np.flatnonzero(over).tolist()]
        if over.any():
            fresh = over & np.array([len(tape.actions) >= self._tape_steps for tape in self._tapes])
            for i in np.flatnonzero(over).tolist():
                self._next_episode(i, fresh[i])
            self._begin(over, fresh)
        frame = self._see(over)
        return Transition(reward.astype(np.float32), terminated, truncated, life_lost, frame, over)

    def finished(self) -> list[EpisodeRecord]:
        """The episodes that ended in the last `recv`, in the order of the environments."""
        return self._finished

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs: a byte for each action of the running tapes, and a few numbers."""
        if not self._tapes or self._sent:
            raise RuntimeError("state() is there after reset(), restore() or recv()")
        return {
            "tape_number": np.array([tape.number for tape in self._tapes], np.int64),  # [N]
            "tape_seed": np.array([tape.seed for tape in self._tapes], np.int64),  # [N]
            "tape_length": np.array([len(tape.actions) for tape in self._tapes], np.int64),  # [N]
            "actions": np.frombuffer(b"".join(t.actions for t in self._tapes), np.uint8),  # [sum of lengths]
            "episode_start": np.array([tape.start for tape in self._tapes], np.int64),  # [N]
            "episode_score": np.array([tape.score for tape in self._tapes], np.float64),  # [N]
            "screen_crc": np.array([zlib.crc32(s.tobytes()) for s in self._screens], np.int64),  # [N]
        }

    def restore(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """Play every tape of `state` again: all that follows is as if these environments had never stopped.

        Returns the frames as they were, uint8 [N, 84, 84]. Takes as long as the longest tape. ValueError if
        the state is not one of such environments, or leads elsewhere than it says.
        """
        if self._sent:
            raise RuntimeError("restore() between send() and recv()")
        lengths, actions = self._checked(state)
        self._tapes = [self._tape(i, number) for i, number in enumerate(state["tape_number"].tolist())]
        # The tapes are set flush at their ends. Before its own start an environment plays no-ops, and may
        # even end and begin games: the seeded reset, when its turn comes, wipes out everything.
        total = int(lengths.max())
        begins = total - lengths  # [N]
        script = np.zeros((total, self.num_envs), np.int64)
        for i, tape in enumerate(np.split(actions, np.cumsum(lengths)[:-1])):
            script[begins[i] :, i] = tape
        playing = begins == 0  # [N]
        every = np.ones(self.num_envs, np.bool_)
        self._begin(every, playing)
        frames = self._see(playing, playing)
        for t, actions_t in enumerate(script):
            screens, reward, terminated, truncated, info = self._emulators.step(actions_t)
            self._screens = screens[:, 0]
            self._lives = info["lives"]
            for i in np.flatnonzero(playing).tolist():
                self._tapes[i].actions.append(int(actions_t[i]))
                self._tapes[i].score += float(reward[i])
            over, fresh = playing & (terminated | truncated), begins == t + 1
            for i in np.flatnonzero(over).tolist():
                self._next_episode(i, fresh=False)
            if (over | fresh).any():
                self._begin(over | fresh, fresh)
            playing |= fresh
            frames = self._see(over | fresh, playing)
        self._finished = []
        reached = self.state()
        for name in ("episode_start", "episode_score", "screen_crc"):
            if not np.array_equal(reached[name], state[name]):
                self._tapes = []
                raise ValueError(f"the saved games lead to another {name}: another game, protocol or emulator?")
        return frames

    def close(self) -> None:
        """Stop the emulators' threads. Nothing but `close` may be called afterwards."""
        if self._sent:
            self.recv()
        self._tapes = []
        vars(self).pop("_emulators", None)  # its threads end with it

    def _tape(self, env: int, number: int) -> _Tape:
        """A tape's seeds come from the run's seed and stream, the environment and the tape's number."""
        words = np.random.SeedSequence([self._seed, self._stream, env, number]).generate_state(2)
        observe_seed = int(words[1])
        return _Tape(number, 1 + int(words[0]) % MAX_SEED, observe_seed, make_observer(self._observe, observe_seed))

    def _begin(self, mask: np.ndarray, seeded: np.ndarray) -> None:
        """Reset the environments in `mask`; those in `seeded` from their tape's seed. Both bool [N]."""
        seeds = np.where(seeded, [tape.seed for tape in self._tapes], -1)
        screens, info = self._emulators.reset(seed=seeds[mask], options={"reset_mask": mask})
        self._screens, self._lives = screens[:, 0], info["lives"]

    def _see(self, is_first: np.ndarray, playing: np.ndarray | None = None) -> np.ndarray:
        """What the agent sees, uint8 [N, 84, 84]. Only the observers of tapes that play (all) are asked."""
        seen = self._screens.copy()
        for i, tape in enumerate(self._tapes):
            if playing is None or playing[i]:
                seen[i] = tape.observer(self._screens[i], bool(is_first[i]))
        return seen

    def _next_episode(self, env: int, fresh: bool) -> None:
        tape = self._tapes[env]
        if fresh:
            self._tapes[env] = self._tape(env, tape.number + 1)
        else:
            tape.start, tape.score = len(tape.actions), 0.0

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

    def _checked(self, state: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The lengths [N] and actions [sum of lengths] of a state. ValueError if it is none of ours."""
        n = self.num_envs
        tapes = ("tape_number", "tape_seed", "tape_length")
        for name in (*tapes, "episode_start", "episode_score", "screen_crc"):
            value = state.get(name)
            kinds = "f" if name == "episode_score" else "iu"
            if not isinstance(value, np.ndarray) or value.shape != (n,) or value.dtype.kind not in kinds:
                raise ValueError(f"saved environments: {name} is missing or not {n} numbers")
        actions, lengths, numbers = state.get("actions"), state["tape_length"], state["tape_number"]
        if not isinstance(actions, np.ndarray) or actions.dtype != np.uint8 or actions.ndim != 1:
            raise ValueError("saved environments: actions is missing or not a row of bytes")
        # The longest: a whole episode that began one step before the tape was due to change.
        longest = self._tape_steps + MAX_FRAMES // FRAME_SKIP
        if lengths.min() < 0 or lengths.max() > longest or lengths.sum() != len(actions):
            raise ValueError(f"saved environments: tape lengths {lengths.tolist()} with {len(actions)} actions")
        if len(actions) and actions.max() >= self.num_actions:
            raise ValueError(f"saved environments: action {actions.max()} where {self.game} has {self.num_actions}")
        if numbers.min() < 0 or numbers.max() > 2**62:
            raise ValueError(f"saved environments: tape numbers {numbers.tolist()}")
        if [self._tape(i, int(number)).seed for i, number in enumerate(numbers)] != state["tape_seed"].tolist():
            raise ValueError("saved environments: the tapes belong to another seed, stream or program version")
        return lengths.astype(np.int64), actions
