"""pfrl's recurrent double DQN with the settings of its own DRQN example, on its episodic replay.

Run in .bench-venv: python -m benchmarks.peer_pfrl. pfrl 0.4 knows only the old gym: the loop below
is that of its `train_agent`, on a gymnasium environment with the wrappers that stable-baselines3
uses. pfrl learns nothing before it has 32 episodes; random actions bring them, and only what
follows its first updates is counted.
"""

import logging
from importlib.metadata import version

import ale_py
import gymnasium
import numpy as np
import pfrl
import torch
from pfrl.agents import DoubleDQN
from pfrl.explorers import ConstantEpsilonGreedy
from pfrl.nn import RecurrentSequential
from pfrl.q_functions import DiscreteActionValueHead
from pfrl.replay_buffers import EpisodicReplayBuffer
from stable_baselines3.common.atari_wrappers import AtariWrapper
from torch import nn

from benchmarks.turns import Turns

STEPS_PER_UPDATE, WARM_UPDATES = 4, 5


def network(num_actions: int) -> RecurrentSequential:
    conv = nn.Conv2d(1, 32, 8, stride=4), nn.Conv2d(32, 64, 4, stride=2), nn.Conv2d(64, 64, 3)
    return RecurrentSequential(
        *(part for layer in conv for part in (layer, nn.ReLU())),
        nn.Flatten(),
        nn.LSTM(input_size=3136, hidden_size=512),
        nn.Linear(512, num_actions),
        DiscreteActionValueHead(),
    )


def main() -> None:
    logging.disable(logging.WARNING)
    gymnasium.register_envs(ale_py)
    turns = Turns(**{name: version(name) for name in ("pfrl", "torch", "gymnasium")})
    pfrl.utils.set_random_seed(1)
    env = AtariWrapper(gymnasium.make("BreakoutNoFrameskip-v4"))  # frames [84, 84, 1]
    q_function = network(int(env.action_space.n))
    explorer = ConstantEpsilonGreedy(1.0, env.action_space.sample)
    agent = DoubleDQN(
        q_function,
        torch.optim.Adam(q_function.parameters(), lr=1e-4, eps=1e-4),
        EpisodicReplayBuffer(100_000),
        gamma=0.99,
        explorer=explorer,
        replay_start_size=1_000,
        minibatch_size=32,
        update_interval=STEPS_PER_UPDATE,
        target_update_interval=10_000,
        episodic_update_len=10,
        recurrent=True,
        phi=lambda frame: frame.transpose(2, 0, 1).astype(np.float32) / 255,
    )
    frame, _ = env.reset(seed=1)
    step = 0
    while True:
        frame, reward, terminated, truncated, _ = env.step(agent.act(frame))
        agent.observe(frame, reward, terminated, truncated)
        if terminated or truncated:
            frame, _ = env.reset()
        step += 1
        if agent.optim_t >= WARM_UPDATES and step % STEPS_PER_UPDATE == 0:
            explorer.epsilon = 0.01
            turns.tick(STEPS_PER_UPDATE)


if __name__ == "__main__":
    main()
