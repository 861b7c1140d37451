"""Actors of one run: what they send, what the learner asks, and what a loss costs; with a stand-in for Ray."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray import exceptions
from rich.console import Console

from agents.learner import first_priority
from envs.episodes import replay_grey
from experiment import build
from experiment.cluster import actors
from experiment.cluster.actors import EMPTY, Players, RemotePlayer
from experiment.runs.console import Display
from experiment.settings.config import Config, UsageError, override, preset
from tests import small, torture_actors

ROWS = 16  # of a stretch, of each env: two blocks of 8, which are two strides too
SETTINGS = small.SETTINGS | {"num_envs": 4, "actors": 2, "replay_rows": 1_200}


def config(**changes: Any) -> Config:
    return override(preset("drqn"), SETTINGS | changes)


# --- a player


def alone(settings: Config, index: int = 1) -> tuple[RemotePlayer, dict[str, torch.Tensor]]:
    """A player in this process, and weights for it."""
    network = build.make_network(settings, len(build.task(settings).action_names))
    return RemotePlayer(settings, index), network.state_dict()


def test_a_player_sends_the_rows_that_the_loop_here_would_store():
    settings = config(actors=1, num_envs=2)
    remote, weights = alone(settings, 0)
    remote.begin(settings.seed)
    sent = [remote.play(settings.seed, weights, 0, np.full(2, 0.5)) for _ in range(3)]
    network = build.make_network(settings, len(build.task(settings).action_names))
    here = actors.Player(settings, network)
    here.reset()
    one, other = (build.make_replay(settings, network.state_size) for _ in range(2))
    for _ in range(3 * ROWS):
        here.act(np.full(2, 0.5))
        one.append(here.recv())
    for answer in sent:
        assert answer is not None
        other.append(answer.stretch)
    a, b = one.state(), other.state()
    assert all((a[name] == b[name]).all() for name in a.keys() - {"0.open_block"})
    here.close()


def test_first_priorities_come_from_the_values_that_the_actor_saw():
    settings = config(priority_exponent=1.0, actors=2)
    remote, weights = alone(settings)
    remote.begin(3)
    answer = None
    for _ in range(4):
        answer = remote.play(3, weights, 0, np.full(2, 0.5))
    assert answer is not None
    # 8 + 16 + 1 rows: of 64, sequences from 8, 16, 24 and 32 on; the last 16 rows completed those of 24 and 32.
    origin = remote.ring.completed(3 * ROWS)
    assert origin.tolist() == [3 * 2, 3 * 2 + 1, 4 * 2, 4 * 2 + 1]
    rows = np.array([24, 24, 32, 32]) + np.arange(25)[:, None]
    q = torch.from_numpy(remote.q[rows, [0, 1, 0, 1]])
    batch = remote.ring.as_sequence(*remote.ring.gather(origin), torch.empty(0), np.ones(4, np.float32), origin)
    expected = first_priority(settings, 0, batch, q).numpy()
    np.testing.assert_allclose(answer.stretch.priority, np.maximum(expected, 1e-6), rtol=1e-6)


def test_a_life_that_is_over_plays_no_more_and_the_next_one_differs():
    remote, weights = alone(config())
    assert remote.play(5, weights, 0, np.ones(2)) is None
    remote.begin(5)
    first = remote.play(5, weights, 0, np.ones(2))
    remote.begin(6)
    assert remote.play(5, weights, 0, np.ones(2)) is None
    second = remote.play(6, weights, 0, np.ones(2))
    assert first is not None
    assert second is not None
    assert (first.seed, first.stretch.time, second.seed, second.stretch.time) == (5, 0, 6, 0)
    assert first.stretch.rows["is_first"][0].all()
    assert second.stretch.rows["is_first"][0].all()
    assert (first.stretch.rows["action"] != second.stretch.rows["action"]).any()


def test_records_of_episodes_name_the_env_of_the_run_and_can_be_played_again():
    remote, weights = alone(config(torso="dqn-2013"))  # player 1 has the envs 2 and 3
    remote.begin(3)
    answers = [remote.play(3, weights, 0, np.ones(2)) for _ in range(16)]
    records = [record for answer in answers if answer for record in answer.records]
    assert records
    assert {record.env for record in records} <= {2, 3}
    for record in records:
        _, rewards = replay_grey(record)
        assert rewards.sum() == record.score


# --- the learner's side, with a stand-in for Ray that computes a call when it is waited for


class Ref:
    """An answer to come."""

    def __init__(self, handle: "Handle", method: str, arguments: tuple[Any, ...]) -> None:
        self.handle, self.life, self.method, self.arguments = handle, handle.life, method, arguments


class Handle:
    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.life, self.slow = arguments, 0, False
        self.restart()

    def restart(self) -> None:
        """As Ray does after the process has died: the constructor runs again, calls that were open fail."""
        self.player, self.life = RemotePlayer(*self.arguments), self.life + 1

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: Ref(self, method, arguments))


class StandIn:
    """Of `ray` the calls that Players makes."""

    exceptions = exceptions

    def __init__(self) -> None:
        self.handles: list[Handle] = []

    def remote(self, **options: Any) -> Any:
        assert (options["max_restarts"], options["max_task_retries"]) == (-1, 0)
        return lambda kind: SimpleNamespace(remote=self._new)

    def _new(self, *arguments: Any) -> Handle:
        self.handles.append(Handle(*arguments))
        return self.handles[-1]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def put(self, value: Any) -> Any:
        return {name: tensor.clone() for name, tensor in value.items()}

    def wait(self, refs: list[Any], num_returns: int = 1, timeout: float = 0) -> tuple[list[Any], list[Any]]:
        ready = [ref for ref in refs if not ref.handle.slow]
        return ready[:num_returns], refs

    def get(self, ref: Any) -> Any:
        if ref.life != ref.handle.life:
            raise exceptions.ActorUnavailableError("the process has died", None)
        return getattr(ref.handle.player, ref.method)(*ref.arguments)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()

    @contextmanager
    def connected(address: str) -> Iterator[StandIn]:
        yield stand_in

    monkeypatch.setattr(actors, "connected", connected)
    monkeypatch.setattr(actors, "WAIT", 0.0)
    return stand_in


def make(settings: Config) -> tuple[Players, Any]:
    learner = build.make_learner(settings, build.make_network(settings, len(build.task(settings).action_names)))
    return Players(settings, learner), learner


def receive(players: Players, count: int) -> list[Any]:
    """So many stretches that hold rows."""
    stretches: list[Any] = []
    while len(stretches) < count:
        players.act(np.full(4, 0.5))
        stretches += [stretch for stretch in [players.recv()] if stretch.steps]
    return stretches


def test_stretches_come_in_turn_and_every_player_has_one_call_open(ray: StandIn):
    players, _ = make(config())
    stretches = receive(players, 4)
    assert [(s.ring, s.time) for s in stretches] == [(0, 0), (1, 0), (0, 16), (1, 16)]  # as they were asked for
    assert all(s.steps == players.steps == ROWS * 2 for s in stretches)
    players.act(np.full(4, 0.5))
    players.act(np.full(4, 0.5))
    assert {seat for seat, _ in players._open.values()} == {*players.seats}
    assert len(players._open) == 2
    assert players.restarts == 0


def test_a_lost_player_begins_another_life_and_loses_only_its_open_call(ray: StandIn):
    players, _ = make(config())
    before = receive(players, 4)
    players.act(np.full(4, 0.5))
    seed = players.seats[0].seed
    ray.handles[0].restart()  # the process died
    after = receive(players, 6)
    players.seats[0].rows += ROWS  # as if a stretch had come twice, or one was left out
    after += receive(players, 4)
    times = [s.time for s in before + after if s.ring == 0]
    lives = np.split(times, np.flatnonzero(np.array(times) == 0)[1:])  # each begins at time 0
    assert [life.tolist() for life in lives] == [[*range(0, len(life) * ROWS, ROWS)] for life in lives]
    others = [s.time for s in before + after if s.ring == 1]
    assert others == [*range(0, len(others) * ROWS, ROWS)]  # none lost, none twice
    assert len(lives) == 3
    assert players.restarts == 2
    assert players.seats[0].seed != seed


def test_every_call_has_the_newest_weights_and_a_player_whose_weights_are_old_is_waited_for(
    ray: StandIn, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(actors, "MAX_AGE", 31)
    players, learner = make(config())
    receive(players, 2)
    players.act(np.full(4, 0.5))
    ray.handles[0].slow = True
    for _ in range(3):
        learner.updates += 10
        (stretch,) = receive(players, 1)
        assert stretch.ring == 1
    players.act(np.full(4, 0.5))
    assert [version for _, version in players._open.values()] == [0, 30]
    learner.updates += 1
    assert players.recv() is EMPTY  # player 1 has an answer, and is not asked
    ray.handles[0].slow = False
    assert receive(players, 1)[0].ring == 0
    assert players.metrics(1.0)["weight_age"] == 31


def test_players_that_never_answer_end_the_run_in_one_line(ray: StandIn, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(actors, "LOSSES", 3)
    players, _ = make(config())

    def ask_in_vain(times: int) -> None:
        for _ in range(times):
            players.act(np.full(4, 0.5))
            for handle in ray.handles:
                handle.restart()
            players.recv()

    ask_in_vain(3 * 2 + 5)  # a node may be away for minutes
    monkeypatch.setattr(actors, "PATIENCE", -1.0)
    with pytest.raises(UsageError, match=r"--actors 2: no player answers any more \(.*the process has died"):
        ask_in_vain(1)


def test_a_run_with_actors_makes_the_updates_of_its_steps_and_goes_on_after_a_stop(
    ray: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    changes: dict[str, Any] = {k: SETTINGS[k] for k in ("num_envs", "actors", "replay_rows")}
    with monkeypatch.context() as patch:
        small.at_frame(patch, 960, small.ask_to_stop)
        folder = small.start(tmp_path, "run", frames=1_920, eval_frames=1_920, **changes)
    assert small.rows(folder)[-1]["frames"] < 1_920
    assert small.resume(folder) == 0
    last = [row for row in small.rows(folder) if "updates" in row][-1]
    # A stretch is 32 rows: 16 of 2 envs. A sequence of 25 rows that begins at row 8 is whole with the third stretch of
    # an actor, the fifth of all: learning begins at 160 rows.
    assert (last["frames"], last["steps"], last["updates"]) == (1_920, 480, (480 - 160) // 64)
    documented = (small.ROOT / "docs" / "metrics.md").read_text().partition("| with `--actors`")[2].partition("\n\n")[0]
    names = re.findall(r"^\| `(\w+)`", documented, re.MULTILINE)
    assert len(names) == 6
    assert set(names) <= set(last)
    with Display("", 1, Console(file=(terminal := io.StringIO()), force_terminal=True, width=200)) as display:
        display.show(last)
    assert all(name in terminal.getvalue() for name in names)
    assert last["actors_alive"] == 2
    assert last["replay_rows"] == 480
    assert last["actor_restarts"] == 0
    assert [row for row in small.rows(folder) if "eval_score" in row]


def test_the_torture_of_actors_finds_rows_that_the_games_do_not_give(
    ray: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Players, "recv", Players.recv)  # `learn` replaces it: put it back afterwards
    folder, changes = tmp_path / "run", torture_actors.RUN | {"frames": 896}
    words = ["drqn", "--runs-dir", str(tmp_path), "--name", "run", *small.flags("drqn", **changes)]
    assert torture_actors.learn(folder, words) == 0
    assert torture_actors.differences(folder) == []
    lives = torture_actors.lives(folder)
    other = [f"{ring} {seed + (seed == lives[0][1])} {time}\n" for ring, seed, time in lives]
    (folder / torture_actors.LIVES).write_text("".join(other))
    assert [fault[-7:] for fault in torture_actors.differences(folder)] == ["differs"]
