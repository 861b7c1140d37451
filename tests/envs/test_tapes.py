import subprocess
import sys
import textwrap
from itertools import pairwise

import numpy as np
import pytest

from envs import emulator
from envs.episodes import replay_grey
from envs.screens import Observe
from envs.tapes import Envs, Transition


def play(made: Envs, steps: int, seed: int = 0) -> list[Transition]:
    """Random actions that depend on the environment's index and the seed only."""
    actions = np.stack(
        [np.random.default_rng([seed, i]).integers(made.num_actions, size=steps) for i in range(made.num_envs)], 1
    )  # [steps, N]
    out = []
    for actions_t in actions:
        made.send(actions_t)
        out.append(made.recv())
    return out


def test_an_environment_plays_the_same_alone_and_among_others_with_any_number_of_threads():
    made = [Envs("breakout", n, "v5", seed=4, threads=threads) for n, threads in ((1, 1), (3, 1), (3, 2))]
    firsts = [m.reset() for m in made]
    assert (firsts[0][0] == firsts[1][0]).all()
    alone, one_thread, two_threads = [play(m, 300) for m in made]
    for a, b, c in zip(alone, one_thread, two_threads, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(b, c, strict=True))
        assert all(np.array_equal(x, y[:1]) for x, y in zip(a, b, strict=True))
    assert sum(t.is_first[0] for t in alone) >= 1


def test_seed_stream_environment_and_tape_each_change_the_seeds_of_the_game():
    seeds: list[int] = []
    for seed, stream in ((0, 0), (1, 0), (0, 1)):
        made = Envs("breakout", 2, "v5", seed, stream=stream)
        for _ in range(2):
            made.reset()
            seeds += made.state()["tape_seed"].tolist()
    assert len(set(seeds)) == len(seeds) == 12
    assert min(seeds) >= 1


@pytest.mark.parametrize("name", ["v5", "dqn-2015"])
def test_no_step_is_wasted_on_a_reset_and_every_point_is_in_a_score(name: str):
    made = Envs("breakout", 3, name, seed=1, tape_steps=250)
    made.reset()
    steps, points, tapes = np.zeros(3, int), np.zeros(3), [[] for _ in range(3)]
    for _ in range(800):
        made.send(np.random.default_rng(int(steps.sum())).integers(made.num_actions, size=3))
        step = made.recv()
        steps += 1
        points += step.reward
        ended = made.finished()
        assert [r.env for r in ended] == np.flatnonzero(step.is_first).tolist()
        assert (step.is_first == (step.terminated | step.truncated)).all()
        for record in ended:
            i = record.env
            assert (record.steps, record.score) == (steps[i], points[i])
            assert record.start + record.steps == len(record.actions)
            tapes[i].append(record)
            steps[i], points[i] = 0, 0
    for records in tapes:
        assert len(records) > 2
        for before, after in pairwise(records):
            if len(before.actions) >= 250:  # then, and only then, a new tape begins
                assert (after.tape, after.start) == (before.tape + 1, 0)
                assert after.seed != before.seed
            else:
                assert (after.tape, after.start) == (before.tape, len(before.actions))
                assert after.seed == before.seed
        assert records[-1].tape > 0


def test_a_lost_life_does_not_reset_the_game():
    made = Envs("breakout", 2, "dqn-2015", seed=0)  # five lives
    made.reset()
    lost, ended = np.zeros(2, int), 0
    for step in play(made, 600):
        assert not (step.life_lost & step.is_first).any()
        lost += step.life_lost
        for i in np.flatnonzero(step.is_first):
            assert lost[i] == 4  # the fifth ends the game
            lost[i] = 0
            ended += 1
    assert ended >= 2


def test_an_action_out_of_range_is_refused_and_the_game_goes_on():
    made = Envs("breakout", 2, "v5", seed=0)
    made.reset()
    for wrong in ([0, 4], [-1, 0], [0], [[0, 0]], [0.0, 1.0], [True, False], [2**40, 0]):
        with pytest.raises(ValueError, match="actions must be"):
            made.send(np.array(wrong))
    made.send(np.array([0, 3], np.uint8))
    assert made.recv().frame.shape == (2, 84, 84)
    assert made.state()["tape_length"].tolist() == [1, 1]


def test_what_was_handed_out_is_never_changed_afterwards():
    made = Envs("breakout", 2, "v5", seed=0, observe=Observe("delay", 1))
    frames = made.reset()
    kept = [(frames, frames.copy())]
    actions = np.array([1, 1])
    for _ in range(5):
        made.send(actions)
        actions[:] = 2  # the caller uses its array again
        kept += [(array, array.copy()) for array in made.recv()]
    assert made.state()["actions"].tolist() == [1, 2, 2, 2, 2] * 2
    play(made, 200)
    assert all((array == copy).all() for array, copy in kept)
    kept[0][0][:] = 99  # nor does the caller's writing reach back
    assert made.state()["screen_crc"].shape == (2,)


def test_an_episode_cut_off_by_the_clock_is_truncated_and_not_terminated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(emulator, "MAX_FRAMES", 400)  # 100 steps
    made = Envs("breakout", 1, "v5", seed=0)
    made.reset()
    for t in range(1, 301):
        made.send(np.zeros(1, int))  # the ball is never served
        step = made.recv()
        assert not step.terminated[0]
        assert step.truncated[0] == step.is_first[0] == (t % 100 == 0)
    (record,) = made.finished()
    assert (record.terminated, record.start, record.steps) == (False, 200, 100)
    assert len(replay_grey(record)[0]) == 101


def test_wrong_settings_are_refused_before_an_emulator_starts():
    for change, says in (
        ({"game": "Breakout"}, "did you mean 'breakout'"),
        ({"protocol": "v4"}, "no protocol named 'v4'"),
        ({"tape_steps": 0}, "tape_steps must be from 1"),
        ({"tape_steps": 10**6}, "tape_steps must be from 1"),
    ):
        with pytest.raises(ValueError, match=says):
            Envs(**{"game": "breakout", "num_envs": 1, "protocol": "v5"} | change)


def test_closing_in_the_middle_of_a_step_does_not_hang_the_program():
    script = """
        import numpy as np
        from envs.tapes import Envs
        from envs.protocols import protocol
        made = Envs("pong", 2, "v5", seed=0)
        made.reset()
        made.send(np.zeros(2, int))
        made.close()
        made.close()
        print("closed")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "closed\n"
    assert done.stderr == ""
