"""Actors of one run on Ray: each plays some of its envs, and sends finished stretches of rows to the learner.

The learner asks: every player has at most CALLS calls open, each with the newest weights. So nobody plays ahead of a
learner that is behind, and weights are never much older than MAX_AGE updates. A call is answered once or never, and it
is never repeated: no row is inserted twice, and a lost player loses what was under way.
"""

import contextlib
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.learner import Learner, first_priority
from agents.ring import BLOCK, ROW, Ring, Stretch
from envs.episodes import EpisodeRecord
from experiment import build
from experiment.cluster.connect import connected
from experiment.runs.player import Player
from experiment.settings.config import Config, UsageError

CALLS = 2  # open at a time to each player: one is played, one waits
PUBLISH = 10  # updates between two versions of the weights
MAX_AGE = 1_000  # updates: a player whose weights are older is waited for before any other
WAIT = 1.0  # seconds: of a look for finished stretches, and before a lost player is asked again
LOSSES, PATIENCE = 30, 900.0  # times that each player is lost in a row, and seconds, before the run gives up
EMPTY = Stretch(0, -1, np.empty((0, 0), ROW), np.empty(0), [], np.empty(0))


def stretch_rows(config: Config) -> int:
    """Rows of a stretch, of each env: whole blocks and strides."""
    return 2 * int(np.lcm(BLOCK, config.sequence_stride))


class Answer(NamedTuple):
    """What a player sends."""

    seed: int  # of the player's life
    stretch: Stretch
    records: list[EpisodeRecord]  # of the episodes that ended in it


class RemotePlayer:
    """A player in a process of its own. It packs rows with a small replay of the last ones."""

    def __init__(self, config: Config, index: int) -> None:
        lanes, rows = config.num_envs // config.actors, sum(build.lengths(config)) + 3 * stretch_rows(config)
        here = {"device": "cpu", "compile": False, "threads": 1, "num_envs": lanes, "replay_rows": lanes * rows}
        self.config, self.index = replace(config, actors=0, ray="", **here), index
        self.player: Player | None = None

    def begin(self, seed: int) -> None:
        """Begin a life: envs and exploration from this seed, and an empty replay."""
        if self.player:
            self.player.close()
        config = self.config = replace(self.config, seed=seed)
        build.use_threads(config)
        actions = len(build.task(config).action_names)
        self.network = build.make_network(config, actions)
        self.ring = build.make_replay(config, self.network.state_size).rings[0]
        self.q = np.zeros((self.ring.capacity, config.num_envs, actions), np.float32)  # of the rows in the ring
        self.player = Player(config, self.network)
        self.player.reset()

    def play(self, seed: int, weights: dict[str, Tensor], version: int, epsilon: np.ndarray) -> Answer | None:
        """Play a stretch with these weights; epsilon [N]. None if the life of this seed is over."""
        player = self.player
        if player is None or self.config.seed != seed:
            return None
        self.network.load_state_dict(weights)
        ring, records, offset = self.ring, [], self.index * self.config.num_envs
        first = ring.time
        for _ in range(stretch_rows(self.config)):
            player.act(epsilon)
            self.q[ring.time % ring.capacity] = player.actor.q
            ring.append(player.recv())
            records += [replace(record, env=record.env + offset) for record in player.finished()]
        if self.config.priority_exponent:
            self._set_priorities(ring, ring.completed(first), version)
        return Answer(seed, ring.stretch(first, self.index), records)

    def _set_priorities(self, ring: Ring, origin: np.ndarray, updates: int) -> None:
        start, lane = np.divmod(origin, ring.lanes)
        rows = start * ring.stride + np.arange(ring.length)[:, None]  # [L, B]
        q = torch.from_numpy(self.q[rows % ring.capacity, lane])  # [L, B, A]
        unseen = torch.empty(0, dtype=torch.uint8)  # Q is known: no frame is decompressed
        batch = ring.as_sequence(*ring.gather(origin), unseen, np.ones(len(origin), np.float32), origin)
        ring.set_priorities(origin, first_priority(self.config, updates, batch, q).numpy())


@dataclass
class Call:
    """A call that is not yet answered."""

    ref: Any
    number: int  # all calls in their order
    version: int | None  # of the weights; None: `begin`


@dataclass
class Seat:
    """A player as the learner knows it."""

    handle: Any
    seed: int = -1
    rows: int = 0  # inserted from this life: the time of the next stretch
    alive: bool = False  # has begun
    ask_at: float = 0.0  # monotonic seconds: not before
    calls: deque[Call] = field(default_factory=deque)
    steps: int = 0  # inserted since the last row of metrics


class Players:
    """All players of a run, in the place of one `Player` here: `act` asks them, `recv` takes a finished stretch."""

    def __init__(self, config: Config, learner: Learner) -> None:
        """UsageError if Ray is missing, or if there is no cluster with a core at the address."""
        self.config, self.learner = config, learner
        self.rng = build.rng(config.seed, "exploration")  # gives each life of a player its seed
        self.lanes = config.num_envs // config.actors
        self.steps = stretch_rows(config) * self.lanes
        self.restarts = self.refused = self.age = self._losses = self._calls = 0
        self._records: list[EpisodeRecord] = []
        self._version, self._weights, self._answered = -1, None, time.monotonic()
        self._stack = contextlib.ExitStack()
        self._ray = self._stack.enter_context(connected(config.ray or "local"))
        cores = self._ray.cluster_resources().get("CPU", 0.0)
        if not cores:
            self.close()
            raise UsageError(f"--ray {config.ray}: the cluster has no core")
        share = 1 / -(-config.actors // int(cores))  # of a core, so that all find room
        remote = self._ray.remote(num_cpus=share, max_restarts=-1, max_task_retries=0)(RemotePlayer)
        self.seats = [Seat(remote.remote(config, i)) for i in range(config.actors)]

    def reset(self) -> None:
        """The players begin when `act` asks them."""

    def act(self, epsilon: np.ndarray) -> None:
        """Ask every player for stretches with the newest weights; epsilon [N] of all envs."""
        learner = self.learner
        if self._weights is None or learner.updates - self._version >= PUBLISH:
            weights = {k: v.cpu() for k, v in learner.acting.state_dict().items()}
            self._version, self._weights = learner.updates, self._ray.put(weights)
        for seat, own in zip(self.seats, np.split(epsilon, len(self.seats)), strict=True):
            if not seat.alive and not seat.calls and time.monotonic() >= seat.ask_at:
                seat.seed, seat.rows = int(self.rng.integers(2**31)), 0
                self._call(seat, seat.handle.begin.remote(seat.seed), None)
            while seat.alive and len(seat.calls) < CALLS:
                call = seat.handle.play.remote(seat.seed, self._weights, self._version, own)
                self._call(seat, call, self._version)

    def _call(self, seat: Seat, ref: Any, version: int | None) -> None:
        self._calls += 1
        seat.calls.append(Call(ref, self._calls, version))

    def recv(self) -> Stretch:
        """The finished stretch that was asked for first; an empty one if none is finished within WAIT seconds."""
        self._records = []
        heads = sorted((seat.calls[0].number, seat) for seat in self.seats if seat.calls)  # numbers differ
        late = [(n, seat) for n, seat in heads if self._age(seat.calls[0]) >= MAX_AGE]
        waited = {seat.calls[0].ref: seat for _, seat in late or heads}
        ready = self._ray.wait(list(waited), timeout=WAIT)[0] if waited else time.sleep(WAIT)
        return self._take(waited[ready[0]]) if ready else EMPTY

    def _age(self, call: Call) -> int:
        return 0 if call.version is None else self.learner.updates - call.version

    def _take(self, seat: Seat) -> Stretch:
        """The answer to a player's first call, which has come."""
        errors = self._ray.exceptions
        try:
            answer: Answer | None = self._ray.get(seat.calls[0].ref)
        except errors.RayTaskError:  # an error of our own, not a loss
            raise
        except errors.RayError as error:
            self._lose(seat, error)
            return EMPTY
        call, self._losses, self._answered = seat.calls.popleft(), 0, time.monotonic()
        if call.version is None:
            seat.alive = True
            return EMPTY
        if answer is None or (answer.seed, answer.stretch.time) != (seat.seed, seat.rows):
            self.refused += 1
            self._lose(seat, "an answer out of its order")
            return EMPTY
        seat.rows += stretch_rows(self.config)
        seat.steps += answer.stretch.steps
        self.age, self._records = max(self.age, self._age(call)), answer.records
        return answer.stretch

    def _lose(self, seat: Seat, why: object) -> None:
        """The player is asked to begin another life; calls that are open are given up."""
        self.restarts += seat.alive
        self._losses += 1
        # Until there is room for them, Ray says at once that players are restarting: a node may be away for minutes.
        if self._losses > LOSSES * len(self.seats) and time.monotonic() - self._answered > PATIENCE:
            raise UsageError(f"--actors {len(self.seats)}: no player answers any more ({' '.join(str(why).split())})")
        seat.alive, seat.ask_at = False, time.monotonic() + WAIT
        seat.calls.clear()

    def finished(self) -> list[EpisodeRecord]:
        """The episodes that ended in the last stretch."""
        return self._records

    def metrics(self, seconds: float) -> dict[str, float]:
        """Of the time since the last row of metrics."""
        refs = [call.ref for seat in self.seats for call in seat.calls if call.version is not None]
        waiting = self._ray.wait(refs, num_returns=len(refs), timeout=0)[0] if refs else []
        frame_skip = build.task(self.config).frame_skip
        speeds = [seat.steps * frame_skip / seconds for seat in self.seats]
        age, self.age = self.age, 0
        for seat in self.seats:
            seat.steps = 0
        return {
            "actors_alive": sum(seat.alive for seat in self.seats),
            "actor_frames_per_second": round(float(np.mean(speeds)), 1),
            "actor_frames_per_second_min": round(min(speeds), 1),
            "weight_age": age,
            "stretches_waiting": len(waiting),
            "actor_restarts": self.restarts,
        }

    def close(self) -> None:
        self._stack.close()

    def state(self) -> dict[str, Mapping[str, Any]]:
        """The players' envs and states are not kept: they begin anew."""
        return {"players": {"restarts": np.array(self.restarts)}}

    def restore(self, training: Mapping[str, Tensor]) -> None:
        self.restarts = int(training["players.restarts"])
