"""The papers' agents: updates of each against a reference by hand, in double precision."""

import re
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.learner import Learner, LearnerSettings
from agents.networks import NetworkSettings, QNetwork
from agents.rows import Sequence
from experiment import build
from experiment.settings.config import PRESETS, Config, idle, override, preset
from tests.batches import ACTIONS, random_batch
from tests.small import ROOT

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


def parts(config: Config) -> tuple[QNetwork, Learner]:
    """A network and its learner, with another network as the target: both would choose alike."""
    network, other = (build.make_network(override(config, {"seed": s}), A).double() for s in (1, 2))
    learner = build.make_learner(config, network)
    if learner.target is not learner.online:
        learner.target.load_state_dict(other.state_dict())
    return network, learner


# --- the reference: one row of one lane at a time -------------------------------------------------


def features(w: Weights, stack: Tensor) -> Tensor:
    """[K, 84, 84] -> the convolutions' output, flat as our weights have it (H, W, C)."""
    x = stack[None] / 255
    for i, stride in enumerate((4, 2, 1)):
        x = F.conv2d(x, w[f"conv.{2 * i}.weight"], w[f"conv.{2 * i}.bias"], stride).relu()
    x = x[0].permute(1, 2, 0).flatten()
    return (w["fc.0.weight"] @ x + w["fc.0.bias"]).relu() if "fc.0.weight" in w else x


def stream(w: Weights, name: str, x: Tensor) -> Tensor:
    if f"head.{name}.weight" in w:
        return w[f"head.{name}.weight"] @ x + w[f"head.{name}.bias"]
    x = (w[f"head.{name}.0.weight"] @ x + w[f"head.{name}.0.bias"]).relu()
    return w[f"head.{name}.2.weight"] @ x + w[f"head.{name}.2.bias"]


def q_rows(config: Config, w: Weights, batch: Sequence, lane: int) -> list[Tensor]:
    """z [A, K] of every row of a lane, from the stored state on. The burn-in has no gradient."""
    depth, inputs, out = config.frame_stack, batch.inputs, []
    h, c = batch.core_state[lane].tensor_split(2)  # empty without a recurrent core
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
            cell = [p for name, p in w.items() if name.startswith("core.cell.")]
            h, c = (new[0] for new in torch.lstm_cell(x[None], (h[None], c[None]), *cell))
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


def reference_loss(config: Config, online: Weights, target: Weights, batch: Sequence):
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
                trace = 0.0 if cut[k + 1] else config.trace_lambda or 1.0
                trace = 1.0 if k + 1 == last else trace
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


adam, adadelta = torch.optim.Adam, partial(torch.optim.Adadelta, rho=0.95)
rmsprop = partial(torch.optim.RMSprop, alpha=0.95, centered=True)
SMALL = dict(precision="fp32", batch_size=B)
PLAIN = dict(norm=False, center=False, standardize=False, torso="nature", head="mean", hidden=7)
R2D2 = dict(hidden=7, core_size=6, head_hidden=5, burn_in=3, unroll=5, n_step=3)


@pytest.mark.parametrize(
    ("name", "changes", "reference"),
    [
        ("dqn-2015", dict(hidden=7), rmsprop),
        ("dqn-2015", dict(hidden=7, head="qr"), rmsprop),
        ("double-dqn", dict(hidden=7), rmsprop),
        ("drqn-2015", dict(core_size=6, unroll=5), adadelta),
        ("dueling", dict(head_hidden=5, max_grad_norm=0.1), rmsprop),
        ("rainbow-lite", dict(head_hidden=5), adam),
        ("r2d2", R2D2, adam),
        ("drqn", PLAIN | dict(core_size=6, burn_in=3, unroll=5, n_step=2), adam),
        ("dqn", PLAIN | dict(unroll=5, n_step=2), adam),
    ],
)
def test_updates_of_a_papers_agent_equal_the_reference(name, changes, reference) -> None:
    config = override(preset(name), SMALL | changes)
    network, learner = parts(config)
    target = {k: v.clone() for k, v in learner.target.state_dict().items()}
    weights = {k: v.detach().clone().requires_grad_() for k, v in network.named_parameters()}
    optimizer = reference(weights.values(), lr=config.learning_rate, eps=config.optimizer_epsilon)
    for step in (1, 2, 3):
        batch = make_batch(config, network.state_size, seed=step)
        loss, priorities = reference_loss(config, weights, target, batch)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(weights.values(), config.max_grad_norm or float("inf"))
        optimizer.step()
        if config.average:
            share = step / (step + 10)
            target = {k: torch.lerp(p.detach(), target[k], share) for k, p in weights.items()}

        update = learner.update(batch)
        assert update.metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
        assert update.metrics["grad_norm"].item() == pytest.approx(norm.item(), rel=1e-6)
        np.testing.assert_allclose(update.priority, priorities, rtol=1e-6)
        for k, p in learner.online.named_parameters():
            torch.testing.assert_close(p, weights[k], rtol=1e-6, atol=1e-8)


OTHER = dict(trace_lambda=0.3, discount=0.5, learning_rate_updates=2)
OTHER |= dict(optimizer="radam", learning_rate=0.01, optimizer_epsilon=0.1, max_grad_norm=1e-3)
OTHER |= dict(target_period=2, reward_clip=0.5, priority_eta=0.1, head="hl-gauss")
OTHER |= dict(core_size=9, head_hidden=8, hidden=8)
# Of two values the other one.
SWITCHES = "double dueling norm center standardize last_action_reward loss".split()
# What the tests above cover; and tests of the agents show what `parts` and `average` do.
ELSEWHERE = "batch_size burn_in unroll n_step frame_stack torso core value_rescaling parts average"


def outcome(config: Config) -> list[Tensor]:
    """Weights after five updates, and priorities if they are used."""
    (network, learner), priority = parts(config), torch.empty(0)
    for step in (1, 2, 3, 4, 5):
        priority = learner.update(make_batch(config, network.state_size, seed=step)).priority
    weights = [p.detach() for p in learner.online.parameters()]
    return [*weights, priority] if config.priority_exponent else weights


AGENTS = "drqn mean", "dqn qr", "dqn-2015 mean", "r2d2 qr", "rainbow-lite mean"


@pytest.mark.parametrize("agent", AGENTS)
def test_every_setting_of_network_and_learner_has_an_effect_or_is_refused(agent) -> None:
    name, head = agent.split()
    small = SMALL | dict(torso="flat", hidden=7, core_size=6, head=head)
    small |= dict(unroll=5, burn_in=2) if PRESETS[name].get("unroll") != 1 else {}
    config = override(preset(name), small)
    fields = NetworkSettings.__dataclass_fields__ | LearnerSettings.__dataclass_fields__
    assert {*ELSEWHERE.split(), *OTHER, *SWITCHES} == {*fields}
    others = {"squared": "huber", "huber": "squared", True: False, False: True}
    changes = OTHER | {setting: others[getattr(config, setting)] for setting in SWITCHES}
    changes |= dict(reward_clip=None) if config.value_rescaling else {}
    before, wrong = outcome(config), []
    for setting, value in changes.items():
        if value == getattr(config, setting):
            continue
        after = outcome(override(config, {setting: value}))
        pairs = zip(before, after, strict=False)
        same = [x.shape for x in before] == [x.shape for x in after]
        same = same and all(torch.allclose(a, b, rtol=1e-10, atol=0) for a, b in pairs)
        wrong += [setting] if same != bool(idle(config, setting)) else []
    assert wrong == []


def test_the_tables_of_the_documentation_are_the_presets() -> None:
    text = (ROOT / "docs" / "presets.md").read_text()
    tables: dict[str, dict[str, str]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        name, parent = section.splitlines()[0], re.search(r"Like `([\w-]+)`, and:", section)
        table = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", section, flags=re.MULTILINE))
        tables[name] = (tables[parent[1]] if parent else {}) | table
    assert tables.keys() == PRESETS.keys()
    for name, words in tables.items():
        assert override(Config(), words | {"preset": name}) == preset(name)
