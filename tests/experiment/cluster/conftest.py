"""A real Ray cluster on this machine: two nodes of one core, with token authentication."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.torture_actors import two_nodes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Its worker node may be removed by a test."""
    with two_nodes() as cluster:
        yield cluster
