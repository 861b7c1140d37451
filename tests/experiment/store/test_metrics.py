import json
import resource
from pathlib import Path

import numpy as np
import pytest

from experiment.store.metrics import MetricsFile, read_rows


def write_rows(folder: Path, frames: range, position: int = 0) -> MetricsFile:
    metrics = MetricsFile(folder / "metrics.jsonl", position)
    for count in frames:
        metrics.write({"frames": count})
    return metrics


def test_each_row_is_one_json_line_and_nan_is_null(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write(
        {"frames": 4, "loss": float("nan"), "game": "pong", "q": np.float32(0.5), "n": np.int64(3)}
    )
    metrics.write({"frames": 8, "loss": float("-inf"), "q": float(np.float32("nan"))})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"frames": 4, "loss": None, "game": "pong", "q": 0.5, "n": 3}
    assert json.loads(lines[1]) == {"frames": 8, "loss": None, "q": None}
    assert metrics.position == (tmp_path / "metrics.jsonl").stat().st_size


def test_resuming_at_a_position_leaves_no_gap_and_no_double(tmp_path: Path) -> None:
    position = write_rows(tmp_path, range(3)).position
    whole = write_rows(tmp_path, range(3, 9), position)
    assert whole.position > position
    # The run died after row 8; its checkpoint is from row 2.
    write_rows(tmp_path, range(3, 5), position)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["frames"] for row in rows] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("position", [5, 99])
def test_a_file_that_is_cut_or_has_no_row_that_ends_there_is_refused(
    position: int, tmp_path: Path
) -> None:
    write_rows(tmp_path, range(2))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=f"a row up to byte {position}"):
        MetricsFile(tmp_path / "metrics.jsonl", position)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_rows_wait_in_memory_while_the_disk_is_full(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write({"frames": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))  # room for 6 bytes of the next row
    try:
        metrics.write({"frames": 2})
        metrics.write({"frames": 3})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(metrics.pending) == 2
    assert (tmp_path / "metrics.jsonl").read_text() == '{"frames":1}\n'
    metrics.write({"frames": 4})
    assert not metrics.pending
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"frames": 1}, {"frames": 2}, {"frames": 3}, {"frames": 4}]


def test_a_growing_file_is_read_in_whole_rows(tmp_path: Path) -> None:
    metrics = write_rows(tmp_path, range(2))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"fra')  # a row that is being written
    rows, position = read_rows(path)
    assert (rows, position) == ([{"frames": 0}, {"frames": 1}], metrics.position)
    write_rows(tmp_path, range(2, 4), position)
    assert read_rows(path, position) == ([{"frames": 2}, {"frames": 3}], path.stat().st_size)
    assert read_rows(path, path.stat().st_size) == ([], path.stat().st_size)
