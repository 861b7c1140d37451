"""A task whose answer must be remembered, played through the classes that play Atari."""

from functools import partial

import numpy as np
import torch

from agents.actor import Actor
from agents.learner import Learner, LearnerConfig
from agents.networks import QNetwork
from agents.replay import Replay, Rows

BLANKS = 6  # frames between the cue and the question
LENGTH = 1 + BLANKS + 1
EPISODES, GREEDY = 110, 20  # in each env; the last ones without exploration


class Recall:
    """Each episode shows a bright half, left or right, then nothing, then a bright bar: the question.

    The last action earns +1 if it names the half that was bright (0 left, 1 right), else -1.
    """

    def __init__(self, num_envs: int, rng: np.random.Generator) -> None:
        self.num_envs, self.rng = num_envs, rng
        self.clock = 0
        self.cue = rng.integers(2, size=num_envs)

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """frame [N, 84, 84], is_first [N]."""
        frame = np.zeros((self.num_envs, 84, 84), np.uint8)
        if self.clock == 0:
            frame[self.cue == 0, :, :42] = 255
            frame[self.cue == 1, :, 42:] = 255
        if self.clock == LENGTH - 1:
            frame[:, 60:] = 255
        return frame, np.full(self.num_envs, self.clock == 0)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """reward [N], terminated [N]."""
        last = self.clock == LENGTH - 1
        reward = np.where(action == self.cue, 1.0, -1.0) * last
        self.clock = (self.clock + 1) % LENGTH
        if last:
            self.cue = self.rng.integers(2, size=self.num_envs)
        return reward.astype(np.float32), np.full(self.num_envs, last)


def success(core: str, num_envs: int = 8, seed: int = 3) -> float:
    """Train, then the share of right answers in the greedy episodes."""
    env_rng, act_rng, replay_rng = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(3))
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # The last action must stay hidden: an agent without memory would write the cue down in its actions.
        network = QNetwork(2, hidden=16, core=core, core_size=32, norm=True, last_action_reward=False)
    config = LearnerConfig(
        burn_in=0, unroll=LENGTH, n_step=1, discount=0.9, trace_lambda=None, double=True,
        value_rescaling=False, reward_clip=1.0, loss="squared", optimizer="adam", learning_rate=5e-3,
        optimizer_epsilon=1e-5, max_grad_norm=10.0, target_period=20, priority_eta=0.9,
    )  # fmt: skip
    learner = Learner(network, config, autocast)
    actor = Actor(network, num_envs, act_rng, autocast)
    replay = Replay(4096, num_envs, length=LENGTH + 1, history=0, stride=LENGTH,
                    state_size=network.state_size, rng=replay_rng)  # fmt: skip
    env, prev_reward, never = Recall(num_envs, env_rng), np.zeros(num_envs, np.float32), np.zeros(num_envs, bool)
    correct = []
    for episode in range(EPISODES):
        epsilon = np.full(num_envs, max(0.0, 1 - episode / (EPISODES - GREEDY)))
        for _ in range(LENGTH):
            frame, is_first = env.observe()
            core_state = actor.core_state.numpy()
            action = actor.act(frame, is_first, prev_reward, epsilon)
            prev_reward, terminated = env.step(action)
            replay.append(Rows(frame, is_first, action, prev_reward, terminated, never, core_state))
        correct.append((prev_reward > 0).mean())
        if replay.can_sample:
            for _ in range(2):
                learner.update(replay.sample(16))
    return float(np.mean(correct[-GREEDY:]))


def test_a_recurrent_core_remembers_the_cue() -> None:
    assert success("lstm") > 0.9


def test_the_identity_core_cannot() -> None:
    assert success("identity") < 0.7
