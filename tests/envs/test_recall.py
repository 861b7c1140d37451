import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.recall import ASKED, CUES, REMEMBER, Recall
from envs.tapes import Envs


def test_the_task_passes_the_checker_of_gymnasium():
    check_env(Recall(render_mode="rgb_array"))


def episode(env: Recall, seed: int, right: bool) -> tuple[list[np.ndarray], list[float], int]:
    """Pictures, rewards and the cue. Before it is asked, the agent always names the cue."""
    pictures, rewards, over = [env.reset(seed=seed)[0].copy()], [], False
    cue = int(pictures[0][0, :CUES].argmax())
    while not over:
        asked = pictures[-1][0, ASKED] == 255
        picture, reward, over, *_ = env.step(
            np.int64(cue if right or not asked else (cue + 1) % CUES)
        )
        pictures.append(picture.copy())
        rewards.append(reward)
    return pictures, rewards, cue


@pytest.mark.parametrize("right", [True, False])
def test_the_question_comes_wait_steps_after_the_cue_and_only_the_right_name_is_paid(right: bool):
    for seed in range(20):
        pictures, rewards, cue = episode(Recall(waits=[3]), seed, right)
        first, *waiting, asked, _ = pictures
        assert sorted(np.flatnonzero(first)) == [cue, REMEMBER]
        assert [np.flatnonzero(picture).size for picture in waiting] == [1, 1]
        assert all(picture[0, :CUES].any() for picture in waiting)
        assert np.flatnonzero(asked).tolist() == [ASKED]
        assert rewards == [0, 0, 0, 1 if right else -1]


def test_the_pictures_of_the_wait_say_nothing_of_the_cue():
    same = [
        p[0, cue] == 255
        for s in range(300)
        for pictures, _, cue in [episode(Recall([3]), s, True)]
        for p in pictures[1:3]
    ]
    assert 0.2 < np.mean(same) < 0.3  # one in four: 600 draws, standard error 0.018


def test_every_wait_is_drawn_and_the_tapes_play_it():
    envs = Envs("recall/Recall-v0", 4, seed=1)
    assert (envs.frame_shape, envs.num_actions) == ((1, 6), 4)
    envs.reset()
    lengths: list[int] = []
    while len(lengths) < 40:
        envs.send(np.zeros(4, int))
        envs.recv()
        lengths += [record.steps for record in envs.finished()]
    assert set(lengths) == {3, 6, 11, 21, 51, 101}
