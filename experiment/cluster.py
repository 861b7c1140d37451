"""The connection to Ray; only this module of `experiment` imports it."""

import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from typing import Any

from experiment import IS_INSTALLED, ROOT
from experiment.settings.config import UsageError
from experiment.settings.resources import cores
from experiment.store.files import refused
from experiment.store.provenance import commit

# The nodes' code, below 1 MB: of an installed copy, or of a checkout.
CODE = {"recall"} if IS_INSTALLED else {"agents", "envs", "experiment", "train.py", "evaluate.py"}


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module `ray`, connected to a cluster for the length of the block.

    "local" starts a cluster on this machine; "auto" and HOST:PORT join one. The workers import this
    process's code, and start in its folder.

    UsageError if Ray is not installed, or if no cluster answers at the address.
    """
    try:
        import ray
    except ImportError:
        install = "pip install 'recall-atari[ray]', or pip install -e '.[ray]' in a checkout"
        raise UsageError(f"--ray {address}: Ray is not installed; {install}") from None
    own = {"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}
    code = {
        "working_dir": str(ROOT),
        "excludes": ["__pycache__", *(f"/{x.name}" for x in ROOT.iterdir() if x.name not in CODE)],
        "env_vars": {"RECALL_COMMIT": commit() or ""},
    }
    with refused(f"--ray {address}", "joined"):
        if ":" in address:  # Ray itself would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, port), timeout=10).close()
    # Ray's own message does not distinguish a refused token from a dead cluster.
    token = (
        "" if address == "local" else "; perhaps RAY_AUTH_MODE or the token is not the cluster's"
    )
    handler = signal.getsignal(signal.SIGTERM)
    with refused(f"--ray {address}", f"joined{token}"):
        connection = ray.init(
            address, runtime_env=code, log_to_driver=False, logging_level=logging.ERROR, **own
        )
    signal.signal(signal.SIGTERM, handler)  # Ray's own handler would end this process at once
    with connection:
        yield ray
