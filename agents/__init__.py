"""The agent: networks, cores, losses, replay, exploration, actor and learner.

The package works on arrays and knows nothing of games.
"""

import ctypes
import os
import sys

# Until `use_threads` (agents/workers.py) torch shares an operation among OpenMP threads, which spin
# while they wait and take the cores from other processes: a short spin suffices. OpenMP reads the
# variable when torch is imported for the first time.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# glibc returns a large tensor to the kernel when it is freed, and the next allocation faults every
# page in again. Retaining the memory saves about a quarter of an update's time. Only glibc has
# mallopt.
if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
    # The options are M_TRIM_THRESHOLD, M_MMAP_MAX and M_ARENA_MAX.
    for _option, _value in ((-1, 2**31 - 1), (-4, 0), (-8, 1)):
        ctypes.CDLL(None).mallopt(_option, _value)
