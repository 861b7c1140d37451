"""Whatever keeps a program from Ray is one clear line."""

import sys

import pytest

from experiment.cluster.connect import connected
from experiment.settings.config import UsageError


def test_without_the_extra_the_line_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    says = r"--ray local: Ray is not installed; pip install 'recall-atari\[ray\]'"
    with pytest.raises(UsageError, match=says):
        connected("local").__enter__()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "host:", "ray://127.0.0.1:10001"])
def test_an_address_without_a_cluster_is_named_at_once(address) -> None:
    with pytest.raises(UsageError, match=f"^--ray {address}: cannot be joined"):
        connected(address).__enter__()
