"""Cores and memory that this process may use, within the limits of its container."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

# Linux only; absent elsewhere.
CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _groups() -> Iterator[Path]:
    """The folders of this process's control groups, version 1 or 2, and of the groups around
    them."""
    for line in _read(MEMBERSHIP).splitlines():
        _, controllers, path = line.split(":", 2)
        base = CGROUPS / controllers
        inner = base / path.strip("/")
        yield from (group for group in (inner, *inner.parents) if group.is_relative_to(base))


def cores() -> int:
    """Cores that this process may use, at least 1: by affinity and by the container's quota."""
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quotas = [float(allowed)]
    for group in _groups():
        words = _read(group / "cpu.max") or _read(group / "cpu.cfs_quota_us") + _read(
            group / "cpu.cfs_period_us"
        )
        match = re.fullmatch(r"(\d+)\s+(\d+)\s*", words)  # no quota: max, or -1
        quotas += [int(match[1]) / int(match[2])] if match else []
    return max(1, math.floor(min(quotas)))


def free_memory() -> int:
    """Bytes that this process may still take: those of the machine, or of its container if that has
    fewer."""
    free = psutil.virtual_memory().available
    for group in _groups():
        for limit, usage in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most, used = _read(group / limit).strip(), _read(group / usage)
            if most.isdigit() and used:
                cache = re.search(
                    r"^(?:total_)?inactive_file (\d+)", _read(group / "memory.stat"), re.MULTILINE
                )
                free = min(free, int(most) - int(used) + int(cache[1] if cache else 0))
    return max(free, 0)
