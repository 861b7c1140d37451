"""The recall task: see a cue, wait, name it. Played and learnt through the classes that play Atari.

A picture has six pixels: one for each of four cues, one that says "remember this", one that asks. In the first picture
of an episode a cue is lit and "remember this" with it; while the agent waits, cues are lit at random, one a picture,
and mean nothing; when it is asked, no cue is lit. The action taken then earns +1 if it names the first cue, else -1.
The noise is what an input gate is for, the wait what a memory cell is for. A guess is right one time in four.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.actor import Actor
from agents.networks import TORSOS, QNetwork, Torso
from agents.replay import Replay
from agents.rows import Rows
from experiment import build
from experiment.settings.config import Config, preset

CUES, REMEMBER, ASKED = 4, 4, 5  # number of cues; the two other pixels
SHAPE = (1, 6)
WAITS = (2, 5, 10, 20, 50, 100)
STEPS_AN_UPDATE = 8  # of each env


class Recall:
    """`num_envs` tasks side by side, each with its own clock; a wait is drawn from `waits` for each episode.

    The question comes `wait` steps after the cue.
    """

    def __init__(self, num_envs: int, waits: Sequence[int], rng: np.random.Generator) -> None:
        self.num_envs, self.waits, self.rng = num_envs, np.array(waits), rng
        self.clock, self.cue, self.wait = np.zeros((3, num_envs), int)
        self._begin(np.ones(num_envs, bool))

    def _begin(self, which: np.ndarray) -> None:
        self.clock[which] = 0
        self.cue[which] = self.rng.integers(CUES, size=which.sum())
        self.wait[which] = self.rng.choice(self.waits, size=which.sum())

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """frame [N, 1, 6] uint8, is_first [N]."""
        first, asked = self.clock == 0, self.clock == self.wait
        lit = np.where(first, self.cue, self.rng.integers(CUES, size=self.num_envs))
        frame = np.zeros((self.num_envs, *SHAPE), np.uint8)
        frame[~asked, 0, lit[~asked]] = 255
        frame[first, 0, REMEMBER] = 255
        frame[asked, 0, ASKED] = 255
        return frame, first

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """action [N] -> reward [N] float32, terminated [N]."""
        asked = self.clock == self.wait
        reward = np.where(action == self.cue, 1.0, -1.0) * asked
        self.clock += 1
        self._begin(asked)
        return reward.astype(np.float32), asked


class Pixels(Torso):
    """In the place of convolutions: the six pixels, from 0 to 1."""

    output_size = SHAPE[1]

    def __init__(self, images: int, norm: bool) -> None:
        super().__init__(nn.Flatten())

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 255


TORSOS["pixels"] = Pixels


def settings(core: str, seed: int, **changes: Any) -> Config:
    """The drqn preset, with what a small task asks for; the same for all cores.

    The last action stays hidden: an agent without memory would write the cue down in its actions. Unrolls are longer
    than the longest episode, so that none is cut everywhere.
    """
    small = {
        "core_size": 32, "hidden": 0, "last_action_reward": False, "num_envs": 32, "replay_rows": 65_536,
        "start_rows": 8_192, "epsilon_final": 0.05, "batch_size": 64, "burn_in": 0, "unroll": 104, "discount": 0.9,
        "learning_rate": 1e-2, "precision": "fp32", "threads": 1, "torso": "pixels", "center": False,
    }  # fmt: skip
    return replace(preset("drqn"), **small | {"core": core, "seed": seed} | changes)


def make_actor(config: Config, network: QNetwork, num_envs: int, rng: np.random.Generator) -> Actor:
    return Actor(network, num_envs, rng, build.autocast(config), frame_shape=SHAPE)


def train(config: Config, updates: int, waits: Sequence[int] = WAITS) -> QNetwork:
    """A network with this core, trained for so many updates on a mixture of waits. Epsilon falls over 70 % of them."""
    n = config.num_envs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = QNetwork(CUES, config)
    learner = build.make_learner(config, network)
    actor = make_actor(config, network, n, build.rng(config.seed, "exploration"))
    replay = Replay(
        config, n, length=config.unroll + config.n_step, history=0,
        state_size=network.state_size, rng=build.rng(config.seed, "replay"), frame_shape=SHAPE,
    )  # fmt: skip
    task = Recall(n, waits, np.random.default_rng(config.seed))
    reward, never = np.zeros(n, np.float32), np.zeros(n, bool)
    start, steps = config.start_rows // n, updates * STEPS_AN_UPDATE
    for step in range(start + steps):
        epsilon = np.clip(1 - (step - start) / (0.7 * steps), config.epsilon_final, 1)
        frame, is_first = task.observe()
        core_state = actor.core_state.numpy()
        action = actor.act(frame, is_first, reward, np.full(n, epsilon))
        reward, terminated = task.step(action)
        replay.append(Rows(frame, is_first, action, reward, terminated, never, core_state))
        if step >= start and step % STEPS_AN_UPDATE == 0:
            learner.update(replay.sample(config.batch_size))
    return network


def success(config: Config, network: QNetwork, wait: int, episodes: int = 500) -> float:
    """The share of right answers after exactly this wait, without exploration."""
    task = Recall(episodes, [wait], np.random.default_rng([config.seed, wait]))
    actor = make_actor(config, network, episodes, build.rng(config.seed, "evaluation"))
    reward = np.zeros(episodes, np.float32)
    for _ in range(wait + 1):
        reward, _ = task.step(actor.act(*task.observe(), reward, np.zeros(episodes)))
    return float((reward > 0).mean())
