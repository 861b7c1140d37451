"""Files that are whole or not there, and one door through which whatever is wrong with a file
becomes one line."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiment.settings.config import UsageError


@contextlib.contextmanager
def refused(place: Path | str, what: str) -> Iterator[None]:
    """UsageError `place: cannot be WHAT (reason)` in place of any error within, whichever library
    raises it."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{place}: cannot be {what} ({reason(error)})") from error


def reason(error: Exception) -> str:
    """An error in a few words of one line; its type too, unless the words are meant for the
    user."""
    words = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
    return (
        words
        if words and isinstance(error, OSError | ValueError)
        else f"{type(error).__name__}: {words}"
    )


def read(path: Path) -> bytes:
    """The bytes of a regular file; opening a pipe would wait for ever. UsageError if there is
    none."""
    with refused(path, "read"):
        if not path.is_file():
            raise UsageError(f"{path}: missing, or not a file")
        return path.read_bytes()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path`, of this process alone, to write to: the file that is whole at the end
    replaces `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, never seen half written. OSError if it cannot."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a JSON object, never seen half written. OSError if it cannot."""
    write_text(path, json.dumps(fields, indent=1, allow_nan=False) + "\n")
