"""Playing: environments and the actor that plays them, one row at a time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from agents.networks import QNetwork
from agents.rows import Rows
from envs.episodes import EpisodeRecord
from experiment import build
from experiment.scores.progress import progress
from experiment.settings.config import Config
from experiment.store.checkpoint import subtree


class Player:
    """The N envs of `config` and the actor that plays them. Call `reset` or `restore` once, then
    `act` and `recv` in turn: the emulators run between the two."""

    def __init__(self, config: Config, network: QNetwork) -> None:
        protocol = build.rules(config)
        self.rng = build.rng(config.seed, "exploration")
        self.steps = config.num_envs  # in what `recv` returns, of all envs together
        self.envs = build.make_envs(config, protocol)
        self.actor = build.make_actor(config, network, config.num_envs, self.rng)
        self._life_loss_terminal = protocol.life_loss_terminal
        self.is_first, self.prev_reward = (
            np.ones(self.steps, bool),
            np.zeros(self.steps, np.float32),
        )

    def reset(self) -> None:
        """Begin an episode in every env."""
        self.frame = self.envs.reset()  # [N, H, W]

    def act(self, epsilon: np.ndarray) -> None:
        """Set every env going with an action of its own; epsilon [N] is the share of random
        ones."""
        self._core_state = self.actor.core_state.cpu().numpy()  # [N, S] before this row
        self._action = self.actor.act(self.frame, self.is_first, self.prev_reward, epsilon)  # [N]
        self.envs.send(self._action)

    def recv(self) -> Rows:
        """Wait for the envs: the row that `act` began."""
        step = self.envs.recv()
        terminated = step.terminated | (step.life_lost & self._life_loss_terminal)
        played = (
            self.frame,
            self.is_first,
            self._action,
            step.reward,
            terminated,
            step.truncated,
            self._core_state,
        )
        self.frame, self.is_first, self.prev_reward = step.frame, step.is_first, step.reward
        return Rows(*played)

    def finished(self) -> list[EpisodeRecord]:
        """The episodes that ended in the last `recv`."""
        return self.envs.finished()

    def metrics(self, seconds: float) -> dict[str, float]:
        """More than the run itself knows of the seconds since the last row: nothing."""
        return {}

    def close(self) -> None:
        self.envs.close()

    def state(self) -> dict[str, Mapping[str, Any]]:
        """Everything but the generator and the network, as arrays and tensors of each part."""
        return {
            "actor": self.actor.state(),
            "envs": self.envs.state(),
            "loop": {"is_first": self.is_first, "prev_reward": self.prev_reward},
        }

    def restore(self, training: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave; the envs play their tapes again. Any error if it does not
        fit."""
        self.actor.restore(subtree(training, "actor"))
        loop = subtree(training, "loop")
        self.is_first[:], self.prev_reward[:] = (
            loop["is_first"].numpy(),
            loop["prev_reward"].numpy(),
        )
        envs = {k: v.numpy() for k, v in subtree(training, "envs").items()}
        with progress(
            "resuming: the games since the last seed", int(envs["tape_length"].max()), "steps"
        ) as report:
            self.frame = self.envs.restore(envs, lambda done, total: report(done, ""))
