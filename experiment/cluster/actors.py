"""Actors of one run on Ray: each plays some of its envs and sends stretches of rows to the learner.

A player has at most one open call from the learner, with the newest weights. So no player plays
ahead of a slow learner, and weights are never much older than MAX_AGE updates. While answers always
wait, fewer calls are open: the rows come from newer weights. A call is answered once or never, and
never repeated: no row is inserted twice. The loss of a player costs its open call; another player
begins in its place. A player that answers too late is killed, which is a loss too.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.learner import Learner, first_priority
from agents.ring import ROW, Ring, Stretch
from envs.episodes import EpisodeRecord
from experiment import build
from experiment.build import stretch_rows
from experiment.cluster.connect import connected
from experiment.runs.player import Player
from experiment.settings.config import Config, UsageError

MAX_AGE = 1_000  # updates: the learner waits first for players with older weights
WAIT = 1.0  # seconds that `recv` waits for a finished stretch
PATIENCE = 900.0  # seconds in `recv` without a stretch, before the run gives up
ROOM = 10.0  # seconds in `recv` without a player, before the run says that it waits for room
# A player has HANG seconds for a stretch, and the time of its rows at SLOWEST rows a second.
HANG, SLOWEST = 60.0, 10.0
BACKOFF = 60.0  # seconds at most before a player begins whose predecessors sent no stretch
EMPTY = Stretch(0, -1, np.empty((0, 0), ROW), np.empty(0), np.empty((0, 0), object), np.empty(0))


def of_player(config: Config) -> Config:
    """The settings of a player: its share of the envs, and a replay of a few stretches."""
    lanes = config.num_envs // config.actors
    return replace(
        config,
        actors=0,
        ray="",
        device="cpu",
        compile=False,
        threads=1,
        num_envs=lanes,
        replay_rows=lanes * (sum(build.lengths(config)) + 3 * stretch_rows(config)),
    )


class Answer(NamedTuple):
    """The answer of a player to a call: a stretch, and the records of the episodes ended in it."""

    stretch: Stretch
    records: list[EpisodeRecord]


class RemotePlayer:
    """A player in a process of its own, with a small replay that packs its last rows."""

    def __init__(self, config: Config, index: int) -> None:
        """The player of number `index`; `config` is the run's, with the player's own seed."""
        self.index, self.config = index, of_player(config)
        build.use_threads(self.config)
        actions = len(build.task(config).action_names)
        self.network = build.make_network(self.config, actions)
        self.ring = build.make_replay(self.config, self.network.state_size).rings[0]
        self.q = np.zeros(
            (self.ring.capacity, self.ring.lanes, actions), np.float32
        )  # of the ring's rows
        self.player = Player(self.config, self.network)
        self.player.reset()

    def play(self, weights: dict[str, Tensor], version: int, epsilon: np.ndarray) -> Answer:
        """Play a stretch with these weights, of `version` updates; epsilon [N]."""
        self.network.load_state_dict(weights)
        ring, records, offset = self.ring, [], self.index * self.config.num_envs
        first = ring.time
        for _ in range(stretch_rows(self.config)):
            self.player.act(epsilon)
            self.q[ring.time % ring.capacity] = self.player.actor.q
            ring.append(self.player.recv())
            records += [replace(r, env=r.env + offset) for r in self.player.finished()]
        if self.config.priority_exponent:
            self._set_priorities(ring, ring.completed(first), version)
        return Answer(ring.stretch(first, self.index), records)

    def _set_priorities(self, ring: Ring, origin: np.ndarray, updates: int) -> None:
        """First priorities of the sequences at `origin` [B], from the Q-values of play."""
        start, lane = np.divmod(origin, ring.lanes)
        rows = start * ring.stride + np.arange(ring.length)[:, None]  # [L, B]
        q = torch.from_numpy(self.q[rows % ring.capacity, lane])  # [L, B, A]
        batch = ring.as_sequence(
            *ring.gather(origin),
            torch.empty(0, dtype=torch.uint8),  # Q is known: no frame is decompressed
            np.ones(len(origin), np.float32),
            origin,
        )
        ring.set_priorities(origin, first_priority(self.config, updates, batch, q).numpy())


@dataclass(eq=False)
class Seat:
    """A player, on the learner's side."""

    index: int
    handle: Any = None
    seed: int = -1
    alive: bool = False  # has begun to play
    losses: int = 0  # in a row, without a stretch
    begins_at: float = 0.0  # not earlier on the monotonic clock, in seconds
    steps: int = 0  # received since the last row of metrics


class Call(NamedTuple):
    """An open call to a player."""

    seat: Seat
    version: int  # of its weights, in updates
    since: float  # on the monotonic clock, in seconds


class Players:
    """All players of a run on Ray, with the methods of a `Player` in this process.

    `act` opens the calls; `recv` returns a finished stretch.
    """

    def __init__(
        self, config: Config, learner: Learner, say: Callable[[str], object] = print
    ) -> None:
        """`say` gets a line about each loss. UsageError without Ray, or a cluster with room."""
        self.config, self.learner, self._say = config, learner, say
        self.rng = build.rng(config.seed, "exploration")  # of the players' seeds
        self.steps = stretch_rows(config) * config.num_envs // config.actors
        self.restarts = self.age = 0
        self._in_vain, self._waits, self._why = 0.0, False, "none had room, or was quick enough"
        self._version, self._weights = -1, None
        self._records: list[EpisodeRecord] = []
        self._open: dict[Any, Call] = {}  # in their order
        self._stack = contextlib.ExitStack()
        self._ray = self._stack.enter_context(connected(config.ray or "local"))
        whole, parts = self._ray.cluster_resources(), build.expected_bytes(of_player(config))
        cores = int(whole.get("CPU", 0))
        memory = parts["program"] + parts["network"] + parts["replay"]
        if not cores or config.actors * memory > whole["memory"]:
            self.close()
            raise UsageError(
                f"--actors {config.actors}: the cluster has {cores} cores and "
                f"{whole.get('memory', 0) / 1e9:.1f} GB; each actor needs {memory / 1e9:.2f} GB"
            )
        self._actor = self._ray.remote(
            num_cpus=1 / -(-config.actors // cores),  # all players have room
            memory=memory,
            max_restarts=0,
            max_task_retries=0,
        )(RemotePlayer)
        self.seats = [Seat(index) for index in range(config.actors)]
        self._turns = [*self.seats]  # the next to call comes first
        self._most, self._waiting = config.actors, list[int]()  # open calls; answers at each look

    def _begin(self, seat: Seat) -> None:
        """Start a new player with a new seed, on any node that has room."""
        seat.seed, seat.alive = int(self.rng.integers(2**31)), False
        seat.handle = self._actor.remote(replace(self.config, seed=seat.seed), seat.index)

    def reset(self) -> None:
        """Nothing: the first `act` starts all players."""

    def act(self, epsilon: np.ndarray) -> None:
        """Call idle players for a stretch with the newest weights; epsilon [N] of all envs.

        At most `_most` calls for stretches are open; the player that waits longest is called first.
        """
        busy, now = [call.seat for call in self._open.values()], monotonic()
        epsilons, calls = np.split(epsilon, len(self.seats)), sum(seat.alive for seat in busy)
        for seat in [s for s in self._turns if s not in busy and now >= s.begins_at]:
            if seat.alive and calls >= self._most:
                continue
            if not seat.handle:
                self._begin(seat)
            call = (
                seat.handle.play.remote(self._newest_weights(), self._version, epsilons[seat.index])
                if seat.alive
                else seat.handle.__ray_ready__.remote()  # answers once the player has begun
            )
            self._open[call] = Call(seat, self.learner.updates, now)
            self._turns.remove(seat)
            self._turns.append(seat)
            calls += seat.alive

    def _newest_weights(self) -> Any:
        """The acting network's weights in the object store, written once for all players."""
        if self._version != self.learner.updates:
            weights = {k: v.cpu() for k, v in self.learner.acting.state_dict().items()}
            self._version, self._weights = self.learner.updates, self._ray.put(weights)
        return self._weights

    def recv(self) -> Stretch:
        """The finished stretch of the earliest call; an empty one if none ends within WAIT s.

        UsageError after PATIENCE s without one: a node may be away for minutes.
        """
        self._records, begun, oldest = [], monotonic(), self.learner.updates - MAX_AGE
        late = [ref for ref, c in self._open.items() if c.seat.alive and c.version <= oldest]
        refs, stretch = late or [*self._open], EMPTY
        self._waiting.append(len(self._answers()))
        if not self._waiting[-1] or len(self._waiting) == len(self.seats):
            # One more after a wait; one fewer if two answers or more waited at every look.
            change = -1 if min(self._waiting) > 1 else int(not self._waiting[-1])
            self._most = min(max(self._most + change, 1), len(self.seats))
            self._waiting = []
        if refs:
            self._ray.wait(refs, timeout=WAIT)  # until any is finished; Ray names any of several
        else:
            sleep(WAIT)  # Ray refuses to wait for nothing
        ready = self._finished([*self._open])
        for ref, (seat, _, since) in [*self._open.items()]:
            limit = HANG + self.steps / SLOWEST if seat.alive else PATIENCE
            if ref not in ready and monotonic() - since > limit:
                self._ray.kill(seat.handle)
                self._lose(ref, f"no answer for {limit:.0f} seconds")
        if ready := [ref for ref in ready if ref in refs]:
            stretch = self._take(ready[0])
        self._in_vain = 0.0 if stretch.steps else self._in_vain + monotonic() - begun
        waits = self._in_vain > ROOM and not any(seat.alive for seat in self.seats)
        if waits and not self._waits:
            self._say("no actor plays: waiting for room on the cluster, or for one to begin")
        self._waits = waits
        if self._in_vain > PATIENCE:
            raise UsageError(
                f"--actors {len(self.seats)}: no stretch came in {PATIENCE / 60:.0f} minutes "
                f"({self._why})"
            )
        return stretch

    def _finished(self, refs: list[Any]) -> list[Any]:
        """The finished ones of these calls, in their order, also with answers on other nodes."""
        if not refs:
            return []
        return self._ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)[0]

    def _answers(self) -> list[Any]:
        """The finished calls for stretches."""
        return self._finished([ref for ref, call in self._open.items() if call.seat.alive])

    def _take(self, ref: Any) -> Stretch:
        """The stretch in the answer to a finished call; after a loss, or a start, an empty one."""
        seat, version, _ = self._open[ref]
        try:
            answer = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError:  # an error of our own, not a loss
            raise
        except self._ray.exceptions.RayError as loss:
            why = " ".join(str(loss).split())
            if getattr(loss, "actor_init_failed", False):  # such as a missing package
                raise UsageError(
                    f"--actors {len(self.seats)}: no player can begin ({why[-300:]})"
                ) from None
            # Ray's advice for all cases comes before and after.
            self._lose(ref, (why.partition(" because ")[2] or why)[:120])
            return EMPTY
        del self._open[ref]
        if not seat.alive:
            seat.alive = True
            return EMPTY
        stretch, self._records = answer
        seat.steps += stretch.steps
        seat.losses = 0
        self.age = max(self.age, self.learner.updates - version)
        return stretch

    def _lose(self, ref: Any, why: str) -> None:
        """Drop a call and its player. Another one begins: at once, or later after other losses."""
        seat, self._why = self._open.pop(ref).seat, why
        seat.handle, seat.alive, seat.losses = None, False, seat.losses + 1
        seat.begins_at = monotonic() + min(2**seat.losses - 2, BACKOFF)
        self.restarts += 1
        self._say(f"actor {seat.index} lost ({why}), begins again")

    def finished(self) -> list[EpisodeRecord]:
        """The episodes that ended in the last stretch."""
        return self._records

    def metrics(self, seconds: float) -> dict[str, float]:
        """Metrics of the players in the `seconds` since the last row (docs/metrics.md)."""
        frames = np.array([seat.steps for seat in self.seats]) * build.task(self.config).frame_skip
        speeds, age, self.age = frames / seconds, self.age, 0
        for seat in self.seats:
            seat.steps = 0
        return {
            "actors_alive": sum(seat.alive for seat in self.seats),
            "actor_frames_per_second": round(float(speeds.mean()), 1),
            "actor_frames_per_second_min": round(float(speeds.min()), 1),
            **{f"actor_frames_per_second_{i}": round(float(v), 1) for i, v in enumerate(speeds)},
            "weight_age": age,
            "stretches_waiting": len(self._answers()),
            "actor_restarts": self.restarts,
        }

    def close(self) -> None:
        """Disconnect from Ray, which ends the players."""
        self._stack.close()

    def state(self) -> dict[str, Mapping[str, Any]]:
        """The number of restarts alone: after a resume the players begin new episodes."""
        return {"players": {"restarts": np.array(self.restarts)}}

    def restore(self, training: Mapping[str, Tensor]) -> None:
        """The players begin with seeds from the restored `rng`."""
        self.restarts = int(training["players.restarts"])
