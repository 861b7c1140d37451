"""The papers' agents: one update of each against a reference written out by hand, in double
precision."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agents.heads import HEADS
from agents.learner import LearnerSettings
from agents.networks import NetworkSettings
from agents.rows import Sequence
from experiment import build
from experiment.settings.config import PRESETS, Config, idle, override, preset
from tests.batches import ACTIONS, random_batch

A, B = ACTIONS, 4
Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_batch(config: Config, state_size: int, seed: int) -> Sequence:
    """Random rows with ends of both kinds."""
    length = config.burn_in + config.unroll + config.n_step
    batch = random_batch(length, B, state_size, config.frame_stack, seed, ends=0.2)
    weight = torch.linspace(0.2, 1, B) if config.priority_exponent else batch.weight
    return batch._replace(weight=weight, core_state=batch.core_state * (config.update == "stored"))


# --- the reference: one row of one lane at a time -------------------------------------------------


def features(w: Weights, stack: Tensor) -> Tensor:
    """[K, 84, 84] -> the convolutions' output, flat as our weights have it (H, W, C)."""
    x = stack[None] / 255
    for i, stride in enumerate((4, 2, 1)):
        x = F.conv2d(x, w[f"conv.{2 * i}.weight"], w[f"conv.{2 * i}.bias"], stride).relu()
    x = x[0].permute(1, 2, 0).flatten()
    return (w["fc.0.weight"] @ x + w["fc.0.bias"]).relu() if "fc.0.weight" in w else x


def lstm_cell(w: Weights, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    z = w["core.cell.weight_ih_l0"] @ x + w["core.cell.bias_ih_l0"]
    z = z + w["core.cell.weight_hh_l0"] @ h + w["core.cell.bias_hh_l0"]
    i, f, g, o = z.chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def stream(w: Weights, name: str, x: Tensor) -> Tensor:
    if f"head.{name}.weight" in w:
        return w[f"head.{name}.weight"] @ x + w[f"head.{name}.bias"]
    x = (w[f"head.{name}.0.weight"] @ x + w[f"head.{name}.0.bias"]).relu()
    return w[f"head.{name}.2.weight"] @ x + w[f"head.{name}.2.bias"]


def q_rows(config: Config, w: Weights, batch: Sequence, lane: int) -> list[Tensor]:
    """z [A, K] of every row of a lane, from the stored state on. No gradient through the
    burn-in."""
    depth, inputs = config.frame_stack, batch.inputs
    h, c = (
        batch.core_state[lane].chunk(2)
        if config.core == "lstm"
        else (torch.empty(0), torch.empty(0))
    )
    out = []
    for t in range(len(batch.action)):
        stack = inputs.frames[t : t + depth, lane].double()
        for k in range(1, depth):  # what lies before the episode's start is black
            if inputs.is_first[t + k, lane]:
                stack[:k] = 0
        x, first = features(w, stack), bool(inputs.is_first[t + depth - 1, lane])
        if config.last_action_reward:
            action = torch.zeros(A)
            action[inputs.prev_action[t, lane]] = 1
            reward = inputs.prev_reward[t, lane].clamp(-1, 1)[None]
            x = torch.cat([x, torch.zeros(A + 1) if first else torch.cat([action, reward])])
        if config.core == "lstm":
            if first:
                h, c = torch.zeros_like(h), torch.zeros_like(c)
            h, c = lstm_cell(w, x, h, c)
            if t < config.burn_in:
                h, c = h.detach(), c.detach()
            x = h
        a = stream(w, "advantage", x).unflatten(0, (A, -1))
        out.append(stream(w, "value", x) + a - a.mean(0) if config.dueling else a)
    return out


def h(x: Tensor) -> Tensor:
    return x.sign() * ((x.abs() + 1).sqrt() - 1) + 1e-3 * x


def h_inverse(x: Tensor) -> Tensor:
    return x.sign() * ((((1 + 4 * 1e-3 * (x.abs() + 1 + 1e-3)).sqrt() - 1) / (2 * 1e-3)) ** 2 - 1)


def reference_loss(
    config: Config, online: Weights, target: Weights, batch: Sequence
) -> tuple[Tensor, list[float]]:
    """The loss, and the sequences' priorities."""
    total, rows, priorities = torch.zeros(()), 0, []
    for lane in range(B):
        z, z_target = q_rows(config, online, batch, lane), q_rows(config, target, batch, lane)
        r, ended, cut = batch.reward[:, lane], batch.terminated[:, lane], batch.truncated[:, lane]
        v = []
        for t in range(len(z)):
            values = (h_inverse(z_target[t]) if config.value_rescaling else z_target[t]).detach()
            v.append(values[(z if config.double else z_target)[t].mean(1).argmax()])
        clip, errors = config.reward_clip or float("inf"), []
        for t in range(config.burn_in, config.burn_in + config.unroll):
            if cut[t]:
                continue
            y = v[last := len(z) - 1 if config.trace_lambda is not None else t + config.n_step]
            # G_k = r + gamma ((1 - lambda) v + lambda G), lambda 0 before a cut row
            for k in reversed(range(t, last)):
                trace = (
                    1.0 if k + 1 == last else 0.0 if cut[k + 1] else (config.trace_lambda or 1.0)
                )
                follows = 0.0 if ended[k] else config.discount
                y = r[k].clamp(-clip, clip) + follows * ((1 - trace) * v[k + 1] + trace * y)
            # [K] each
            y, played = h(y) if config.value_rescaling else y, z[t][batch.action[t, lane]]
            error = y - played[:, None]  # [K, K]: each sample of the return against each target
            huber = torch.where(error.abs() <= 1, 0.5 * error**2, error.abs() - 0.5)
            if config.head == "qr":
                below = (torch.arange(32)[:, None] + 0.5) / 32 - (error < 0).double()
                loss = (below.abs() * huber).mean(1).sum()
            else:
                loss = huber.sum() if config.loss == "huber" else (0.5 * error**2).sum()
            total = total + batch.weight[lane] * loss
            errors.append((y.mean() - played.mean()).abs().item())
        rows += len(errors)
        priorities.append(0.9 * max(errors) + 0.1 * sum(errors) / len(errors) if errors else 0.0)
    return total / rows, priorities


def rmsprop(config: Config, p: Tensor, g: Tensor, memory: dict[str, Tensor], step: int) -> Tensor:
    memory["square"] = 0.95 * memory["square"] + 0.05 * g**2
    memory["mean"] = 0.95 * memory["mean"] + 0.05 * g
    return p - config.learning_rate * g / (
        (memory["square"] - memory["mean"] ** 2).sqrt() + config.optimizer_epsilon
    )


def adadelta(config: Config, p: Tensor, g: Tensor, memory: dict[str, Tensor], step: int) -> Tensor:
    memory["square"] = 0.95 * memory["square"] + 0.05 * g**2
    eps = config.optimizer_epsilon
    change = (memory["mean"] + eps).sqrt() / (memory["square"] + eps).sqrt() * g
    memory["mean"] = 0.95 * memory["mean"] + 0.05 * change**2
    return p - config.learning_rate * change


def adam(config: Config, p: Tensor, g: Tensor, memory: dict[str, Tensor], step: int) -> Tensor:
    memory["mean"] = 0.9 * memory["mean"] + 0.1 * g
    memory["square"] = 0.999 * memory["square"] + 0.001 * g**2
    mean, square = memory["mean"] / (1 - 0.9**step), memory["square"] / (1 - 0.999**step)
    return p - config.learning_rate * mean / (square.sqrt() + config.optimizer_epsilon)


Step = Callable[[Config, Tensor, Tensor, dict[str, Tensor], int], Tensor]
SMALL = {"precision": "fp32", "batch_size": B}
PLAIN = {"norm": False, "center": False, "standardize": False, "torso": "nature", "head": "mean"}
R2D2 = {"hidden": 7, "core_size": 6, "head_hidden": 5, "burn_in": 3, "unroll": 5, "n_step": 3}


@pytest.mark.parametrize(
    ("name", "changes", "step_of"),
    [
        ("dqn-2015", {"hidden": 7}, rmsprop),
        ("dqn-2015", {"hidden": 7, "head": "qr"}, rmsprop),
        ("double-dqn", {"hidden": 7}, rmsprop),
        ("drqn-2015", {"core_size": 6, "unroll": 5}, adadelta),
        ("dueling", {"head_hidden": 5, "max_grad_norm": 0.1}, rmsprop),
        ("rainbow-lite", {"head_hidden": 5}, adam),
        ("r2d2", R2D2, adam),
        (
            "drqn",
            PLAIN | {"hidden": 7, "core_size": 6, "burn_in": 3, "unroll": 5, "n_step": 2},
            adam,
        ),
        ("dqn", PLAIN | {"hidden": 7, "unroll": 5, "n_step": 2}, adam),
    ],
)
def test_updates_of_a_papers_agent_equal_the_reference(
    name: str, changes: dict[str, int], step_of: Step
) -> None:
    config = override(preset(name), SMALL | changes)
    network = build.make_network(config, A).double()
    learner = build.make_learner(config, network)
    other = build.make_network(dataclasses.replace(config, seed=2), A).double()
    learner.target.load_state_dict(other.state_dict())
    target = {k: v.clone() for k, v in other.state_dict().items()}
    weights = {k: v.detach().clone() for k, v in network.named_parameters()}
    memory = {
        k: {"mean": torch.zeros_like(v), "square": torch.zeros_like(v)} for k, v in weights.items()
    }
    for step in (1, 2, 3):
        batch = make_batch(config, network.state_size, seed=step)
        online = {k: v.clone().requires_grad_() for k, v in weights.items()}
        loss, priorities = reference_loss(config, online, target, batch)
        gradients = torch.autograd.grad(loss, list(online.values()))
        norm = torch.stack([g.norm() for g in gradients]).norm()
        scale = min(1.0, (config.max_grad_norm or float("inf")) / (norm.item() + 1e-6))
        for (k, p), g in zip(weights.items(), gradients, strict=True):
            weights[k] = step_of(config, p, g * scale, memory[k], step)
            if config.average:
                target[k] = torch.lerp(weights[k], target[k], step / (step + 10))

        told = learner.update(batch)
        assert told.metrics["loss"] == pytest.approx(loss.item(), rel=1e-6)
        assert told.metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-6)
        np.testing.assert_allclose(told.priority, priorities, rtol=1e-6)
        for k, p in learner.online.named_parameters():
            torch.testing.assert_close(p.detach(), weights[k], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns(head: str) -> None:
    """On one batch whose targets do not move (all rows end) the TD error falls."""
    small = SMALL | {
        "torso": "flat",
        "hidden": 16,
        "core_size": 8,
        "burn_in": 1,
        "unroll": 3,
        "learning_rate": 0.05,
    }
    config = override(preset("drqn"), small | {"head": head})
    network = build.make_network(config, A).double()
    learner = build.make_learner(config, network)
    batch = make_batch(config, network.state_size, seed=1)
    batch = batch._replace(
        terminated=torch.ones_like(batch.terminated), truncated=torch.zeros_like(batch.truncated)
    )
    told = [learner.update(batch).metrics["td_error"].item() for _ in range(25)]
    assert np.mean(told[-5:]) < 0.8 * told[0]


OTHER = {
    "trace_lambda": 0.3,
    "trace_lambda_start": 0.5,
    "trace_lambda_updates": 4,
    "discount": 0.5,
    "double": None,
    "target_period": 2,
    "reward_clip": 0.5,
    "optimizer": "radam",
    "learning_rate": 0.01,
    "optimizer_epsilon": 0.1,
    "max_grad_norm": 1e-3,
    "priority_eta": 0.1,
    "core_size": 9,
    "head_hidden": 8,
    "hidden": 8,
    "head": "hl-gauss",
    "loss": None,
    "dueling": None,
    "norm": None,
    "center": None,
    "standardize": None,
    "last_action_reward": None,
}


def outcome(config: Config) -> list[Tensor]:
    """Weights after five updates, and priorities if they are used."""
    network = build.make_network(config, A).double()
    learner, priority = build.make_learner(config, network), torch.empty(0)
    if learner.target is not learner.online:  # else both would choose alike
        learner.target.load_state_dict(
            build.make_network(override(config, {"seed": 2}), A).double().state_dict()
        )
    for step in (1, 2, 3, 4, 5):
        priority = learner.update(make_batch(config, network.state_size, seed=step)).priority
    return [
        *(p.detach() for p in learner.online.parameters()),
        *([priority] * (config.priority_exponent > 0)),
    ]


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("drqn", "mean"),
        ("dqn", "qr"),
        ("dqn-2015", "mean"),
        ("r2d2", "qr"),
        ("rainbow-lite", "mean"),
    ],
)
def test_every_setting_of_network_and_learner_has_an_effect_or_is_refused(
    name: str, head: str
) -> None:
    small = SMALL | {"torso": "flat", "hidden": 7, "core_size": 6, "head": head}
    small |= {"unroll": 5, "burn_in": 2} if PRESETS[name].get("unroll") != 1 else {}
    config = override(preset(name), small)
    # Tests in tests/agents show what `parts` and `average` do: neither changes the gradient.
    shapes = {
        "batch_size",
        "burn_in",
        "unroll",
        "n_step",
        "frame_stack",
        "torso",
        "core",
        "value_rescaling",
    }
    shapes |= {"parts", "average"}
    assert shapes | set(OTHER) == {
        *NetworkSettings.__dataclass_fields__,
        *LearnerSettings.__dataclass_fields__,
    }
    before, wrong = outcome(config), []
    for setting, value in OTHER.items():
        if value is None:
            value = {"squared": "huber", "huber": "squared", True: False, False: True}[
                getattr(config, setting)
            ]
        value = None if setting == "reward_clip" and config.value_rescaling else value
        if value != getattr(config, setting):
            after = outcome(override(config, {setting: value}))
            close = (
                torch.allclose(a, b, rtol=1e-10, atol=0)
                for a, b in zip(before, after, strict=False)
            )
            same = [x.shape for x in before] == [x.shape for x in after] and all(close)
            wrong += [setting] if same != bool(idle(config, setting)) else []
    assert not wrong


def test_the_tables_of_the_documentation_are_the_presets() -> None:
    text = (Path(__file__).parents[3] / "docs" / "presets.md").read_text()
    told: dict[str, dict[str, str]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        name = section.splitlines()[0]
        parent = re.search(r"Like `([\w-]+)`, and:", section)
        told[name] = told[parent[1]] if parent else {}
        told[name] = told[name] | dict(
            re.findall(r"^\| `(\w+)` \| (\S+) \|", section, flags=re.MULTILINE)
        )
    assert told == {
        name: {k: str(v) for k, v in changes.items()} for name, changes in PRESETS.items()
    }
