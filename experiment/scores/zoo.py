"""Exported agents: folders of settings, half-precision weights, scores, curve and two episodes."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save

from agents.networks import QNetwork
from experiment.scores.evaluation import Evaluation, middle_and_best
from experiment.settings import config as settings
from experiment.settings.config import Config
from experiment.store.checkpoint import NETWORK, Checkpoint, digest
from experiment.store.files import read, refused, replacing, write_json, write_text
from experiment.store.metrics import read_rows

WEIGHTS, EVALUATION, CURVE = "weights.safetensors", "evaluation.json", "curve.json"


def round_weights(network: QNetwork) -> None:
    """Round weights and buffers to half precision, as in the file: the scores are of these."""
    network.half().float()


def export(
    network: QNetwork,
    config: Config,
    result: Evaluation,
    about: dict[str, Any],
    run: Path,
    to: Path,
) -> None:
    """Write the folder `to`; `about` describes network and evaluation.

    The learning curve comes from the run's metrics. OSError if a file cannot be written.
    """
    to.mkdir(parents=True, exist_ok=True)
    halves = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(to / WEIGHTS) as temporary:
        temporary.write_bytes(save(halves))  # save_file's file has no permissions for others
    write_text(to / "config.yaml", settings.to_yaml(config))
    fields = ("frames", "seconds", "return_mean", "eval_score", "eval_low", "eval_high")
    rows, _ = read_rows(run / "metrics.jsonl")
    write_json(to / CURVE, {"fields": fields, "rows": [[*map(row.get, fields)] for row in rows]})
    for name, episode in zip(("median", "best"), middle_and_best(result.scores), strict=True):
        result.records[episode].save(to / f"{name}.json")
    summary = result.summary(config.game) | {"scores": result.scores}
    write_json(to / EVALUATION, about | {"num_actions": network.num_actions} | summary)


def load(folder: Path) -> Checkpoint:
    """The agent in such a folder, in single precision. UsageError if a file is missing or wrong."""
    config = settings.load(folder / "config.yaml")
    with refused(folder / EVALUATION, "read"):
        about = json.loads(read(folder / EVALUATION))
        meta = {name: int(about[name]) for name in ("frames", "num_actions")}
    with refused(folder / WEIGHTS, "read"):
        weights = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
        files = {NETWORK: digest(folder / WEIGHTS)}
    return Checkpoint({"config": settings.to_dict(config), **meta, "files": files}, weights)
