"""A real Ray cluster on this machine: two nodes of one core, with token authentication."""

import os

import pytest

from tests.torture_actors import two_nodes  # before Ray is imported


@pytest.fixture(scope="module")
def cluster():
    """Its worker node may be removed by a test."""
    os.environ["RECALL_CLUSTER"] = str(os.getpid())  # of every process that a node starts
    with two_nodes() as cluster:
        yield cluster
