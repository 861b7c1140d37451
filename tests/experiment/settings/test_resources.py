"""A container's limits count as the machine's."""

from pathlib import Path

import psutil
import pytest

from experiment.settings import resources

GB = 10**9
CPU, MEMORY = "cpu,cpuacct/cpu.cfs_", "memory/memory."  # of version 1
# The groups of this process, files of groups -> cores, free bytes; on a machine of 8 cores and 64
# GB.
CASES = {
    "no container": ("", {}, 8, 64 * GB),
    "version 2": (  # whole cores of 2.5; the cache of files can be dropped
        "0::/a/b\n",
        {
            "a/b/cpu.max": "250000 100000",
            "a/b/memory.max": "4000",
            "a/b/memory.current": "3000",
            "a/b/memory.stat": "anon 5\ninactive_file 700\nfile 9",
        },
        2,
        4000 - (3000 - 700),
    ),
    "limits of the group around": (  # at least one core
        "0::/a/b\n",
        {
            "a/cpu.max": "50000 100000",
            "a/memory.max": "4000",
            "a/memory.current": "3000",
            "a/b/cpu.max": "max 100000",
            "a/b/memory.max": "max",
        },
        1,
        1000,
    ),
    "version 1": (  # as a container sees itself: its path does not exist below its own root
        "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n",
        {
            f"{CPU}quota_us": "400000",
            f"{CPU}period_us": "100000",
            f"{MEMORY}limit_in_bytes": "5000",
            f"{MEMORY}usage_in_bytes": "3000",
        },
        4,
        2000,
    ),
    "version 1 without a limit": (
        "4:memory:/\n3:cpu,cpuacct:/\n",
        {
            f"{CPU}quota_us": "-1",
            f"{CPU}period_us": "100000",
            f"{MEMORY}limit_in_bytes": str(2**63 - 4096),
            f"{MEMORY}usage_in_bytes": "3000",
        },
        8,
        64 * GB,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_cores_and_free_memory(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    membership, files, cores, free = CASES[case]
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    monkeypatch.setattr(resources, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resources, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: type("Memory", (), {"available": 64 * GB})
    )
    assert (resources.cores(), resources.free_memory()) == (cores, free)
