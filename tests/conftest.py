"""One thread everywhere: small networks are faster so, and the suite is kind to other work on the machine."""

import agents  # isort: skip  # noqa: F401  (sets OpenMP before torch is imported)

import pytest
import torch
from hypothesis import settings

# The same examples every time, and no failure because the machine is busy.
settings.register_profile("recall", deadline=None, derandomize=True)
settings.load_profile("recall")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
