"""The peers' weights in our network give the peers' values."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from agents.rows import Inputs
from benchmarks.score import NATURE, adopt
from experiment.settings.config import preset

A = 3


@pytest.mark.parametrize("quantiles", [1, 5])
def test_the_peers_weights_in_our_network_give_the_peers_values(quantiles: int) -> None:
    """Theirs reads [N, 4, 84, 84] / 255, oldest first, and gives A values for each of its quantiles
    in turn."""
    torch.manual_seed(1)
    peer = nn.Sequential(
        *(
            nn.Conv2d(4, 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
        ),
        *(nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, quantiles * A)),
    )
    ours = adopt(list(peer.parameters()), replace(preset("dqn"), **NATURE), A)
    frames = torch.randint(0, 256, (4, 2, 84, 84), dtype=torch.uint8)  # a stack of 4, two envs
    no = torch.zeros(4, 2, dtype=torch.bool)
    with torch.no_grad():
        q, _ = ours(
            Inputs(frames, no, torch.zeros(1, 2).long(), torch.zeros(1, 2)), ours.initial_state(2)
        )
        expected = peer(frames.transpose(0, 1) / 255).view(2, quantiles, A).mean(1)
    np.testing.assert_allclose(q[0].numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
