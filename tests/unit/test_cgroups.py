"""Limits of control groups, of both versions, in a container and outside; each machine here is a folder of files."""

from pathlib import Path

import pytest

from distdl.run import cgroups


def machine(path: Path, groups: str, mounts: list[str], files: dict[str, str]) -> Path:
    """The folder of a process in /proc. `mounts`: lines of mountinfo, with {} for the folder that groups lie in."""
    proc = path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    (proc / "mountinfo").write_text("".join(f"{line.replace('{}', str(path))}\n" for line in mounts))
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return proc


def v2(path: Path, files: dict[str, str], group: str = "/job/step") -> Path:
    return machine(path, f"0::{group}\n", ["31 23 0:28 / {}/groups rw,relatime shared:9 - cgroup2 cgroup2 rw"], files)


def v1(path: Path, files: dict[str, str]) -> Path:
    mounts = [
        "32 31 0:29 / {}/groups/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
        "35 31 0:32 / {}/groups/memory rw - cgroup cgroup rw,memory",
        "41 31 0:38 / {}/groups/unified rw - cgroup2 cgroup2 rw",
    ]
    return machine(path, "4:memory:/job/step\n2:cpu,cpuacct:/job/step\n0::/job/step\n", mounts, files)


def test_the_tightest_limit_on_the_way_up_holds(tmp_path):
    proc = v2(
        tmp_path,
        {
            "groups/job/step/memory.max": "max\n",
            "groups/job/memory.max": "1048576\n",
            "groups/memory.max": "2097152\n",
            "groups/job/step/cpu.max": "max 100000\n",
            "groups/job/cpu.max": "250000 100000\n",
            "groups/job/pids.max": "100\n",
        },
    )

    assert cgroups.folders("memory", proc)[0] == tmp_path / "groups/job/step"
    assert cgroups.memory_limit(proc) == 1 << 20
    assert cgroups.cpu_quota(proc) == 2.5
    assert cgroups.most_processes(proc) == 100


def test_version_1_has_a_folder_for_each_controller(tmp_path):
    proc = v1(
        tmp_path,
        {
            "groups/memory/job/step/memory.limit_in_bytes": "9223372036854771712\n",
            "groups/memory/job/memory.limit_in_bytes": "1048576\n",
            "groups/cpu,cpuacct/job/step/cpu.cfs_quota_us": "150000\n",
            "groups/cpu,cpuacct/job/step/cpu.cfs_period_us": "100000\n",
            "groups/cpu,cpuacct/job/cpu.cfs_quota_us": "-1\n",
            "groups/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
        },
    )

    assert cgroups.memory_limit(proc) == 1 << 20
    assert cgroups.cpu_quota(proc) == 1.5


@pytest.mark.parametrize("seen", ["/docker/ab/step", "/../../elsewhere"])
def test_a_container_sees_its_own_group_at_the_top(tmp_path, seen):
    """Its mount begins at its group, wherever that lies, and it may be told a path from outside."""
    mounts = ["31 23 0:28 /docker/ab {}/groups rw - cgroup2 cgroup2 rw"]
    proc = machine(tmp_path, f"0::{seen}\n", mounts, {"groups/memory.max": "4096\n"})

    assert cgroups.memory_limit(proc) == 4096


def test_no_limit_and_no_groups_are_none(tmp_path):
    (tmp_path / "bare").mkdir()
    unlimited = v2(
        tmp_path / "bare", {"groups/job/step/memory.max": "max\n", "groups/job/step/cpu.max": "max 100000\n"}
    )

    for proc in (unlimited, tmp_path / "nowhere"):
        assert cgroups.memory_limit(proc) is cgroups.cpu_quota(proc) is cgroups.most_processes(proc) is None
        assert cgroups.n_out_of_memory_kills(proc) is None
