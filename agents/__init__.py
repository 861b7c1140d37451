"""The agent: networks, cores, losses, replay, exploration, actor, learner. Knows arrays, not
games."""

import ctypes
import os
import sys

# OpenMP threads spin while they wait and starve the emulator's threads and other processes; a short
# spin keeps most of the idle speed (docs/performance.md). It has to be set before torch is first
# imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# glibc gives large tensors back to the kernel at every free and faults each page in again at every
# allocation. Keeping the memory saves about a quarter of an update. Elsewhere than on glibc this is
# left alone.
if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
    # M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX
    for _option, _value in ((-1, 2**31 - 1), (-4, 0), (-8, 1)):
        ctypes.CDLL(None).mallopt(_option, _value)
