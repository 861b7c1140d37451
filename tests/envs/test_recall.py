import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.recall import ASKED, CUES, REMEMBER, WAITS, Recall
from envs.tapes import Envs
from tests.envs.walk import play


def test_the_task_passes_the_checker_of_gymnasium() -> None:
    check_env(Recall(render_mode="rgb_array"))


def episode(seed, right):
    """Pictures, rewards and the cue of an episode with a wait of 3. Before it is asked, the agent
    always names the cue."""
    env = Recall(waits=[3])
    pictures, rewards, over = [env.reset(seed=seed)[0].copy()], [], False
    cue = int(pictures[0][0, :CUES].argmax())
    while not over:
        wrong = pictures[-1][0, ASKED] == 255 and not right
        picture, reward, over, *_ = env.step(np.int64((cue + wrong) % CUES))
        pictures.append(picture.copy())
        rewards.append(reward)
    return pictures, rewards, cue


@pytest.mark.parametrize("right", [True, False])
def test_the_question_comes_wait_steps_after_the_cue_and_only_the_right_name_is_paid(right) -> None:
    for seed in range(20):
        pictures, rewards, cue = episode(seed, right)
        first, *waiting, asked, _ = pictures
        assert sorted(np.flatnonzero(first)) == [cue, REMEMBER]
        assert [np.flatnonzero(picture).size for picture in waiting] == [1, 1]
        assert all(picture[0, :CUES].any() for picture in waiting)
        assert np.flatnonzero(asked).tolist() == [ASKED]
        assert rewards == [0, 0, 0, 1 if right else -1]


def test_the_pictures_of_the_wait_say_nothing_of_the_cue() -> None:
    played = [episode(seed, True) for seed in range(300)]
    same = [p[0, cue] == 255 for pictures, _, cue in played for p in pictures[1:3]]
    assert 0.2 < np.mean(same) < 0.3  # one in four: 600 draws, standard error 0.018


def test_every_wait_is_drawn_and_the_tapes_play_it() -> None:
    envs = Envs("recall/Recall-v0", 4, seed=1)
    assert (envs.frame_shape, envs.num_actions) == ((1, 6), 4)
    envs.reset()
    lengths = {record.steps for record in play(envs, 800)[1]}
    assert lengths == {wait + 1 for wait in WAITS}
