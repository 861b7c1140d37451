"""Files that appear whole or not at all; every error of a file becomes one line."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from envs.files import replacing
from experiment.settings.config import UsageError


@contextlib.contextmanager
def refused(place: Path | str, action: str) -> Iterator[None]:
    """UsageError `place: cannot be ACTION (reason)` in place of any other error in the block."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{place}: cannot be {action} ({reason(error)})") from error


def reason(error: Exception) -> str:
    """An error's message on one line; before it the type, except of OSError and ValueError."""
    words = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
    is_clear = words and isinstance(error, OSError | ValueError)
    return words if is_clear else f"{type(error).__name__}: {words}"


def read(path: Path) -> bytes:
    """The bytes of a regular file: opening a pipe would wait for ever. UsageError if it fails."""
    with refused(path, "read"):
        if not path.is_file():
            raise UsageError(f"{path}: missing, or not a file")
        return path.read_bytes()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file; no reader sees a part of it. OSError if it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a JSON object; no reader sees a part of it. OSError if it cannot be written.

    ValueError on NaN and infinity.
    """
    write_text(path, json.dumps(fields, indent=1, allow_nan=False) + "\n")
