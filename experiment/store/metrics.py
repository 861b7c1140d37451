"""metrics.jsonl: a run's measurements, one JSON object a line; a resume leaves no gap or double."""

import errno
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic_core import to_json


class MetricsFile:
    """Append-only `metrics.jsonl`: one JSON object per line.

    Opening truncates the file to `position` bytes, the number in a checkpoint: after a resume no
    row is missing and none is there twice. A row that cannot be written (a full disk) waits in
    memory for the next write.

    ValueError if no row ends at `position`, OSError if the file cannot be opened.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115  (kept open for the whole run)
        self._file.seek(max(position - 1, 0))
        if position and self._file.read(1) != b"\n":
            self._file.close()
            raise ValueError(
                f"{path.name}: cut or changed since the checkpoint, which expects a row up to byte "
                f"{position}"
            )
        self._file.truncate(position)
        self.position = position  # bytes: the end of the last whole row
        self.pending = b""  # rows that wait for room on the disk

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row of numbers (numpy's too), strings and nulls; NaN becomes null.

        A full disk is no error.
        """
        line = to_json(row, inf_nan_mode="null", fallback=lambda number: number.item())
        self.pending += line + b"\n"
        with suppress(OSError):
            self._write_pending()

    def _write_pending(self) -> None:
        try:
            if self._file.write(self.pending) != len(self.pending):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # only a part went in
        except OSError:
            self._file.truncate(self.position)  # no part of a row may stay
            raise
        self.position, self.pending = self.position + len(self.pending), b""

    def sync(self) -> None:
        """Force all rows to the disk before a checkpoint stores `position`. OSError if it fails."""
        self._write_pending()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_rows(path: Path, position: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole rows of a growing file from byte `position` on, and the position after them.

    OSError if it cannot be read, ValueError if a row is no JSON.
    """
    with path.open("rb") as file:
        file.seek(position)
        whole = file.read().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()], position + len(whole) + bool(whole)
