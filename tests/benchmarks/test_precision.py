"""Bf16 in software is the bf16 that torch computes, to within the order of its sums."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from agents.networks import NetworkSettings, QNetwork
from agents.rows import Inputs
from benchmarks.precision import autocast_in_software


def _q_and_gradients(net: QNetwork, inputs: Inputs, context: AbstractContextManager[object]) -> dict[str, Tensor]:
    net.zero_grad()
    with context:
        q, _ = net(inputs, net.initial_state(2))
    q.square().mean().backward()
    return {"q": q.detach()} | {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}


# Torch without such hardware sums the gradients of convolutions' weights in bf16, hardware in fp32: left out.
COMPARED = ("q", "fc.0.weight", "fc.0.bias", "fc.1.weight", "fc.1.bias", "conv.0.bias")


def _distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, float]:
    return {k: float((a[k] - b[k]).norm() / b[k].norm()) for k in COMPARED}


def test_it_is_as_torch_computes_bf16_and_not_fp32() -> None:
    torch.manual_seed(1)
    net = QNetwork(4, NetworkSettings(hidden=32, core="identity", center=False, last_action_reward=False))
    frames = torch.randint(0, 256, (3, 2, 84, 84), dtype=torch.uint8)
    inputs = Inputs(frames, torch.zeros(3, 2).bool(), torch.zeros(3, 2).long(), torch.zeros(3, 2))
    single = _q_and_gradients(net, inputs, nullcontext())
    torchs = _q_and_gradients(net, inputs, torch.autocast("cpu", torch.bfloat16))
    ours = _q_and_gradients(net, inputs, autocast_in_software())
    near, far = _distance(ours, torchs), _distance(single, torchs)
    assert all(near[k] < far[k] / 2 for k in near), (near, far)
    assert min(far.values()) > 1e-3
    assert net(inputs, net.initial_state(2))[0].equal(single["q"])  # nothing of it stays
