import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiment.store.metrics import MetricsFile, read_rows


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "metrics.jsonl"


def write_rows(path: Path, frames: range, position: int = 0) -> MetricsFile:
    metrics = MetricsFile(path, position)
    for count in frames:
        metrics.write({"frames": count})
    return metrics


def rows_of(*frames: int) -> list[dict[str, Any]]:
    return [{"frames": count} for count in frames]


def test_each_row_is_one_json_line_and_nan_is_null(path) -> None:
    metrics, nan = MetricsFile(path), float("nan")
    metrics.write(dict(frames=4, loss=nan, game="pong", q=np.float32(0.5), n=np.int64(3)))
    metrics.write(dict(frames=8, loss=float("-inf"), q=float(np.float32("nan"))))
    assert list(map(json.loads, path.read_text().splitlines())) == [
        dict(frames=4, loss=None, game="pong", q=0.5, n=3),
        dict(frames=8, loss=None, q=None),
    ]
    assert metrics.position == path.stat().st_size


def test_resuming_at_a_position_leaves_no_gap_and_no_double(path) -> None:
    position = write_rows(path, range(3)).position
    assert write_rows(path, range(3, 9), position).position > position
    # The run died after row 8; its checkpoint is from row 2.
    write_rows(path, range(3, 5), position)
    assert read_rows(path)[0] == rows_of(0, 1, 2, 3, 4)


@pytest.mark.parametrize("position", [5, 99])
def test_a_file_that_is_cut_or_has_no_row_that_ends_there_is_refused(position, path) -> None:
    write_rows(path, range(2))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"a row up to byte {position}"):
        MetricsFile(path, position)
    assert path.read_bytes() == before


def test_rows_wait_in_memory_while_the_disk_is_full(path) -> None:
    metrics = write_rows(path, range(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))  # room for 6 bytes of the next row
    try:
        metrics.write({"frames": 1})
        metrics.write({"frames": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert metrics.pending.count(b"\n") == 2
    assert path.read_text() == '{"frames":0}\n'
    metrics.write({"frames": 3})
    assert not metrics.pending
    assert read_rows(path)[0] == rows_of(0, 1, 2, 3)


def test_a_growing_file_is_read_in_whole_rows(path) -> None:
    position = write_rows(path, range(2)).position
    path.write_bytes(path.read_bytes() + b'{"fra')  # a row that is being written
    assert read_rows(path) == (rows_of(0, 1), position)
    write_rows(path, range(2, 4), position)
    size = path.stat().st_size
    assert read_rows(path, position) == (rows_of(2, 3), size)
    assert read_rows(path, size) == ([], size)
