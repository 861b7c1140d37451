"""One thread everywhere: small networks are faster so, and the suite is kind to other work on the machine."""

import pytest
import torch

import agents  # noqa: F401  (sets OpenMP before torch is imported)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
