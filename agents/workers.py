"""Workers: the threads of this process, which compute the parts of a batch and passes of networks.

The number of parts depends on the batch alone, and each operation runs on one thread. So the
results do not depend on the number of threads, and a core that is busy with other processes delays
one part, not every operation of all parts.
"""

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar, cast

import torch

T = TypeVar("T")
U = TypeVar("U")
_pool: list[ThreadPoolExecutor] = []


def use_threads(threads: int) -> None:
    """Compute with this number of threads from now on, in the whole process."""
    torch.set_num_threads(1)
    # After an operation a thread waits this long for the interpreter; Python's default is 5 ms.
    sys.setswitchinterval(1e-4)
    _pool.clear()
    if threads > 1:
        _pool.append(ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)))


def cut(lanes: int, parts: int) -> list[slice]:
    """Slices of the lanes in `parts` parts, equal to within one lane, without empty ones."""
    ends = [lanes * i // parts for i in range(parts + 1)]
    return [slice(*pair) for pair in pairwise(ends) if pair[0] < pair[1]]


def map_parts(compute: Callable[[T], U], parts: Iterable[T]) -> list[U]:
    """compute(part) of every part, in order; free threads take the parts."""
    return list(_pool[0].map(compute, parts) if _pool else map(compute, parts))


@torch.compiler.disable
def start(compute: Callable[[], U]) -> Callable[[], U]:
    """Start compute() on a free thread. A call of the returned function gives the result.

    If no thread has become free until that call, the caller computes it: workers that wait for
    each other could wait for ever.
    """
    if not _pool:
        return compute
    future = _pool[0].submit(compute)

    def result() -> U:
        return compute() if future.cancel() else future.result()

    return cast(Callable[[], U], torch.compiler.disable(result))
