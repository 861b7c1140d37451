"""Workers: the threads of this process that compute the parts of a batch.

A batch is cut into parts whose number depends on the batch alone; each operation of a part runs on
one thread. The same bits come out, whatever the number of threads, and a core that other processes
keep busy delays one part, not every operation of all of them.
"""

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import torch

T = TypeVar("T")
U = TypeVar("U")
_pool: list[ThreadPoolExecutor] = []


def use_threads(threads: int) -> None:
    """Compute with so many threads from now on, in the whole process."""
    torch.set_num_threads(1)
    # A thread that comes back from an operation waits so long for the interpreter: 5 ms, if Python
    # is left to itself.
    sys.setswitchinterval(1e-4)
    _pool[:] = (
        [ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))]
        if threads > 1
        else []
    )


def cut(lanes: int, parts: int) -> list[slice]:
    """Lanes in so many parts of one size, to within one lane; parts of no lanes are left out."""
    ends = [lanes * i // parts for i in range(parts + 1)]
    return [slice(*pair) for pair in pairwise(ends) if pair[0] < pair[1]]


def share(compute: Callable[[T], U], parts: Iterable[T]) -> list[U]:
    """compute(part) of every part, in their order; the threads that are free do them."""
    return list(_pool[0].map(compute, parts) if _pool else map(compute, parts))
