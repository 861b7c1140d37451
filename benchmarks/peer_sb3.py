"""stable-baselines3 DQN with the Atari settings of its zoo.

Run in .bench-venv: python -m benchmarks.peer_sb3 ENVS. One update of 32 rows for every 4 agent
steps, whatever the number of envs. Exploration stands where it stays after the first tenth of a
run, so that the network acts.
"""

import sys
from importlib.metadata import version

import ale_py
import gymnasium
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from benchmarks.turns import Turns

STEPS_PER_UPDATE, WARM_UPDATES = 4, 20


class Clock(BaseCallback):
    """A turn's tick at every start of a rollout: then whole update periods have passed."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self.turns, self.seen = turns, 0

    def _on_rollout_start(self) -> None:
        if self.model._n_updates >= WARM_UPDATES:
            self.turns.tick(self.num_timesteps - self.seen)
        self.seen = self.num_timesteps

    def _on_step(self) -> bool:
        return True


def main(num_envs: int) -> None:
    gymnasium.register_envs(ale_py)
    turns = Turns(**{name: version(name) for name in ("stable-baselines3", "torch", "gymnasium")})
    envs = make_atari_env("BreakoutNoFrameskip-v4", n_envs=num_envs, seed=1)
    model = DQN(
        "CnnPolicy",
        VecFrameStack(envs, n_stack=4),
        buffer_size=100_000,
        learning_rate=1e-4,
        batch_size=32,
        learning_starts=1_000,
        target_update_interval=1_000,
        train_freq=max(STEPS_PER_UPDATE // num_envs, 1),  # steps of every env
        gradient_steps=max(num_envs // STEPS_PER_UPDATE, 1),
        exploration_initial_eps=0.01,
        exploration_final_eps=0.01,
        seed=1,
    )
    model.learn(10**9, callback=Clock(turns))


if __name__ == "__main__":
    main(int(sys.argv[1]))
