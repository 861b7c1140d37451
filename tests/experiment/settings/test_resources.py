"""A container's limits count as the machine's."""

from pathlib import Path

import psutil
import pytest

from experiment.settings import resources


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of control groups of the test's own, on a machine of 8 cores and 64 GB."""
    monkeypatch.setattr(resources, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resources, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 64 * 10**9}))
    return tmp_path


def write(groups: Path, membership: str, **files: str) -> None:
    (groups / "membership").write_text(membership)
    for name, text in files.items():
        path = groups / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_without_a_container_the_machine_counts(groups: Path) -> None:
    assert (resources.cores(), resources.free_memory()) == (8, 64 * 10**9)


def test_version_2(groups: Path) -> None:
    files = {"a/b/cpu.max": "250000 100000", "a/b/memory.max": "4000", "a/b/memory.current": "3000"}
    write(groups, "0::/a/b\n", **files, **{"a/b/memory.stat": "anon 5\ninactive_file 700\nfile 9"})
    assert resources.cores() == 2  # whole cores of 2.5
    assert resources.free_memory() == 4000 - (3000 - 700)  # the cache of files can be dropped


def test_version_2_limits_of_the_group_around_count(groups: Path) -> None:
    files = {"a/cpu.max": "50000 100000", "a/memory.max": "4000", "a/memory.current": "3000"}
    write(groups, "0::/a/b\n", **files, **{"a/b/cpu.max": "max 100000", "a/b/memory.max": "max"})
    assert (resources.cores(), resources.free_memory()) == (1, 1000)  # at least one core


def test_version_1(groups: Path) -> None:
    cpu = {"cpu,cpuacct/cpu.cfs_quota_us": "400000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    memory = {"memory/memory.limit_in_bytes": "5000", "memory/memory.usage_in_bytes": "3000"}
    # As a container sees itself: its path does not exist below its own root.
    write(groups, "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n", **cpu, **memory)
    assert (resources.cores(), resources.free_memory()) == (4, 2000)


def test_version_1_without_a_limit(groups: Path) -> None:
    cpu = {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}
    memory = {"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/memory.usage_in_bytes": "3000"}
    write(groups, "4:memory:/\n3:cpu:/\n", **cpu, **memory)
    assert (resources.cores(), resources.free_memory()) == (8, 64 * 10**9)
