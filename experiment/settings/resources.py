"""Cores and memory that this process may use, within the limits of its container."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # Linux only


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _groups() -> Iterator[Path]:
    """The folders of this process's control groups (version 1 or 2) and of those around them."""
    for line in _read(MEMBERSHIP).splitlines():
        _, controllers, path = line.split(":", 2)
        base, inner = CGROUPS / controllers, CGROUPS / controllers / path.strip("/")
        yield from (group for group in (inner, *inner.parents) if group.is_relative_to(base))


def cores() -> int:
    """Cores that this process may use, at least 1: by affinity and by the container's quota."""
    limit = float(
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")  # not on macOS
        else os.cpu_count() or 1
    )
    for group in _groups():
        version_1 = _read(group / "cpu.cfs_quota_us") + _read(group / "cpu.cfs_period_us")
        # Without a quota the first word is "max" or -1.
        if quota := re.fullmatch(r"(\d+)\s+(\d+)\s*", _read(group / "cpu.max") or version_1):
            limit = min(limit, int(quota[1]) / int(quota[2]))
    return max(1, math.floor(limit))


def free_memory() -> int:
    """Bytes that this process may still allocate, on the machine and in its container."""
    free = psutil.virtual_memory().available
    for group in _groups():
        most = (_read(group / "memory.max") or _read(group / "memory.limit_in_bytes")).strip()
        used = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes")
        if most.isdigit() and used:
            cache = re.search(r"(?m)^(?:total_)?inactive_file (\d+)", _read(group / "memory.stat"))
            free = min(free, int(most) - int(used) + int(cache[1] if cache else 0))
    return max(free, 0)
