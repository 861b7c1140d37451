"""Trained agents: a network with its weights, and the settings of its evaluation.

An agent comes from a run, or from an exported folder, which holds settings, half-precision weights,
scores, a learning curve and two episodes.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save

from agents.networks import QNetwork
from envs.protocols import Protocol
from envs.screens import Observe, parse_screen
from experiment import build
from experiment.scores.evaluation import Evaluation, evaluate, middle_and_best
from experiment.scores.progress import progress, so_far
from experiment.settings.config import Config, UsageError, from_dict, load, to_dict, to_yaml
from experiment.store.checkpoint import NETWORK, Checkpoint, digest, load_latest
from experiment.store.files import read, refused, replacing, write_json, write_text
from experiment.store.metrics import read_rows

# Of an exported agent.
WEIGHTS, EVALUATION, CURVE = "weights.safetensors", "evaluation.json", "curve.json"
SHA256 = "network_sha256"  # of the file of weights


@dataclass(frozen=True)
class Agent:
    """A trained network and the rules of its evaluation."""

    folder: Path
    training: Config
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

    def curve(self) -> dict[str, Any]:
        """The learning curve: names of metrics, and their rows. OSError or ValueError without."""
        if (path := self.folder / CURVE).exists():
            return json.loads(path.read_text(encoding="utf-8"))
        fields = ("frames", "seconds", "return_mean", "eval_score", "eval_low", "eval_high")
        rows = [[*map(row.get, fields)] for row in read_rows(self.folder / "metrics.jsonl")[0]]
        return {"fields": fields, "rows": rows}

    def export(self, result: Evaluation, curve: dict[str, Any], to: Path) -> None:
        """Write the folder `to`; `result` is the evaluation of its rounded weights.

        The scores come last, so that no old ones lie beside new weights. OSError if a file cannot
        be written.
        """
        to.mkdir(parents=True, exist_ok=True)
        (to / EVALUATION).unlink(missing_ok=True)
        state = self.network.state_dict()
        with replacing(to / WEIGHTS) as temporary:  # save_file's has no permissions for others
            temporary.write_bytes(save({k: v.half().contiguous() for k, v in state.items()}))
        write_text(to / "config.yaml", to_yaml(self.training))
        write_json(to / CURVE, curve)
        for name, episode in zip(("median", "best"), middle_and_best(result.scores), strict=True):
            result.records[episode].save(to / f"{name}.json")
        summary = result.summary(self.config.game) | {"scores": result.scores}
        about = self.about | {"num_actions": self.network.num_actions}
        about[SHA256] = digest(to / WEIGHTS)
        write_json(to / EVALUATION, about | summary)


def open_agent(folder: Path | str, **overrides: Any) -> Agent:
    """The agent of a run's newest whole checkpoint, or of an exported folder, on the CPU.

    `overrides` replace settings of the training in the evaluation. UsageError if there is no
    checkpoint, or if the checkpoint or an override is invalid.
    """
    folder = Path(folder)
    saved = (
        load_exported(folder)
        if (folder / WEIGHTS).is_file()
        else load_latest(folder, training=False, report=partial(print, file=sys.stderr))
    )
    trained = from_dict(saved.meta.get("config", {}), str(folder))
    config = replace(trained, device="cpu", compile=False, **overrides)
    protocol = build.rules(config)
    build.check_machine(config)
    build.use_threads(config)
    with refused(folder, "loaded"):
        network = load_network(saved, config, protocol, folder)
        about = {
            "frames": int(saved.meta["frames"]),
            "train_seed": trained.seed,
            "parameters": sum(p.numel() for p in network.parameters()),
            SHA256: saved.meta["files"][NETWORK],
        }
    untrained = {"untrained": True} if saved.meta.get("updates") == 0 else {}
    return Agent(folder, trained, config, protocol, network, about | untrained)


def load_exported(folder: Path) -> Checkpoint:
    """The agent in such a folder, in single precision. UsageError if a file is missing or wrong."""
    config = to_dict(load(folder / "config.yaml"))
    with refused(folder / EVALUATION, "read"):
        about = json.loads(read(folder / EVALUATION))
        meta = {name: int(about[name]) for name in ("frames", "num_actions")}
    with refused(folder / WEIGHTS, "read"):
        weights = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
        files = {NETWORK: digest(folder / WEIGHTS)}
    return Checkpoint({"config": config, **meta, "files": files}, weights)


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
