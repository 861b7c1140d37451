"""Random rows for the tests of networks and learners."""

import numpy as np
import torch

from agents.networks import NetworkSettings, QNetwork
from agents.rows import Inputs, Sequence

ACTIONS = 4
SMALL = {"hidden": 8, "core_size": 6, "norm": False, "center": False, "last_action_reward": False}


def make_network(seed: int = 0, **settings: object) -> QNetwork:
    """A small network of 4 actions, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QNetwork(ACTIONS, NetworkSettings(**(SMALL | settings)))  # type: ignore[arg-type]


def random_inputs(length: int, lanes: int = 3, depth: int = 1, starts: float = 0.25, seed: int = 1) -> Inputs:
    g = torch.Generator().manual_seed(seed)
    rows = depth - 1 + length
    return Inputs(
        torch.randint(0, 256, (rows, lanes, 84, 84), dtype=torch.uint8, generator=g),
        torch.rand(rows, lanes, generator=g) < starts,
        torch.randint(0, ACTIONS, (length, lanes), generator=g),
        2 * torch.randn(length, lanes, generator=g),
    )


def random_batch(
    length: int, lanes: int = 2, state_size: int = 12, depth: int = 1, seed: int = 1, ends: float = 0.0
) -> Sequence:
    """With weights of 1. A row terminates with probability `ends`, is truncated with `ends`; an episode follows."""
    g, inputs = torch.Generator().manual_seed(seed), random_inputs(length, lanes, depth, 0.0, seed)
    chance = torch.rand(length, lanes, generator=g)
    terminated, truncated = chance < ends, chance > 1 - ends
    inputs.is_first[depth:] = (terminated | truncated)[:-1]
    action = torch.randint(0, ACTIONS, (length, lanes), generator=g)
    reward, state = 2 * torch.randn(length, lanes, generator=g), torch.randn(lanes, state_size, generator=g)
    return Sequence(inputs, action, reward, terminated, truncated, state, torch.ones(lanes), np.arange(lanes))
