"""stable-baselines3's DQN or sb3-contrib's QR-DQN, trained on one Atari game for so many seconds.

Run in .bench-venv: python -m benchmarks.peer_score {dqn,qrdqn} GAME SECONDS SEED OUT. The settings
are those that rl-baselines3-zoo publishes for Atari, but for what favours a short run:

- eight environments in place of one, with as many updates for each step: faster on every machine
  that was tried;
- sticky actions in training, because the score is taken with them;
- exploration falls over its share of the time, not of the zoo's 10 million steps;
- QR-DQN's replay of a million rows is cut to what the memory holds: more than such a run fills.
"""

import sys
import time

import ale_py
import gymnasium
import psutil
import torch
from sb3_contrib import QRDQN
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

START = psutil.Process().create_time()
ENVS, STICKY, STEPS_PER_UPDATE = 8, 0.25, 4
STACK_BYTES = 4 * 84 * 84
COMMON = {"batch_size": 32, "train_freq": 1, "gradient_steps": ENVS // STEPS_PER_UPDATE}
DQN_SETTINGS = COMMON | {
    "buffer_size": 100_000,
    "learning_rate": 1e-4,
    "learning_starts": 100_000,
    "target_update_interval": 1_000,
    "exploration_fraction": 0.1,
    "exploration_final_eps": 0.01,
}
# What the zoo does not set is the library's default.
QRDQN_SETTINGS = COMMON | {
    "buffer_size": min(1_000_000, int(psutil.virtual_memory().available * 0.7 / STACK_BYTES)),
    "exploration_fraction": 0.025,
    "optimize_memory_usage": True,
    "replay_buffer_kwargs": {"handle_timeout_termination": False},  # the two exclude each other
}
ALGORITHMS = {"dqn": (DQN, DQN_SETTINGS), "qrdqn": (QRDQN, QRDQN_SETTINGS)}


class Clock(BaseCallback):
    """Makes progress a share of the seconds, and ends the run with them."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def _share(self) -> float:
        return min((time.time() - START) / self.seconds, 1.0)

    def _on_training_start(self) -> None:
        def update(num_timesteps: int, total_timesteps: int) -> None:
            self.model._current_progress_remaining = 1.0 - self._share()

        self.model._update_current_progress_remaining = update

    def _on_step(self) -> bool:
        return self._share() < 1.0


def main(algorithm: str, game: str, seconds: float, seed: int, out: str) -> None:
    gymnasium.register_envs(ale_py)
    name = "".join(word.capitalize() for word in game.split("_")) + "NoFrameskip-v4"
    sticky = {"repeat_action_probability": STICKY}
    env = VecFrameStack(make_atari_env(name, n_envs=ENVS, seed=seed, env_kwargs=sticky), n_stack=4)
    kind, settings = ALGORITHMS[algorithm]
    model = kind("CnnPolicy", env, seed=seed, **settings)
    model.learn(10**9, callback=Clock(seconds))
    network = model.policy.q_net if algorithm == "dqn" else model.policy.quantile_net
    counts = {"steps": model.num_timesteps, "updates": model._n_updates}
    torch.save({**counts, "weights": list(network.parameters())}, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
