"""A container's limits count as the machine's."""

from types import SimpleNamespace

import psutil
import pytest

from experiment.settings import resources

GB = 10**9
CPU, MEMORY = "cpu,cpuacct/cpu.cfs_", "memory/memory."
V1 = f"{CPU}quota_us {CPU}period_us {MEMORY}limit_in_bytes {MEMORY}usage_in_bytes".split()
V2 = "cpu.max memory.max memory.current memory.stat".split()


def files(names: list[str], *texts: str, group: str = ".") -> dict[str, str]:
    return {f"{group}/{name}": text for name, text in zip(names, texts, strict=False)}


DOCKER = "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n"
V1_NO_LIMIT = files(V1, "-1", "100000", str(2**63 - 4096), "3000")
CACHE = "anon 5\ninactive_file 700\nfile 9"  # which can be dropped
OUTER = files(V2, "50000 100000", "4000", "3000", group="a")
INNER = files(V2, "max 100000", "max", group="a/b")
# The groups of this process, files of groups -> cores, free bytes; on a machine of 8 cores, 64 GB.
CASES = {
    "no container": ("", {}, 8, 64 * GB),
    # Whole cores of 2.5.
    "version 2": ("0::/a\n", files(V2, "250000 100000", "4000", "3000", CACHE, group="a"), 2, 1700),
    # At least one core.
    "limits of the group around": ("0::/a/b\n", OUTER | INNER, 1, 1000),
    # As a container sees itself: its path does not exist below its own root.
    "version 1": (DOCKER, files(V1, "400000", "100000", "5000", "3000"), 4, 2000),
    "version 1 without a limit": ("4:memory:/\n3:cpu,cpuacct:/\n", V1_NO_LIMIT, 8, 64 * GB),
}


@pytest.mark.parametrize("case", CASES)
def test_cores_and_free_memory(case, tmp_path, monkeypatch) -> None:
    membership, contents, cores, free = CASES[case]
    (tmp_path / "membership").write_text(membership)
    for name, text in contents.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    monkeypatch.setattr(resources, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resources, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GB))
    assert (resources.cores(), resources.free_memory()) == (cores, free)
