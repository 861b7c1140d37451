"""Whether a checkpoint makes sense for a run: asked before anything is built from it, and before anything is used.

A checkpoint may be a stranger's. Its numbers decide how much memory is taken, how long loops are and what indexes
arrays, so all are checked. ValueError in one line says what is wrong.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.learner import OPTIMIZERS, Learner
from envs.emulator import FRAME_SKIP
from experiment import build
from experiment.settings.config import Config, UsageError
from experiment.store.checkpoint import Checkpoint, is_count, is_number, show


def check_weights(config: Config, num_actions: int, weights: Mapping[str, Tensor], source: str) -> None:
    """UsageError unless the settings' network has exactly these weights. Nothing of its size is allocated."""
    try:
        check_tensors(build.blueprint(config, num_actions).state_dict(), weights)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None
    except ValueError as error:
        raise UsageError(f"{source}: weights do not fit the network: {error}") from None


def check_size(config: Config, saved: Checkpoint, source: str) -> None:
    """UsageError unless the checkpoint holds what a run of these settings would: so building it costs no more."""
    check_weights(config, saved.meta["num_actions"], saved.weights, source)
    shape = tuple(saved.training["replay.action"].shape) if "replay.action" in saved.training else ()
    if shape != build.replay_shape(config):
        raise UsageError(f"{source}: its replay of {shape} rows is not that of its settings")


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """ValueError unless every expected tensor is there, of its shape and type, and finite."""
    for name, tensor in expected.items():
        other = found.get(name)
        if other is None:
            raise ValueError(f"{name} is missing")
        if other.shape != tensor.shape or other.dtype != tensor.dtype:
            raise ValueError(
                f"{name} is {tuple(other.shape)} {other.dtype}, expected {tuple(tensor.shape)} {tensor.dtype}"
            )
        if not is_finite(other):
            raise ValueError(f"{name} holds numbers that are not finite")


def is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def check_learner(learner: Learner, found: Mapping[str, Tensor]) -> None:
    """ValueError unless `found` is the state of such a learner, its optimiser's memory whole or not begun."""
    check_tensors({k: v for k, v in learner.state().items() if not k.startswith("optimizer.")}, found)
    updates = int(found["updates"])
    if not 0 <= updates <= 2**53:
        raise ValueError(f"updates is {updates}")
    probe = nn.Parameter(torch.zeros(2))
    optimizer = OPTIMIZERS[learner.settings.optimizer]([probe], lr=1.0, eps=1.0)
    probe.grad = torch.zeros(2)
    optimizer.step()
    slots = {k: torch.as_tensor(v) for k, v in optimizer.state[probe].items()}
    names = {
        f"optimizer.{i}.{k}": torch.empty_like(p, dtype=slot.dtype) if slot.ndim else slot
        for i, p in enumerate(learner.online.parameters())
        for k, slot in slots.items()
    }
    stored = {k for k in found if k.startswith("optimizer.")}
    if stored != (set(names) if updates else set()):
        raise ValueError(f"after {updates} updates the optimiser's memory is not {learner.settings.optimizer}'s")
    check_tensors({k: v for k, v in names.items() if k in stored}, found)


def check_arrays(training: Mapping[str, Tensor], config: Config, num_actions: int, frames: int) -> None:
    """ValueError if actions are out of range, or the counts of loop and replay contradict each other."""
    envs = config.num_envs
    check_tensors(
        {
            "loop.is_first": torch.zeros(envs, dtype=torch.bool),
            "loop.prev_reward": torch.zeros(envs),
            "replay.time": torch.tensor(0),
        },
        training,
    )
    for name in ("replay.action", "actor.action"):
        action = training[name]
        if (
            action.is_floating_point()
            or action.is_complex()
            or int(action.max()) >= num_actions
            or int(action.min()) < 0
        ):
            raise ValueError(f"{name} holds an action that the game does not have")
    for name in ("actor.core_state", "replay.state", "replay.reader_state", "replay.reward"):
        if name in training and not is_finite(training[name]):
            raise ValueError(f"{name} holds numbers that are not finite")
    if frames != int(training["replay.time"]) * envs * FRAME_SKIP:
        raise ValueError(f"{frames} frames played, but {int(training['replay.time'])} rows of {envs} envs kept")


# Fields of a row of metrics.jsonl that the run itself fills in.
ROW = ("frames", "steps", "updates", "samples", "episodes", "return_mean", "epsilon", "replay_rows", "seconds",
       "frames_per_second", "eval_score", "eval_low", "eval_high")  # fmt: skip


def check_meta(meta: Mapping[str, Any], config: Config) -> None:
    """ValueError unless every number of the manifest that the run goes on with is one and in range."""

    def take(name: str, ok: bool) -> None:
        if not ok:
            raise ValueError(f"{name} is {show(meta.get(name))}")

    for name in ("frames", "metrics_position", "episodes", "updates_in_row"):
        take(name, is_count(meta.get(name)))
    take("credit", is_number(meta.get("credit")) and 0 <= meta["credit"] < config.batch_size * config.unroll)
    take("seconds", is_number(meta.get("seconds")) and meta["seconds"] >= 0)
    take("best_score", meta.get("best_score") is None or is_number(meta["best_score"]))
    take("evaluation_due", isinstance(meta.get("evaluation_due", False), bool))
    returns, sums = meta.get("returns"), meta.get("sums")
    take("returns", isinstance(returns, list) and len(returns) <= meta["episodes"] and all(map(is_number, returns)))
    take("sums", isinstance(sums, dict) and len(sums) <= 100 and all(map(is_number, sums.values())))
    names = list(sums) if isinstance(sums, dict) else []
    take("sums", all(re.fullmatch(r"\w{1,40}", name) and name not in ROW for name in names))
    take("updates_in_row", meta["updates_in_row"] > 0 or not names)
    generators = meta.get("generators")
    take("generators", isinstance(generators, dict))
    for name in ("exploration", "replay"):
        if not _is_generator(meta["generators"].get(name)):
            raise ValueError(f"the {name} generator's state is none")


def _is_generator(state: object) -> bool:
    """Whether it is a state of numpy's PCG64, which `default_rng` makes."""
    inner = state.get("state") if isinstance(state, dict) else None
    return (
        isinstance(state, dict)
        and isinstance(inner, dict)
        and state.get("bit_generator") == type(np.random.default_rng(0).bit_generator).__name__
        and all(is_count(inner.get(name), 2**128 - 1) for name in ("state", "inc"))
        and inner["inc"] % 2 == 1
        and is_count(state.get("has_uint32"), 1)
        and is_count(state.get("uinteger"), 2**32 - 1)
    )
