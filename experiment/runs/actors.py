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

from agents.learner import Learner, first_priority
from agents.ring import ROW, Ring, Stretch
from envs.episodes import EpisodeRecord
from experiment import build
from experiment.cluster import connected
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
        replay_rows=lanes * (sum(build.lengths(config)) + 3 * build.stretch_rows(config)),
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
        # Q-values of the ring's rows.
        self.q = np.zeros((self.ring.capacity, self.ring.lanes, actions), np.float32)
        self.player = Player(self.config, self.network)
        self.player.reset()

    def play(self, weights: dict[str, torch.Tensor], epsilon: np.ndarray) -> Answer:
        """Play a stretch with these weights; epsilon [N]."""
        self.network.load_state_dict(weights)
        ring, records, offset = self.ring, [], self.index * self.config.num_envs
        first = ring.time
        for _ in range(build.stretch_rows(self.config)):
            self.player.act(epsilon)
            self.q[ring.time % ring.capacity] = self.player.actor.q
            ring.append(self.player.recv())
            records += [replace(r, env=r.env + offset) for r in self.player.finished()]
        if self.config.priority_exponent:
            self._set_priorities(ring, ring.completed(first))
        return Answer(ring.stretch(first, self.index), records)

    def _set_priorities(self, ring: Ring, origin: np.ndarray) -> None:
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
        ring.set_priorities(origin, first_priority(self.config, batch, q).numpy())


@dataclass(eq=False)
class Seat:
    """A player, on the learner's side."""

    index: int
    handle: Any = None
    seed: int = -1
    alive: bool = False  # has begun to play
    losses: int = 0  # in a row, without a stretch
    begins_at: float = 0.0  # not earlier on the monotonic clock, in seconds
    call: Any = None  # the open one
    version: int = 0  # of the weights in the last call, in updates
    since: float = 0.0  # the time of the last call on the monotonic clock, in seconds


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
        self.steps = build.steps_of_recv(config)
        self.restarts = self.age = 0
        self._in_vain, self._waits = 0.0, False
        self._why = "no actor had room, or none was fast enough"
        self._version, self._weights = -1, None
        self._records: list[EpisodeRecord] = []
        stack = contextlib.ExitStack()
        self.close = stack.close  # disconnects from Ray, which ends the players
        self._ray = stack.enter_context(connected(config.ray or "local"))
        whole, parts = self._ray.cluster_resources(), build.expected_bytes(of_player(config))
        cores = int(whole.get("CPU", 0))
        memory = parts["program"] + parts["network"] + parts["replay"]
        if not cores or config.actors * memory > whole.get("memory", 0):
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
        # Steps of each that came since the last row of metrics.
        self._steps = np.zeros(config.actors, int)
        self._turns = [*self.seats]  # in the order of their last calls
        self._most = config.actors  # open calls at most
        self._waiting = list[int]()  # the finished stretches at each look

    def reset(self) -> None:
        """Nothing: the first `act` starts all players."""

    def act(self, epsilon: np.ndarray) -> None:
        """Call idle players for a stretch with the newest weights; epsilon [N] of all envs.

        At most `_most` calls for stretches are open; the player that waits longest is called first.
        A player without a process begins first, with a new seed, on any node that has room.
        """
        epsilons, now = np.split(epsilon, len(self.seats)), monotonic()
        calls = sum(seat.alive for seat in self._turns if seat.call)
        for seat in [s for s in self._turns if not s.call and now >= s.begins_at]:
            if seat.alive and calls >= self._most:
                continue
            if not seat.handle:
                seat.seed = int(self.rng.integers(2**31))
                seat.handle = self._actor.remote(replace(self.config, seed=seat.seed), seat.index)
            seat.call = (
                seat.handle.play.remote(self._newest_weights(), epsilons[seat.index])
                if seat.alive
                else seat.handle.__ray_ready__.remote()  # answers once the player has begun
            )
            seat.version, seat.since = self.learner.updates, now
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
        start, self._records = monotonic(), []
        called, oldest = [seat for seat in self._turns if seat.call], self.learner.updates - MAX_AGE
        late = [seat for seat in called if seat.alive and seat.version <= oldest]
        self._waiting.append(self._answers())
        if not self._waiting[-1] or len(self._waiting) == len(self.seats):
            # One more after a wait; one fewer if two answers or more waited at every look.
            change = -1 if min(self._waiting) > 1 else int(not self._waiting[-1])
            self._most, self._waiting = min(max(self._most + change, 1), len(self.seats)), []
        if called:
            # Until any is finished; Ray names any of several.
            self._ray.wait([seat.call for seat in late or called], timeout=WAIT)
        else:
            sleep(WAIT)  # Ray refuses to wait for nothing
        ready = self._finished(called)
        for seat in called:
            limit = HANG + self.steps / SLOWEST if seat.alive else PATIENCE
            if seat not in ready and monotonic() - seat.since > limit:
                self._ray.kill(seat.handle)
                self._lose(seat, f"no answer for {limit:.0f} seconds")
        first = next((seat for seat in late or called if seat in ready), None)
        stretch = self._take(first) if first else EMPTY
        self._in_vain = 0.0 if stretch.steps else self._in_vain + monotonic() - start
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

    def _finished(self, called: list[Seat]) -> list[Seat]:
        """Those of these players whose answer is there, also on another node."""
        if not (calls := {seat.call: seat for seat in called}):
            return []
        ready, _ = self._ray.wait([*calls], num_returns=len(calls), timeout=0, fetch_local=False)
        return [calls[call] for call in ready]

    def _answers(self) -> int:
        """The number of finished stretches."""
        return len(self._finished([seat for seat in self._turns if seat.call and seat.alive]))

    def _take(self, seat: Seat) -> Stretch:
        """The stretch in a player's answer; after a loss, or a start, an empty one."""
        call, seat.call = seat.call, None
        try:
            answer = self._ray.get(call)
        except self._ray.exceptions.RayTaskError:  # an error of our own, not a loss
            raise
        except self._ray.exceptions.RayError as loss:
            why = " ".join(str(loss).split())
            if getattr(loss, "actor_init_failed", False):  # such as a missing package
                raise UsageError(
                    f"--actors {len(self.seats)}: no player can begin ({why[-300:]})"
                ) from None
            # Ray's advice for all cases comes before and after.
            self._lose(seat, (why.partition(" because ")[2] or why)[:120])
            return EMPTY
        if not seat.alive:
            seat.alive = True
            return EMPTY
        stretch, self._records = answer
        seat.losses = 0
        self._steps[seat.index] += stretch.steps
        self.age = max(self.age, self.learner.updates - seat.version)
        return stretch

    def _lose(self, seat: Seat, why: str) -> None:
        """Drop a player and its call. Another one begins: at once, or later after other losses."""
        seat.call, seat.handle, seat.alive, self._why = None, None, False, why
        seat.losses += 1
        seat.begins_at = monotonic() + min(2**seat.losses - 2, BACKOFF)
        self.restarts += 1
        self._say(f"actor {seat.index} lost ({why}), begins again")

    def finished(self) -> list[EpisodeRecord]:
        """The episodes that ended in the last stretch."""
        return self._records

    def metrics(self, seconds: float) -> dict[str, float]:
        """Metrics of the players in the `seconds` since the last row (docs/metrics.md)."""
        speeds = self._steps * build.task(self.config).frame_skip / seconds
        age, self.age, self._steps[:] = self.age, 0, 0
        return {
            "actors_alive": sum(seat.alive for seat in self.seats),
            "actor_frames_per_second": round(float(speeds.mean()), 1),
            "actor_frames_per_second_min": round(float(speeds.min()), 1),
            **{f"actor_frames_per_second_{i}": round(float(v), 1) for i, v in enumerate(speeds)},
            "weight_age": age,
            "stretches_waiting": self._answers(),
            "actor_restarts": self.restarts,
        }

    def state(self) -> dict[str, Mapping[str, Any]]:
        """The number of restarts alone: after a resume the players begin new episodes."""
        return {"players": {"restarts": np.array(self.restarts)}}

    def restore(self, training: Mapping[str, torch.Tensor]) -> None:
        """The players begin with seeds from the restored `rng`."""
        self.restarts = int(training["players.restarts"])
