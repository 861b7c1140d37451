"""A player: environments and the actor that plays them, one row at a time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from agents.networks import QNetwork
from agents.rows import Rows
from experiment import build
from experiment.scores.progress import progress
from experiment.settings.config import Config
from experiment.store.checkpoint import subtree


class Player:
    """The N envs of `config` and the actor that plays them.

    Call `reset` or `restore` once, then `act` and `recv` in turn; the emulators run in between.
    """

    def __init__(self, config: Config, network: QNetwork) -> None:
        self._protocol = build.rules(config)
        self.rng = build.rng(config.seed, "exploration")
        self.steps = config.num_envs  # of all envs together in one `recv`
        self.envs = build.make_envs(config, self._protocol)
        self.finished = self.envs.finished  # call: the episodes that ended in the last `recv`
        self.close = self.envs.close
        self.actor = build.make_actor(config, network, config.num_envs, self.rng)
        self.is_first = np.ones(self.steps, bool)
        self.prev_reward = np.zeros(self.steps, np.float32)

    def reset(self) -> None:
        """Begin an episode in every env."""
        self.frame = self.envs.reset()  # [N, H, W]

    def act(self, epsilon: np.ndarray) -> None:
        """Start a step of every env; epsilon [N] is the probability of a random action."""
        self._core_state = self.actor.core_state.cpu().numpy()  # [N, S] before this row
        self._action = self.actor.act(self.frame, self.is_first, self.prev_reward, epsilon)  # [N]
        self.envs.send(self._action)

    def recv(self) -> Rows:
        """Wait for the step that `act` started, and return its rows."""
        step = self.envs.recv()
        rows = Rows(
            frame=self.frame,
            is_first=self.is_first,
            action=self._action,
            reward=step.reward,
            terminated=step.terminated | (step.life_lost & self._protocol.life_loss_terminal),
            truncated=step.truncated,
            core_state=self._core_state,
        )
        self.frame, self.is_first, self.prev_reward = step.frame, step.is_first, step.reward
        return rows

    def metrics(self, seconds: float) -> dict[str, float]:
        """Further metrics of a row; a player in this process has none."""
        return {}

    def state(self) -> dict[str, Mapping[str, Any]]:
        """The state without generator and network: {part: {name: array or tensor}}."""
        return {
            "actor": self.actor.state(),
            "envs": self.envs.state(),
            "loop": {"is_first": self.is_first, "prev_reward": self.prev_reward},
        }

    def restore(self, training: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned; the envs play their tapes again. Any error on a misfit."""
        self.actor.restore(subtree(training, "actor"))
        loop = subtree(training, "loop")
        self.is_first[:], self.prev_reward[:] = loop["is_first"], loop["prev_reward"]
        envs = {k: v.numpy() for k, v in subtree(training, "envs").items()}
        title, steps = "resuming: the games since the last seed", int(envs["tape_length"].max())
        with progress(title, steps, "steps") as report:
            self.frame = self.envs.restore(envs, lambda done, total: report(done, ""))
