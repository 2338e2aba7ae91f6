"""Who sent a SIGKILL, told from what the kernel counts and logs; each machine here is a folder of files."""

import time
from pathlib import Path

import pytest

from distdl.run import oom


class Machine:
    """What /proc, the control groups and the kernel's log say."""

    def __init__(self, path: Path, version: int) -> None:
        self.proc, self.log, self._group = path / "proc", path / "kmsg", path / "groups/job"
        (self.proc / "self").mkdir(parents=True)
        self._group.mkdir(parents=True)
        self._counter = "memory.events" if version == 2 else "memory.oom_control"
        line, kind, options = ("0::/job", "cgroup2", "rw") if version == 2 else ("4:memory:/job", "cgroup", "rw,memory")
        (self.proc / "self/cgroup").write_text(f"{line}\n")
        mount = f"35 31 0:32 / {path / 'groups'} rw,relatime - {kind} cgroup {options}\n"
        (self.proc / "self/mountinfo").write_text(mount)
        (self._group / ("memory.max" if version == 2 else "memory.limit_in_bytes")).write_text(f"{512 << 20}\n")
        self.kills(in_group=0, on_machine=3)

    def kills(self, in_group: int | None, on_machine: int | None) -> None:
        group = "" if in_group is None else f"oom_kill {in_group}\n"
        (self._group / self._counter).write_text(f"under_oom 0\n{group}")
        (self.proc / "vmstat").write_text("pgfault 7\n" + ("" if on_machine is None else f"oom_kill {on_machine}\n"))

    def logs(self, pid: int, *, of_group: bool, ago_s: float = 0.0) -> None:
        what = "Memory cgroup out of memory" if of_group else "Out of memory"
        stamp = int((time.monotonic() - ago_s) * 1e6)
        text = f"{what}: Killed process {pid} (python) total-vm:217340kB, anon-rss:57344kB, file-rss:1024kB, UID:0"
        self.log.write_text(f"6,339,5140900,-;booted\n3,340,{stamp},-;{text}\n SUBSYSTEM=x\n")


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def machine(tmp_path, request) -> Machine:
    return Machine(tmp_path, request.param)


def judged(machine: Machine, before: oom.Kills, pid: int = 77) -> oom.Judgement:
    return oom.judge(pid, before, machine.proc, machine.log)


def test_a_count_of_the_own_group_that_rose_convicts_the_kernel(machine):
    before = oom.count(machine.proc)
    machine.kills(in_group=1, on_machine=4)

    found = judged(machine, before)

    assert (found.verdict, found.message) == ("yes", "out of memory: killed by the kernel (cgroup limit 512 MiB)")


def test_counts_that_stand_still_clear_the_kernel(machine):
    found = judged(machine, oom.count(machine.proc))

    assert found.verdict == "no"
    assert found.message.startswith("killed by SIGKILL (not by the kernel's out-of-memory killer")


def test_a_kill_elsewhere_on_the_machine_leaves_it_open(machine):
    before = oom.count(machine.proc)
    machine.kills(in_group=0, on_machine=4)

    assert judged(machine, before).message == "killed by SIGKILL, perhaps out of memory"


def test_a_kernel_that_counts_nothing_leaves_it_open(machine):
    machine.kills(in_group=None, on_machine=None)

    assert judged(machine, oom.count(machine.proc)).verdict == "perhaps"


def test_the_kernels_log_names_the_process_and_what_it_had(machine):
    before = oom.count(machine.proc)
    machine.logs(77, of_group=True)

    assert judged(machine, before).message == (
        "out of memory: killed by the kernel (cgroup limit 512 MiB, of which it had 57 MiB)"
    )
    assert judged(machine, before, pid=78).verdict == "no"


def test_a_machine_that_was_full_is_told_from_a_group_that_was(machine):
    before = oom.count(machine.proc)
    machine.logs(77, of_group=False)

    assert "killed by the kernel (the machine's " in judged(machine, before).message


def test_an_earlier_process_of_the_same_number_is_another_one(machine):
    before = oom.count(machine.proc)
    machine.logs(77, of_group=True, ago_s=60)

    assert judged(machine, before).verdict == "no"


def test_without_proc_nothing_is_known(tmp_path):
    before = oom.count(tmp_path)

    assert (before.in_group, before.on_machine) == (None, None)
    assert oom.judge(77, before, tmp_path, tmp_path / "kmsg").verdict == "perhaps"
