"""A short run of tests.fuzz, and proof that it would notice."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest

from tests import fuzz, small

LOADERS = ["manifest", "network", "training", "config", "episode", "tracking"]


def tally(inputs: int, only: list[str], keep: Path) -> list[list[str]]:
    """The words of each line of a run, in which nothing crashed."""
    words = ["--inputs", str(inputs), "--keep", str(keep), "--only", *only]
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *words], cwd=small.ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-5_000:] + result.stderr[-5_000:]
    lines = result.stdout.splitlines()
    assert lines[-1].startswith(f"inputs {inputs}, refused ")
    assert lines[-1].endswith(", crashes 0")
    return [line.split() for line in lines[:-1]]


def test_damaged_and_made_up_files_are_loaded_or_refused_in_one_clear_line(tmp_path: Path):
    lines = tally(3_000, LOADERS, tmp_path / "crashes")
    assert sorted(line[0] for line in lines) == sorted(LOADERS)
    assert [line[0] for line in lines if line[6] == "0,"] == []  # each accepts some
    assert [line[0] for line in lines if line[4] == "0,"] == ["tracking"]  # it may not refuse anything


def _writes_outside(_: bytes) -> None:
    Path("/tmp/outside").write_text("")


def _starts_a_program(_: bytes) -> None:
    subprocess.run(["true"], check=False)


def _deletes_outside(_: bytes) -> None:
    os.remove("/tmp/outside")


def _takes_memory(_: bytes) -> None:
    """Less than nothing is allowed to this one."""


def _raises(error: Exception) -> Callable[[bytes], None]:
    def read(_: bytes) -> None:
        raise error

    return read


@pytest.mark.parametrize(
    "read",
    [
        _raises(KeyError("x")),
        _raises(RecursionError()),
        _raises(MemoryError()),
        _raises(ValueError("two\nlines")),
        _raises(ValueError("x" * 50_000)),
        _raises(ValueError("")),
        _writes_outside,
        _deletes_outside,
        _starts_a_program,
        _takes_memory,
    ],
)
def test_what_a_loader_must_not_do_is_noticed(read: Callable[[bytes], None], tmp_path: Path):
    lab = object.__new__(fuzz.Lab)
    lab.watch, lab.work, lab.keep, lab.allowed = fuzz.Watch(), tmp_path / "work", tmp_path / "kept", 2**60
    if read is _takes_memory:
        lab.allowed = fuzz.peak() - 1
    target = fuzz.Target("bad", 1.0, [b""], st.just(b""), read, ValueError)
    lab.attempt(target, b"input")
    assert target.crashes == 1
    assert next(lab.keep.iterdir()).read_bytes() == b"input"


def test_a_clear_refusal_is_no_crash(tmp_path: Path):
    lab = object.__new__(fuzz.Lab)
    lab.watch, lab.work, lab.keep, lab.allowed = fuzz.Watch(), tmp_path, tmp_path / "kept", 2**60
    target = fuzz.Target("good", 1.0, [b""], st.just(b""), _raises(ValueError("a clear line")), ValueError)
    lab.attempt(target, b"input")
    assert (target.inputs, target.refused, target.crashes) == (1, 1, 0)
