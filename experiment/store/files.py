"""Files that are whole or not there, in folders that may be a stranger's."""

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiment.settings.config import UsageError

# wandb's own link to a log in its cache. Each sitting makes a folder anew, so nothing is written through an old one.
WANDB_LINK = "wandb/*/logs/debug-core.log"


def check_links(run: Path) -> None:
    """UsageError if a symbolic link leads out of the run's folder, or if a pipe or a device lies in it.

    A stranger's run must not write elsewhere; opening a pipe would wait for ever.
    """
    home = run.resolve()
    for where, folders, files in os.walk(run):
        for name in folders + files:
            path = Path(where, name)
            try:
                mode = path.lstat().st_mode
            except OSError:  # gone since, or not ours to enter: then nothing can be opened there either
                continue
            if stat.S_ISLNK(mode):
                out = not os.path.realpath(path).startswith(f"{home}{os.sep}")
                if out and not path.relative_to(run).match(WANDB_LINK):
                    raise UsageError(f"{path}: a symbolic link that leads out of the run's folder")
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UsageError(f"{path}: neither a file nor a folder")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, of this process alone: what is whole at the end takes the place of `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Never seen half written. OSError if it cannot."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(fields, indent=1, allow_nan=False) + "\n")


@contextlib.contextmanager
def refused(place: Path | str, what: str) -> Iterator[None]:
    """UsageError in place of an OSError within."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{place}: cannot be {what} ({error.strerror})") from None
