"""Trained agents: a network with its weights, and the settings of its evaluation."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from agents.networks import QNetwork
from envs.protocols import Protocol
from envs.screens import Observe, parse_screen
from experiment import build
from experiment.scores import zoo
from experiment.scores.evaluation import Evaluation, evaluate
from experiment.scores.progress import progress, so_far
from experiment.settings.config import Config, UsageError, from_dict
from experiment.store.checkpoint import NETWORK, Checkpoint, load_latest
from experiment.store.files import refused


@dataclass(frozen=True)
class Agent:
    """A trained network and the rules of its evaluation."""

    folder: Path
    config: Config  # of the evaluation: screen, episodes, epsilon, seed
    protocol: Protocol
    network: QNetwork
    # frames, train_seed, parameters, network_sha256; `untrained` if the run made no update.
    trained: dict[str, Any]

    @property
    def screen(self) -> Observe:
        return parse_screen(self.config.observe)

    @property
    def warning(self) -> str:
        """Text before the frames of the training: "UNTRAINED, " if the run made no update."""
        return "UNTRAINED, " * ("untrained" in self.trained)

    @property
    def about(self) -> dict[str, Any]:
        """The agent and the rules of the evaluation, for every file of scores."""
        c = self.config
        return {
            "preset": c.preset,
            "game": c.game,
            "protocol": self.protocol.name,
            "epsilon": c.eval_epsilon,
            "eval_seed": c.seed,
            "observe": str(self.screen),
            **self.trained,
        }

    @property
    def label(self) -> str:
        """Name of the evaluation's files."""
        c, screen = self.config, f"{self.screen.kind}{self.screen.parameter:g}"
        return (
            f"{self.trained['frames']:012d}-{self.protocol.name}-{screen}"
            f"-e{c.eval_epsilon:g}-n{c.eval_episodes}-s{c.seed}"
        )

    def on(self, screen: Observe) -> "Agent":
        """The same agent, with another screen in its evaluation."""
        return replace(self, config=replace(self.config, observe=str(screen)))

    def play(
        self, should_stop: Callable[[], bool] = lambda: False, wipe_every: int = 0
    ) -> Evaluation:
        """`evaluate` under a progress bar."""
        c = self.config

        def report(scores: list[float], steps: int) -> None:
            bar(len(scores), so_far(scores, steps))

        with progress(f"{c.game} {self.screen}", c.eval_episodes, "episodes") as bar:
            return evaluate(self.network, c, self.protocol, should_stop, wipe_every, report)


def open_agent(folder: Path | str, **overrides: Any) -> Agent:
    """The agent of a run's newest whole checkpoint, or of an exported folder, on the CPU.

    `overrides` replace settings of the training in the evaluation. UsageError if there is no
    checkpoint, or if the checkpoint or an override is invalid.
    """
    folder = Path(folder)
    saved = (
        zoo.load(folder)
        if (folder / zoo.WEIGHTS).is_file()
        else load_latest(folder, training=False, report=partial(print, file=sys.stderr))
    )
    trained = from_dict(saved.meta.get("config", {}), str(folder))
    config = replace(trained, device="cpu", compile=False, start_rows=0, **overrides)
    protocol = build.rules(config)
    build.check_machine(config)
    build.use_threads(config)
    with refused(folder, "loaded"):
        network = load_network(saved, config, protocol, folder)
        about = {
            "frames": int(saved.meta["frames"]),
            "train_seed": trained.seed,
            "parameters": sum(p.numel() for p in network.parameters()),
            "network_sha256": saved.meta["files"][NETWORK],
        }
        if saved.meta.get("updates") == 0:
            about["untrained"] = True
    return Agent(folder, config, protocol, network, about)


def load_network(saved: Checkpoint, config: Config, protocol: Protocol, folder: Path) -> QNetwork:
    """The trained network, on the CPU.

    UsageError if the number of actions does not fit; RuntimeError if the weights do not.
    """
    num_actions, trained = len(build.task(config).action_names), saved.meta.get("num_actions")
    if trained != num_actions:
        raise UsageError(
            f"--protocol {protocol.name}: {num_actions} actions in {config.game}, "
            f"but {folder} was trained with {trained}"
        )
    network = build.make_network(config, num_actions)
    network.load_state_dict(saved.weights)
    return network
