"""Whatever keeps a program from Ray is one clear line."""

import sys
from types import SimpleNamespace

import pytest

from experiment.cluster import connected
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


def test_a_refused_token_is_named_as_a_possible_reason(monkeypatch) -> None:
    def init(*_: object, **__: object) -> None:
        raise ConnectionError("Failed to connect")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    says = r"^--ray auto: cannot be joined; perhaps RAY_AUTH_MODE or the token is not the cluster's"
    with pytest.raises(UsageError, match=rf"{says} \(Failed to connect\)$"):
        connected("auto").__enter__()
