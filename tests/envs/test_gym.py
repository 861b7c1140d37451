"""Our environments as gymnasium's, by gymnasium's own checkers and with the agents of another
library."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_match import check_environments_match
from gymnasium.vector import AutoresetMode

from envs.emulator import available_games
from envs.gym import Screen
from tests.envs.walk import refused

PONG, BREAKOUT = "recall/Pong-v0", "recall/Breakout-v0"


def test_every_game_is_registered_and_passes_the_checker_of_gymnasium() -> None:
    ids = {name for name in gym.registry if name.startswith("recall/")}
    assert {"recall/SpaceInvaders-v0", "recall/UpNDown-v0"} <= ids
    assert len(ids) >= len(available_games())
    rules = {"observe": "flicker:0.5", "protocol": "dqn-2015"}
    check_env(gym.make(PONG, render_mode="rgb_array", **rules).unwrapped)


def test_an_action_out_of_range_is_refused() -> None:
    env = gym.make(BREAKOUT, protocol="machado18")
    assert env.action_space.n == 18
    env.reset(seed=3)
    with refused("action 18 is not in Discrete"):
        env.unwrapped.step(18)
    with refused("render_mode 'human'"):
        gym.make(BREAKOUT, render_mode="human")


def test_the_picture_in_colour_is_that_of_the_game_that_is_played() -> None:
    env = gym.make(BREAKOUT, render_mode="rgb_array")
    grey, _ = env.reset(seed=1)
    for t in range(20):
        picture = env.render()
        assert picture.shape == (210, 160, 3)
        paddle = grey[75:78, 9:75].max(axis=0) > 90  # the same columns, 84 for 160
        wide = picture[189:193, 17:143].max(axis=(0, 2)) > 150
        assert abs(paddle.argmax() / 66 - wide.argmax() / 126) < 0.05
        grey, *_ = env.step(2 + t // 10)


def test_many_games_side_by_side_reset_in_the_same_step() -> None:
    vector = {"num_envs": 2, "vectorization_mode": "vector_entry_point"}
    games = gym.make_vec(BREAKOUT, **vector, observe="delay:1")
    assert games.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    frames, _ = games.reset(seed=5)
    assert games.observation_space.contains(frames)
    totals, steps, seen = np.zeros(2), np.zeros(2, int), 0
    games.action_space.seed(0)
    while seen < 6:  # later ones too: gymnasium before 1.4 began to count them a step late
        frames, reward, terminated, truncated, info = games.step(games.action_space.sample())
        totals, steps, over = totals + reward, steps + 1, terminated | truncated
        assert over.any() == ("episode" in info)
        if over.any():
            assert (info["_episode"] == over).all()
            assert (info["episode"]["r"] == totals * over).all()
            assert (info["episode"]["l"] == steps * over).all()
            assert [image is not None for image in info["final_obs"]] == over.tolist()
            for i in np.flatnonzero(over):  # a delay begins black, and the last image was not
                assert info["final_obs"][i].any() > frames[i].any()
            totals[over], steps[over], seen = 0, 0, seen + over.sum()
    first, second = [(games.reset(seed=5), games.step(np.ones(2, int))[0])[1] for _ in range(2)]
    assert first.any()
    assert (first == second).all()
    games.close()


def test_a_game_of_a_vector_depends_on_its_own_seed() -> None:
    games = gym.make_vec(BREAKOUT, num_envs=2, vectorization_mode="vector_entry_point")

    def frames(seed: int | list[int] | np.ndarray) -> np.ndarray:
        games.reset(seed=seed)
        return np.stack([games.step(np.full(2, 2 + t % 2))[0] for t in range(40)])  # [T, N, H, W]

    one, other = frames([1, 2]), frames([1, 9])
    assert (frames(np.array([1, 9])) == other).all()
    assert (one[:, 0] == other[:, 0]).all()
    assert (one[:, 1] != other[:, 1]).any()
    same = frames(3)
    assert (same[:, 0] != same[:, 1]).any()
    games.close()


def test_a_screen_is_an_ordinary_wrapper_and_repeats_itself_from_a_seed() -> None:
    one, other = (Screen(gym.make(PONG), "flicker:0.5") for _ in range(2))
    check_environments_match(one, other, num_steps=10, seed=4)
    dark = Screen(gym.make(PONG), "flicker:1")
    assert not dark.reset(seed=0)[0].any()
    assert not dark.step(0)[0].any()
    with refused("did you mean 'flicker'"):
        Screen(dark, "flickr:0.5")


def test_a_screen_refuses_what_is_no_image_and_many_games_a_partial_reset() -> None:
    with pytest.raises(ValueError, match=r"^Screen hides images"):
        Screen(gym.make("CartPole-v1"))
    games = gym.make_vec(BREAKOUT, num_envs=2, vectorization_mode="vector_entry_point")
    with pytest.raises(ValueError, match=r"^reset_mask"):
        games.reset(options={"reset_mask": np.array([True, False])})
    games.close()


def test_the_dqn_of_stable_baselines_trains_on_flickering_breakout() -> None:
    sb3 = pytest.importorskip("stable_baselines3", reason="an extra: pip install '.[interop]'")
    flickering = Screen(gym.make(BREAKOUT), "flicker:0.5")
    env = gym.wrappers.FrameStackObservation(flickering, 4)
    few = {"buffer_size": 200, "learning_starts": 20, "train_freq": 8, "batch_size": 4}
    agent = sb3.DQN("CnnPolicy", env, seed=1, **few)
    before = agent.q_net.state_dict()["q_net.0.weight"].clone()
    agent.learn(64)
    assert agent.num_timesteps == 64
    assert (agent.q_net.state_dict()["q_net.0.weight"] != before).any()
