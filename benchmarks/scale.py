"""Many actors on Ray: rows a second into the learner, weights to all, the object store's memory.

The actors send a few recorded stretches over and over, as fast as they are asked. The learner's
side is that of `train.py --actors`, without the updates.
"""

import pickle
import sys
import time
from dataclasses import replace
from statistics import median
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
from torch import Tensor

from agents.ring import Stretch
from benchmarks.common import Effort, Row, seconds
from experiment import build
from experiment.build import stretch_rows
from experiment.runs import actors
from experiment.runs.actors import Answer, Players, RemotePlayer
from experiment.settings.config import Config, preset

ACTORS = (1, 2, 4, 8)
LANES = 8  # envs of an actor
RECORDED = 4  # stretches


class Recorded(RemotePlayer):
    """An actor that sends the same stretches over and over."""

    stretches: ClassVar[list[Stretch]] = []  # travel with the class

    def __init__(self, config: Config, index: int) -> None:
        self.config, self.sent = config, 0
        self.network = build.make_network(config, len(build.task(config).action_names))

    def play(self, weights: dict[str, Tensor], epsilon: np.ndarray) -> Answer:
        stretch, time = self.stretches[self.sent % RECORDED], self.sent * stretch_rows(self.config)
        self.sent += 1
        return Answer(stretch._replace(time=time), [])

    def load(self, weights: dict[str, Tensor]) -> None:
        """As before a stretch."""
        self.network.load_state_dict(weights)


def scale(effort: Effort) -> list[Row]:
    """Rows of everything that 1 to 8 actors on this machine send, with the drqn preset."""
    most = max(ACTORS)
    config = replace(preset("drqn"), actors=most, num_envs=most * LANES, threads=1)
    config = replace(config, replay_rows=effort.rows // 10)
    network = build.make_network(config, len(build.task(config).action_names))
    learner = build.make_learner(config, network)
    replay = build.make_replay(config, learner.online.state_size)
    Recorded.stretches, alone = _record(config)
    with patch.object(actors, "RemotePlayer", Recorded):
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the nodes have no benchmarks
        players = Players(config, learner)
        players.reset()
    try:
        return _measure(players, replay, effort, alone)
    finally:
        players.close()


def _record(config: Config) -> tuple[list[Stretch], float]:
    """The stretches of an actor that plays in this process, and its rows a second."""
    actor = RemotePlayer(config, 0)
    answers: list[Any] = []

    def play() -> None:
        answers.append(actor.play(actor.network.state_dict(), np.ones(LANES)))

    took = seconds(play, RECORDED)
    return [answer.stretch for answer in answers], stretch_rows(config) * LANES / took


def _measure(players: Players, replay: Any, effort: Effort, alone: float) -> list[Row]:
    ray, seats, rows = players._ray, players.seats, []
    weights = {k: v.cpu() for k, v in players.learner.acting.state_dict().items()}
    size = sum(v.nbytes for v in weights.values()) / 1e6

    def take(count: int) -> Stretch:
        """So many stretches into the replay. The last one."""
        while True:
            players.act(np.ones(len(players.seats) * LANES))
            stretch = players.recv()
            replay.append(stretch)
            count -= stretch.steps > 0
            if not count:
                return stretch

    def rate() -> float:
        """Rows a second, for the seconds of a measurement."""
        taken, start = 0, time.perf_counter()
        while time.perf_counter() - start < effort.seconds:
            take(10)
            taken += 10
        return taken * players.steps / (time.perf_counter() - start)

    def broadcast() -> None:
        ref = ray.put(weights)
        ray.get([seat.handle.load.remote(ref) for seat in players.seats])

    sample = take(1)
    while not all(seat.alive for seat in seats):
        take(1)
        time.sleep(0.2)  # leave them the machine
    row_bytes = len(pickle.dumps(Answer(sample, []))) / sample.steps
    here, one = sample.steps / seconds(lambda: replay.append(sample), 100), 0.0
    packed = f"{row_bytes:.0f} bytes a row, {sample.steps} rows a stretch"
    for count in ACTORS:
        players.seats, players._turns = seats[:count], seats[:count]
        who = f"{count} actor{'s' * (count > 1)}"
        take(4 * count)
        speed, pairs = median(rate() for _ in range(effort.pairs)), effort.pairs
        whole, free = ray.cluster_resources(), ray.available_resources()
        rates = f"{speed * row_bytes / 1e6:.1f} MB/s, {packed}; {here:,.0f} rows/s without Ray"
        note = f"{rates}; other: one actor that plays, on one core"
        figures = speed, alone, "rows/s", speed / alone, ">=", count
        rows.append(Row(f"rows from {who}", *figures, pairs, note))
        store = (whole["object_store_memory"] - free["object_store_memory"]) / 1e6
        most = count * sample.steps * row_bytes / 1e6 + 3 * size
        note = "other: the stretches of all open calls, and three versions of the weights"
        figures = store, most, "MB", store / most, "<=", 1.0
        rows.append(Row(f"object store, {who}", *figures, 1, note))
        broadcast()
        took, pairs = median(seconds(broadcast) for _ in range(4 * pairs)), 4 * pairs
        one = one or took
        note = f"{size:.1f} MB; other: {count} times as long as to one"
        figures = took, count * one, "s", took / (count * one), "<=", 1.0
        rows.append(Row(f"weights to {who}", *figures, pairs, note))
    return rows
