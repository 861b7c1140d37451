"""The number of threads changes the time that parts take, and nothing else."""

import threading

import pytest
import torch

from agents import workers
from agents.workers import cut, share


@pytest.fixture(autouse=True)
def _as_before() -> object:
    yield
    workers.use_threads(1)


@pytest.mark.parametrize(
    ("lanes", "parts", "ends"),
    [(6, 2, [3, 6]), (7, 2, [3, 7]), (5, 4, [1, 2, 3, 5]), (2, 4, [1, 2]), (3, 1, [3])],
)
def test_parts_take_every_lane_once_and_differ_by_one_lane_at_most(
    lanes: int, parts: int, ends: list[int]
) -> None:
    pieces = cut(lanes, parts)
    assert [lane for piece in pieces for lane in range(lanes)[piece]] == list(range(lanes))
    assert [piece.stop for piece in pieces] == ends


def test_results_come_in_the_order_of_the_parts_from_all_threads() -> None:
    workers.use_threads(2)
    both = threading.Barrier(2, timeout=20)  # nobody passes alone

    def compute(part: int) -> tuple[int, str, int]:
        both.wait()
        return part, threading.current_thread().name, torch.get_num_threads()

    parts, names, threads = zip(*share(compute, [10, 11]), strict=True)
    assert parts == (10, 11)
    assert len(set(names)) == 2
    assert threads == (1, 1)  # of each operation
