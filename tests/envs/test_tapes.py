from itertools import pairwise

import numpy as np
import pytest

from envs import emulator, tapes
from envs.episodes import replay_grey
from envs.screens import parse_screen
from envs.tapes import Envs
from tests.envs.walk import WALK, play, refused, same

RECALL = "recall/Recall-v0"  # needs no emulator, has four actions, and takes 2 to 100 steps


def opened(*arguments, **others):
    made = Envs(*arguments, **others)
    made.reset()
    return made


def test_an_environment_plays_the_same_alone_and_among_others_with_any_number_of_threads() -> None:
    alone, many = Envs("breakout", 1, seed=4), Envs("breakout", 3, seed=4, threads=2)
    assert (alone.reset()[0] == many.reset()[0]).all()
    for a, b in zip(play(alone, 300)[0], play(many, 300)[0], strict=True):
        assert all(np.array_equal(x, y[:1]) for x, y in zip(a, b, strict=True))
    assert alone.state()["episode_start"] > 0


def test_seed_stream_environment_and_tape_each_change_the_seeds_of_the_game() -> None:
    seeds = []
    for seed, stream in ((0, 0), (1, 0), (0, 1)):
        made = Envs(RECALL, 2, seed=seed, stream=stream)
        for _ in range(2):
            made.reset()
            seeds += made.state()["tape_seed"].tolist()
    assert len(set(seeds)) == len(seeds) == 12
    assert min(seeds) >= 1


def test_no_step_is_wasted_on_a_reset_and_every_point_is_in_a_score(monkeypatch) -> None:
    monkeypatch.setattr(tapes, "TAPE_STEPS", 70)
    made = opened(RECALL, 3, seed=1)
    steps, points, played = np.zeros(3, int), np.zeros(3), [[] for _ in range(3)]
    for t in range(400):
        (step,), ended = play(made, 1, seed=t)
        steps += 1
        points += step.reward
        assert [r.env for r in ended] == np.flatnonzero(step.is_first).tolist()
        assert (step.is_first == (step.terminated | step.truncated)).all()
        for record in ended:
            i = record.env
            assert (record.steps, record.score) == (steps[i], points[i])
            assert record.start + record.steps == len(record.actions)
            played[i].append(record)
            steps[i], points[i] = 0, 0
    for records in played:
        for before, after in pairwise(records):
            new = len(before.actions) >= 70  # then, and only then, a new tape begins
            assert after.tape == before.tape + new
            assert after.start == (0 if new else len(before.actions))
            assert (after.seed != before.seed) == new
        assert records[-1].tape > 1


def test_a_lost_life_does_not_reset_the_game() -> None:
    made, lost, ended = opened("breakout", 1, "dqn-2015"), 0, 0  # five lives
    for step in play(made, 400)[0]:
        assert not (step.life_lost & step.is_first).any()
        lost += step.life_lost.sum()
        if step.is_first:
            assert lost == 4  # the fifth ends the game
            lost, ended = 0, ended + 1
    assert ended


def test_an_action_out_of_range_is_refused_and_the_game_goes_on() -> None:
    made = opened(RECALL, 2)
    for wrong in ([0, 4], [-1, 0], [0], [[0, 0]], [0.0, 1.0], [True, False], [2**40, 0]):
        with refused("actions must be"):
            made.send(np.array(wrong))
    made.send(np.array([0, 3], np.uint8))
    assert made.recv().frame.shape == (2, 1, 6)
    assert made.state()["tape_length"].tolist() == [1, 1]


@pytest.mark.parametrize("game", ["breakout", RECALL])
def test_an_array_that_was_handed_out_is_never_changed_afterwards(game) -> None:
    made, actions = Envs(game, 2, observe=parse_screen("delay:1")), np.array([1, 1])
    frames = made.reset()
    copies = [(frames, frames.copy())]
    for _ in range(5):
        made.send(actions)
        actions[:] = 2  # the caller uses its array again
        copies += [(array, array.copy()) for array in made.recv()]
    assert made.state()["actions"][:5].tolist() == [1, 2, 2, 2, 2]
    assert all((array == copy).all() for array, copy in copies)


def test_an_episode_cut_off_by_the_clock_is_truncated_and_not_terminated(monkeypatch) -> None:
    monkeypatch.setattr(emulator, "MAX_FRAMES", 160)  # 40 steps
    made = opened("breakout", 1)
    for t in range(1, 81):
        made.send(np.zeros(1, int))  # the ball is never served
        step = made.recv()
        assert not step.terminated[0]
        assert step.truncated[0] == step.is_first[0] == (t % 40 == 0)
    (record,) = made.finished()
    assert (record.terminated, record.start, record.steps) == (False, 40, 40)
    assert len(replay_grey(record)[0]) == 41


def test_closing_in_the_middle_of_a_step_does_not_hang_the_program() -> None:
    made = opened("pong", 2)
    made.send(np.zeros(2, int))
    made.close()
    made.close()


# --- restoring


@pytest.mark.parametrize(
    ("game", "rules", "screen"), [("breakout", "machado18", "delay:5"), (WALK, "v5", "flicker")]
)
def test_after_a_restore_all_is_as_if_never_stopped(game, rules, screen, monkeypatch) -> None:
    monkeypatch.setattr(tapes, "TAPE_STEPS", 100)
    how = parse_screen(screen)
    made, other = (opened(game, 2, rules, 9, observe=how, threads=n) for n in (2, 1))
    play(made, 240, seed=1)
    frames = play(made, 1, seed=5)[0][-1].frame
    state = made.state()
    assert (state["episode_start"] != state["tape_length"]).any()  # in the middle of episodes
    expected = play(made, 60, seed=2)
    play(other, 10, seed=3)  # earlier steps do not matter
    assert (other.restore(state) == frames).all()
    assert other.finished() == []
    assert same(other.state(), state)
    assert same(play(other, 60, seed=2), expected)
    assert same(other.state(), made.state())


def test_a_tape_that_has_just_changed_can_be_restored_beside_running_ones(monkeypatch) -> None:
    monkeypatch.setattr(tapes, "TAPE_STEPS", 50)
    made, other = opened(RECALL, 3, seed=9), Envs(RECALL, 3, seed=9)
    for seed in range(1000):
        play(made, 1, seed)
        state = made.state()
        if state["tape_length"].min() == 0 < state["tape_number"].min():
            break
    assert state["tape_length"].min() == 0 < state["tape_length"].max()
    other.restore(state)
    assert same(play(made, 200, seed=4), play(other, 200, seed=4))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("actions", np.zeros(59, np.uint8)),
        ("actions", np.full(60, 4, np.uint8)),  # an emulator would hang
        ("actions", np.full(60, 1, np.uint8)),
        ("tape_length", [80, -20, 0]),
        ("tape_length", [30, 30]),
        ("tape_number", [0, 0, 1]),
        ("tape_seed", [1, 2, 3]),
        ("episode_score", [99.0, 0, 0]),
        ("episode_start", [7, 0, 0]),
        ("screen_crc", [1, 2, 3]),
    ],
)
def test_a_state_of_others_is_refused_and_the_right_one_still_works(name, value) -> None:
    made, progress = opened(WALK, 3, seed=9), []
    play(made, 20)
    saved = made.state()
    with refused("saved|actions must be"):
        made.restore(saved | {name: np.array(value)})
    made.restore(saved, lambda done, total: progress.append((done, total)))
    assert progress == [(t, 20) for t in range(1, 21)]
