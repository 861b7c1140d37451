"""A real Ray cluster on this machine: two nodes of one core, with token authentication."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

# Before Ray is imported, which reads them once. By default Ray runs its workers at nice 15, behind any other work.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_worker_niceness": "0"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """ray.cluster_utils.Cluster with a head and one other node; a test may remove that one."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()
