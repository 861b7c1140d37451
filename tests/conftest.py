"""One thread everywhere: small networks are faster so, and the suite is kind to other work on the
machine."""

import agents  # isort: skip  # noqa: F401  (sets OpenMP before torch is imported)
import tests.stand_in  # isort: skip  # noqa: F401  (before any backward pass)

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from tests import small

# The same examples every time, and no failure because the machine is busy.
settings.register_profile("recall", deadline=None, derandomize=True, database=None)
settings.load_profile("recall")

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as in a terminal, also where nohup started the suite


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that all cores end together: this folder's, then Ray's."""
    here = Path(__file__).parent
    ray = "test_nodes.py", "test_actors.py"
    items.sort(key=lambda item: (item.path.parent != here, item.path.name not in ray))


@pytest.fixture(autouse=True)
def _one_thread_and_the_same_weights_whatever_ran_before() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `small.SETTINGS` that was never stopped. Tests read it; `copied` may be changed."""
    return small.start(tmp_path_factory.mktemp("runs"), "run")


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def error_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Calls a command that must end with status 2 and one line on standard error: the line."""

    def call(main: Callable[..., int], *words: Any, **more: Any) -> str:
        assert main(*words, **more) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line

    return call


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small disk of the test's own: 24 MB, or as its parameter says."""
    path, size = tmp_path / "disk", getattr(request, "param", "24m")
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes rights that this process has not")
    yield path
    subprocess.run(["umount", "-l", path], check=True)
