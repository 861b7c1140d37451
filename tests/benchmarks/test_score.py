from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.score import NATURE, adopt
from experiment.settings.config import preset
from tests.batches import random_inputs

A = 3


@pytest.mark.parametrize("quantiles", [1, 5])
def test_the_peers_weights_in_our_network_give_the_peers_values(quantiles) -> None:
    """Theirs reads [N, 4, 84, 84] / 255, and gives A values for each of its quantiles in turn."""
    torch.manual_seed(1)
    conv = [nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3)]
    layers = [*conv, nn.Sequential(nn.Flatten(), nn.Linear(3136, 512))]
    peer = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
    peer.append(nn.Linear(512, quantiles * A))
    ours = adopt(list(peer.parameters()), replace(preset("dqn"), **NATURE), A)
    inputs = random_inputs(1, lanes=2, depth=4, starts=0.0)
    with torch.no_grad():
        q, _ = ours(inputs, ours.initial_state(2))
        expected = peer(inputs.frames.transpose(0, 1) / 255).view(2, quantiles, A).mean(1)
    np.testing.assert_allclose(q[0].numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
