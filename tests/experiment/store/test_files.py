"""Files are whole or not there, and whatever is wrong with one is told in one line."""

import contextlib
import json
import os
from pathlib import Path

import pytest

from experiment.settings.config import UsageError
from experiment.store.files import read, refused, replacing, write_json, write_text


def test_text_is_utf_8_whatever_the_locale(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("locale.getencoding", lambda: "iso-8859-1")
    write_text(tmp_path / "a", "5 \u2212 3 \u2264 2\n")
    assert (tmp_path / "a").read_bytes() == "5 \u2212 3 \u2264 2\n".encode()
    write_json(tmp_path / "b", {"name": "\u00e9", "x": 1.5})
    assert json.loads((tmp_path / "b").read_bytes()) == {"name": "\u00e9", "x": 1.5}


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a", "new \ud800")
    with contextlib.suppress(KeyError), replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]


ERRORS = KeyError("x"), TypeError("a\nb"), ValueError("v"), RuntimeError(), MemoryError()


@pytest.mark.parametrize("error", [*ERRORS, RecursionError("deep"), OSError(28, "No space left")])
def test_any_error_becomes_one_line_that_names_the_place(error) -> None:
    says = "runs/x: cannot be read"
    with pytest.raises(UsageError, match=says) as told, refused(Path("runs/x"), "read"):
        raise error
    assert len(str(told.value).splitlines()) == 1
    assert told.value.__cause__ is error
    with pytest.raises(UsageError, match=r"^as it is$"), refused("runs/x", "read"):
        raise UsageError("as it is")


def test_only_regular_files_are_read(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for name in ("pipe", "missing", "."):
        with pytest.raises(UsageError, match="missing, or not a file"):
            read(tmp_path / name)
