"""Actors of one run, on a stand-in for Ray: what they send and are asked, what a loss costs."""

import re
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray import exceptions

from agents.learner import first_priority
from agents.ring import ROW
from envs.episodes import replay_grey
from experiment import build
from experiment.runs import actors
from experiment.runs.actors import EMPTY, Players, RemotePlayer
from experiment.settings.config import Config, UsageError, override, preset
from tests import small, torture_actors

ROWS = 16  # of a stretch, of each env: two blocks of 8, which are two strides too
SETTINGS = small.SETTINGS | {"num_envs": 4, "actors": 2, "replay_rows": 1_200}


def config(**changes: Any) -> Config:
    return override(preset("drqn"), SETTINGS | changes)


def network_of(settings: Config) -> Any:
    return build.make_network(settings, len(build.task(settings).action_names))


# --- a player


def alone(settings: Config, index: int = 1) -> tuple[RemotePlayer, dict[str, torch.Tensor]]:
    """A player in this process, and weights for it."""
    return RemotePlayer(settings, index), network_of(settings).state_dict()


def test_a_player_sends_the_rows_that_the_loop_here_would_store() -> None:
    settings = config(actors=1, num_envs=2)
    remote, weights = alone(settings, 0)
    sent = [remote.play(weights, np.full(2, 0.5)) for _ in range(3)]
    network = network_of(settings)
    here = actors.Player(settings, network)
    here.reset()
    one, other = (build.make_replay(settings, network.state_size) for _ in range(2))
    for _ in range(3 * ROWS):
        here.act(np.full(2, 0.5))
        one.append(here.recv())
    for answer in sent:
        other.append(answer.stretch)
    a, b = one.state(), other.state()
    assert all((a[name] == b[name]).all() for name in a.keys() - {"0.open_block"})
    here.close()


def test_first_priorities_come_from_the_values_that_the_actor_saw() -> None:
    settings = config(priority_exponent=1.0, actors=2)
    remote, weights = alone(settings)
    answer = [remote.play(weights, np.full(2, 0.5)) for _ in range(4)][-1]
    # 8 + 16 + 1 rows: of 64, sequences from 8, 16, 24 and 32 on; the last 16 rows completed those
    # of 24 and 32.
    origin = remote.ring.completed(3 * ROWS)
    assert origin.tolist() == [3 * 2, 3 * 2 + 1, 4 * 2, 4 * 2 + 1]
    rows = np.array([24, 24, 32, 32]) + np.arange(25)[:, None]
    q = torch.from_numpy(remote.q[rows, [0, 1, 0, 1]])
    columns, weight = remote.ring.gather(origin), np.ones(4, np.float32)
    batch = remote.ring.as_sequence(*columns, torch.empty(0), weight, origin)
    expected = first_priority(settings, batch, q).clamp(min=1e-6)
    np.testing.assert_allclose(answer.stretch.priority, expected.numpy(), rtol=1e-6)


def test_records_of_episodes_name_the_env_of_the_run_and_can_be_played_again() -> None:
    remote, weights = alone(config(torso="dqn-2013"))  # player 1 has the envs 2 and 3
    records = [record for _ in range(16) for record in remote.play(weights, np.ones(2)).records]
    assert records
    assert {record.env for record in records} <= {2, 3}
    for record in records:
        replay_grey(record)  # RuntimeError if it does not come out as it says


# --- the learner's side, with a stand-in for Ray that computes a call when it is waited for


CLOCK = [1e6]  # seconds; only waiting takes time
DIED = "its worker process has died"
NO_ROOM = "no actor plays: waiting for room on the cluster, or for one to begin"


class Handle:
    """A player; `lost` as after the death of its process."""

    def __init__(self, *arguments: Any) -> None:
        self.player, self.lost, self.slow = RemotePlayer(*arguments), False, False
        self.seeds.append(arguments[0].seed)

    def __getattr__(self, method: str) -> Any:
        assert self not in self.killed
        call = (lambda: True) if method == "__ray_ready__" else getattr(self.player, method)
        return SimpleNamespace(remote=lambda *args: (self, partial(call, *deepcopy(args))))


class StandIn:
    """Of `ray` the calls that Players makes; a call is computed when it is waited for."""

    exceptions = exceptions

    def remote(self, **options: Any) -> Any:
        assert (options["max_restarts"], options["max_task_retries"]) == (0, 0)
        return lambda kind: SimpleNamespace(remote=Handle)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0, "memory": 4e9}

    def kill(self, handle: Handle) -> None:
        handle.killed.append(handle)

    def put(self, value: Any) -> Any:
        return {name: tensor.clone() for name, tensor in value.items()}

    def wait(self, refs: list[Any], num_returns: int = 1, timeout: float = 0, **_: Any) -> Any:
        assert refs
        ready = [ref for ref in refs if not ref[0].slow]
        CLOCK[0] += timeout * (not ready)
        # Ray may name any of them.
        return (ready if num_returns == len(refs) else ready[-num_returns:]), refs

    def get(self, ref: Any) -> Any:
        handle, call = ref
        if handle.lost:
            raise exceptions.ActorUnavailableError(f"x. The actor is dead because {DIED}", None)
        return call()


@pytest.fixture(autouse=True)
def _ray(monkeypatch):
    monkeypatch.setattr(actors, "connected", lambda address: nullcontext(StandIn()))
    monkeypatch.setattr(actors, "monotonic", lambda: CLOCK[0])
    monkeypatch.setattr(actors, "sleep", lambda seconds: CLOCK.append(CLOCK.pop() + seconds))
    monkeypatch.setattr(Handle, "seeds", [], raising=False)  # of all players, in turn
    monkeypatch.setattr(Handle, "killed", [], raising=False)


@pytest.fixture
def learner() -> Any:
    return build.make_learner(config(), network_of(config()))


@pytest.fixture
def messages() -> list[str]:
    """The lines about the players."""
    return []


@pytest.fixture
def players(learner, messages) -> Players:
    players = Players(config(), learner, messages.append)
    players.reset()
    return players


def called(players: Players) -> list[Any]:
    """The seats with an open call, in the order of the calls."""
    return [seat for seat in players._turns if seat.call]


def receive(players: Players, count: int) -> list[Any]:
    """So many stretches that hold rows."""
    stretches: list[Any] = []
    while len(stretches) < count:
        players.act(np.full(4, 0.5))
        stretches += [stretch for stretch in [players.recv()] if stretch.steps]
    return stretches


def test_stretches_come_in_turn_and_fewer_calls_are_open_while_answers_wait(players) -> None:
    stretches = receive(players, 4)
    # As they were asked for.
    assert [(s.ring, s.time) for s in stretches] == [(0, 0), (1, 0), (0, 16), (1, 16)]
    assert all(s.steps == players.steps == ROWS * 2 for s in stretches)
    for seat in players.seats * 2:  # two answers waited: now one call at a time
        players.act(np.full(4, 0.5))
        assert called(players) == [seat]
        assert players.recv().ring == seat.index
    for seat in players.seats:
        seat.handle.slow = True
    players.act(np.full(4, 0.5))
    assert players.recv() is EMPTY  # the learner waited
    players.act(np.full(4, 0.5))
    assert called(players) == players.seats
    assert players.restarts == 0


class Timed(StandIn):
    """Calls that take a time; the reference to one is its end, in seconds."""

    def wait(self, refs: list[Any], num_returns: int = 1, timeout: float = 0, **_: Any) -> Any:
        if timeout:
            CLOCK[0] = max(CLOCK[0], min(refs))
        return [ref for ref in refs if ref <= CLOCK[0]], refs

    def get(self, ref: float) -> Any:
        return EMPTY._replace(rows=np.zeros((16, 2), ROW)), []


def speed(load: float, every: int, monkeypatch: pytest.MonkeyPatch, learner: Any) -> float:
    """Stretches a second of a learner that takes 10 a second, and its actors `load` times as many.

    `every`: stretches between two of its updates.
    """
    players = Players(config(num_envs=16, actors=8), learner)
    monkeypatch.setattr(players, "_ray", Timed())
    draws, start, count = np.random.default_rng(1), CLOCK[0], 0

    def play(*_: Any) -> float:
        return CLOCK[0] + draws.uniform(0.7, 1.3) * 0.8 / load + draws.random() * 1e-6

    for seat in players.seats:
        seat.alive, seat.handle = True, SimpleNamespace(play=SimpleNamespace(remote=play))
    for turn in range(1_000):
        players.act(np.full(16, 0.5))
        if turn % every == 0:
            CLOCK[0] += 0.1 * every
        count += bool(players.recv().steps)
    return count / (CLOCK[0] - start)


@pytest.mark.parametrize("load", [1.5, 2, 4, 10])
@pytest.mark.parametrize("every", [1, 6])
def test_a_learner_slower_than_its_actors_hardly_waits(load, every, monkeypatch, learner) -> None:
    assert speed(load, every, monkeypatch, learner) > 9.5


def test_a_lost_player_loses_its_open_call_and_another_has_another_seed(players, messages) -> None:
    stretches, seeds = receive(players, 4), [players.seats[0].seed]
    for _ in range(2):
        players.seats[0].handle.lost = True
        stretches += receive(players, 5)
        seeds.append(players.seats[0].seed)
    lives = 0
    for ring in (0, 1):
        times = np.array([s.time for s in stretches if s.ring == ring])
        for life in np.split(times, np.flatnonzero(times == 0)[1:]):  # each begins at time 0
            assert life.tolist() == [*range(0, len(life) * ROWS, ROWS)]  # none lost, none twice
            lives += 1
    assert lives == 4
    assert players.restarts == 2
    assert len(messages) == 2
    assert all(line.startswith(f"actor 0 lost ({DIED}") for line in messages)
    assert len(set(seeds)) == 3


def test_calls_have_the_newest_weights_old_ones_are_awaited(players, learner, monkeypatch) -> None:
    monkeypatch.setattr(actors, "MAX_AGE", 31)
    receive(players, 2)
    players.act(np.full(4, 0.5))
    players.seats[0].handle.slow = True
    for _ in range(3):
        learner.updates += 10
        (stretch,) = receive(players, 1)
        assert stretch.ring == 1
    players.act(np.full(4, 0.5))
    assert [seat.version for seat in called(players)] == [0, 30]
    learner.updates += 1
    assert players.recv() is EMPTY  # player 1 has an answer, and is not asked
    players.seats[0].handle.slow = False
    assert receive(players, 1)[0].ring == 0
    assert players.metrics(1.0)["weight_age"] == 31


def test_a_player_that_hangs_is_killed_and_another_begins(players, learner, messages) -> None:
    receive(players, 2)
    players.act(np.full(4, 0.5))
    hung, start = players.seats[0].handle, CLOCK[0]
    hung.slow = True
    learner.updates += actors.MAX_AGE  # from now on the other player does not play
    assert {stretch.ring for stretch in receive(players, 5)} == {0, 1}
    # 60 seconds, and 16 rows of 2 envs at 10 rows a second: 63.2; a look a second
    assert CLOCK[0] - start == 64
    assert hung.killed == [hung]
    assert players.restarts == 1
    assert messages == ["actor 0 lost (no answer for 63 seconds), begins again"]
    # Also while the other one plays.
    players.act(np.full(4, 0.5))
    seat = called(players)[0]
    seat.handle.slow = True
    CLOCK[0] += 65
    receive(players, 1)
    assert players.restarts == 2
    # Also one that has not begun.
    players.act(np.full(4, 0.5))
    seat.handle.slow = True
    CLOCK[0] += 901
    receive(players, 1)
    lost = f"actor {seat.index} lost (no answer for"
    assert messages[1:] == [f"{lost} {limit} seconds), begins again" for limit in (63, 900)]


def test_players_that_die_at_once_begin_less_and_less_often_and_end_the_run(
    players, messages
) -> None:
    start, lost = CLOCK[0], []

    def ask_in_vain() -> None:
        while True:
            players.act(np.full(4, 0.5))
            for seat in players.seats:
                if seat.handle:
                    seat.handle.lost = True
            before = players.restarts
            assert players.recv() is EMPTY
            lost.extend([CLOCK[0] - start] * (players.restarts - before))

    says = r"^--actors 2: no stretch came in 15 minutes \(its worker process has died.*\)$"
    with pytest.raises(UsageError, match=says):
        ask_in_vain()
    assert 900 <= CLOCK[0] - start <= 902
    # 0, 2, 6, 14, 30, 60, 60, ... seconds after the loss before
    assert lost[:14:2] == [0, 0, 2, 8, 22, 52, 112]
    assert len(lost) == len(messages) - 1 == 2 * (6 + (902 - 52) // 60)
    assert messages.count(NO_ROOM) == 1


def test_a_run_says_once_that_it_waits_for_room(players, messages) -> None:
    def recv(times: int) -> None:
        for _ in range(times):
            players.act(np.full(4, 0.5))
            assert players.recv() is EMPTY

    players.act(np.full(4, 0.5))
    for seat in players.seats:
        seat.handle.slow = True
    recv(10)
    assert messages == []
    recv(100)
    assert messages == [NO_ROOM]
    for seat in players.seats:
        seat.handle.slow = False
    receive(players, 2)
    assert (len(messages), players.restarts) == (1, 0)


def test_players_reserve_memory_and_a_cluster_without_it_is_refused(learner, monkeypatch) -> None:
    kinds: list[Any] = []
    monkeypatch.setattr(StandIn, "remote", lambda _, **options: kinds.append(options) or str)
    Players(config(), learner)
    replay = build.make_replay(actors.of_player(config()), network_of(config()).state_size)
    assert kinds[0]["memory"] > replay.nbytes
    room = {"CPU": 4.0, "memory": 1.9 * kinds[0]["memory"]}
    monkeypatch.setattr(StandIn, "cluster_resources", lambda _: room)
    says = r"^--actors 2: the cluster has 4 cores and 0.6 GB; each actor needs 0\.3\d GB$"
    with pytest.raises(UsageError, match=says):
        Players(config(), learner)


def test_a_run_updates_as_its_steps_say_also_after_a_stop(tmp_path, monkeypatch, capsys) -> None:
    changes = dict(num_envs=4, actors=2, replay_rows=1_200, frames=1_920, eval_frames=1_920)
    with monkeypatch.context() as patch:
        small.at_frame(patch, 960, small.ask_to_stop)
        folder = small.start(tmp_path, "run", **changes)
    assert small.rows(folder)[-1]["frames"] < 1_920
    assert small.resume(folder) == 0
    rows = small.rows(folder)
    last = [row for row in rows if "updates" in row][-1]
    # A stretch is 32 rows: 16 of 2 envs. A sequence of 25 rows that begins at row 8 is whole with
    # the third stretch of an actor, the fifth of all: learning begins at 160 rows.
    assert (last["frames"], last["steps"], last["updates"]) == (1_920, 480, (480 - 160) // 64)
    assert "actors_alive 2, weight_age 0, stretches_waiting " in capsys.readouterr().out
    assert (last["actors_alive"], last["replay_rows"], last["actor_restarts"]) == (2, 480, 0)
    # After the stop the players do not begin the same games again.
    assert len(set(Handle.seeds)) == 4
    assert [row for row in rows if "eval_score" in row]
    text = (small.ROOT / "docs" / "metrics.md").read_text().partition("| with `--actors`")[2]
    names = re.findall(r"^\| `(\w+)`", text.partition("\n\n")[0], re.MULTILINE)
    assert len(names) == 7
    assert set(names) <= set(last)


def test_the_torture_of_actors_finds_rows_that_the_games_do_not_give(tmp_path, monkeypatch) -> None:
    # `learn` replaces it: put it back afterwards
    monkeypatch.setattr(Players, "recv", Players.recv)
    folder, changes = tmp_path / "run", torture_actors.RUN | {"frames": 896}
    words = ["drqn", "--runs-dir", str(tmp_path), "--name", "run", *small.flags("drqn", **changes)]
    assert torture_actors.learn(folder, words) == 0
    assert torture_actors.differences(folder) == []
    lives = torture_actors.lives(folder)
    other = [f"{ring} {seed + (seed == lives[0][1])} {time}\n" for ring, seed, time in lives]
    (folder / torture_actors.LIVES).write_text("".join(other))
    assert [fault[-7:] for fault in torture_actors.differences(folder)] == ["differs"]
