"""The number of threads changes the time that parts take, and nothing else."""

import threading
from itertools import chain, product

import torch

from agents import workers


def test_parts_take_every_lane_once_and_differ_by_one_lane_at_most() -> None:
    for lanes, parts in product(range(1, 9), range(1, 5)):
        pieces = [range(lanes)[piece] for piece in workers.cut(lanes, parts)]
        assert [*chain(*pieces)] == [*range(lanes)]
        sizes = [len(piece) for piece in pieces]
        assert (len(sizes), max(sizes) - min(sizes) <= 1) == (min(lanes, parts), True)


def test_results_come_in_the_order_of_the_parts_from_all_threads() -> None:
    workers.use_threads(2)
    both = threading.Barrier(2, timeout=20)  # nobody passes alone

    def compute(part):
        both.wait()
        return part, threading.current_thread().name, torch.get_num_threads()

    try:
        parts, names, threads = zip(*workers.map_parts(compute, [10, 11]), strict=True)
    finally:
        workers.use_threads(1)
    assert (parts, len(set(names))) == ((10, 11), 2)
    assert threads == (1, 1)  # of each operation


def test_a_started_computation_runs_on_a_free_thread_or_else_in_the_caller() -> None:
    def name():
        return threading.current_thread().name

    def part(_):
        both.wait()  # from here to the next wait no thread is free
        other = workers.start(name)()
        both.wait()
        return name(), other

    assert workers.start(name)() == name()  # with one thread
    workers.use_threads(2)
    both = threading.Barrier(2, timeout=20)
    try:
        free = workers.start(both.wait)  # passes only beside the caller
        both.wait()
        assert free() in (0, 1)
        for own, other in workers.map_parts(part, range(2)):
            assert own == other != name()
    finally:
        workers.use_threads(1)
