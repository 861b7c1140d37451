"""Agents as small folders to share: settings, weights in half precision, scores, learning curve,
two episodes."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from agents.networks import QNetwork
from experiment.scores.evaluation import Evaluation, middle_and_best
from experiment.settings import config as settings
from experiment.settings.config import Config
from experiment.store.checkpoint import NETWORK, Checkpoint, digest
from experiment.store.files import read, refused, replacing, write_json
from experiment.store.metrics import read_rows

WEIGHTS, EVALUATION, CURVE = "weights.safetensors", "evaluation.json", "curve.json"


def round_weights(network: QNetwork) -> None:
    """Round the weights to half precision: an exported agent is scored as it is written."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half())


def export(
    network: QNetwork,
    config: Config,
    result: Evaluation,
    about: dict[str, Any],
    run: Path,
    to: Path,
) -> None:
    """Write the folder `to`. `about` describes network and evaluation; the learning curve comes
    from the run's metrics. OSError if it cannot be written."""
    to.mkdir(parents=True, exist_ok=True)
    with replacing(to / WEIGHTS) as temporary:
        halves = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
        temporary.write_bytes(save(halves))  # save_file makes a file that nobody else may read
    with replacing(to / "config.yaml") as temporary:
        settings.save(config, temporary)
    fields = ("frames", "seconds", "return_mean", "eval_score", "eval_low", "eval_high")
    rows, _ = read_rows(run / "metrics.jsonl")
    write_json(
        to / CURVE,
        {"fields": fields, "rows": [[row.get(field) for field in fields] for row in rows]},
    )
    for name, episode in zip(("median", "best"), middle_and_best(result.scores), strict=True):
        result.records[episode].save(to / f"{name}.json")
    about |= {"num_actions": network.num_actions}
    write_json(to / EVALUATION, about | result.summary(config.game) | {"scores": result.scores})


def load(folder: Path) -> Checkpoint:
    """The agent of such a folder, its weights in single precision again. UsageError if a file is
    missing or wrong."""
    config = settings.load(folder / "config.yaml")
    with refused(folder / EVALUATION, "read"):
        about = json.loads(read(folder / EVALUATION))
        frames, num_actions = int(about["frames"]), int(about["num_actions"])
    with refused(folder / WEIGHTS, "read"):
        weights: dict[str, Tensor] = {
            name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()
        }
        files = {NETWORK: digest(folder / WEIGHTS)}
    meta = {
        "config": settings.to_dict(config),
        "frames": frames,
        "num_actions": num_actions,
        "files": files,
    }
    return Checkpoint(meta, weights, {})
