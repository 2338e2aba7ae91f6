"""System metrics: the kernel's counters turned into shares and rates, and a thread that never disturbs the training."""

import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from distdl.track import system
from distdl.track.system import Counters, SystemMeter, read_counters, read_gpus, sample


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """proc and sys of a machine with one disk of two partitions, a network card, and a job of processes 100 to 102."""
    files = {
        "proc/stat": "cpu  100 0 50 800 50 0 0 0 7 0\ncpu0 1 1 1 1\n",
        "proc/meminfo": "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  600 kB\n",
        "proc/loadavg": "1.50 0.30 1.77 1/96 31194\n",
        "proc/diskstats": (
            " 259 0 nvme0n1 10 0 1000 5 20 0 400 7 0 0 0\n"
            " 259 1 nvme0n1p1 4 0 600 5 8 0 400 7 0 0 0\n"
            " 252 0 dm-0 10 0 1000 5 20 0 400 7 0 0 0\n"
        ),
        "proc/net/dev": (
            "Inter-|   Receive                    |  Transmit\n"
            " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop\n"
            "    lo: 9999 1 0 0 0 0 0 0 9999 1 0 0\n"
            "  eth0:7000 1 0 0 0 0 0 0 300 1 0 0\n"
            "docker0: 7000 1 0 0 0 0 0 0 300 1 0 0\n"
        ),
        "proc/self/stat": "not a process of its own",
    }
    # pid: name, parent, user and system ticks, start time, pages
    processes = {
        1: ("init", 0, 1000, 1000, 0, 9),
        100: ("distdl", 1, 10, 5, 70, 3),
        101: ("a) R (b", 100, 20, 5, 80, 4),
        102: ("writer", 101, 30, 5, 90, 5),
    }
    for pid, (name, parent, user, kernel, started, pages) in processes.items():
        files[f"proc/{pid}/stat"] = (
            f"{pid} ({name}) S {parent} 1 1 0 -1 0 0 0 0 0 {user} {kernel} 0 0 20 0 1 0 {started} 12345 {pages} 99"
        )
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("sys/block/nvme0n1", "sys/block/dm-0", "sys/class/net/eth0/device", "sys/class/net/docker0"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def test_what_is_read_from_the_kernel(root: Path) -> None:
    counters = read_counters(100, root)

    assert counters.cpu_ticks == (150, 1000)
    assert counters.memory_used_bytes == 400 * 1024 and counters.load_1min == 1.5
    assert counters.bytes == {
        "disk_read": 1000 * 512,  # of the whole disk, and neither its partitions nor what is stacked on it
        "disk_write": 400 * 512,
        "network_receive": 7000,  # of the card, and not of the bridge behind it
        "network_send": 300,
    }


def test_a_job_is_a_process_and_all_that_descend_from_it(root: Path) -> None:
    counters = read_counters(100, root)

    assert counters.job_ticks == {(100, 70): 15, (101, 80): 25, (102, 90): 35}
    assert counters.job_memory_bytes == (3 + 4 + 5) * os.sysconf("SC_PAGE_SIZE")


def test_a_container_without_disks_and_cards_still_has_the_rest(root: Path) -> None:
    (root / "proc/diskstats").unlink()
    (root / "sys/class/net/eth0/device").rmdir()

    counters = read_counters(100, root)

    assert counters.bytes["disk_read"] == 0
    assert counters.bytes["network_receive"] == 14_000  # no card: all but the loopback


BEFORE = Counters(
    time_s=10.0,
    cpu_ticks=(100, 1000),
    job_ticks={(1, 1): 50, (2, 2): 40},
    job_memory_bytes=5,
    memory_used_bytes=6,
    load_1min=0.5,
    bytes={"disk_read": 1000},
)


def test_shares_and_rates_are_those_between_two_looks() -> None:
    now = dataclasses.replace(
        BEFORE,
        time_s=12.0,
        cpu_ticks=(400, 2000),
        job_ticks={(1, 1): 150, (3, 3): 20},  # 2 has ended, 3 is new
        job_memory_bytes=7,
        memory_used_bytes=8,
        load_1min=1.5,
        bytes={"disk_read": 5000},
    )

    assert sample(BEFORE, now) == {
        "cpu_percent": 30.0,
        "job_cpu_percent": 12.0,
        "load_1min": 1.5,
        "memory_used_bytes": 8,
        "job_memory_bytes": 7,
        "disk_read_bytes_per_s": 2000.0,
    }


def test_this_very_process_is_seen_to_work() -> None:
    before = read_counters(os.getpid())
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass

    seen = sample(before, read_counters(os.getpid()))

    assert 0 < seen["job_cpu_percent"] <= 100
    assert 5e6 < seen["job_memory_bytes"] < seen["memory_used_bytes"] * 2


def test_children_count_as_the_job() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in {pid for pid, _ in read_counters(os.getpid()).job_ticks}
        child.communicate(b"\n")


# --- the thread ---


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_row_is_the_mean_of_the_samples_since_the_last_one() -> None:
    watts = iter([100.0, 300.0])
    seen = threading.Semaphore(0)

    def gpus() -> dict[str, float]:
        value = next(watts, None)
        seen.release()
        return {} if value is None else {"gpu0_power_w": value}

    meter = SystemMeter(0.001, lambda: BEFORE, gpus)
    for _ in range(4):
        seen.acquire(timeout=10)
    meter.close()

    first = meter.take()

    assert first["gpu0_power_w"] == 200.0 and first["memory_used_bytes"] == 6


def test_between_two_samples_there_is_nothing_to_take() -> None:
    meter = SystemMeter(3600, lambda: BEFORE, dict)

    assert meter.take() == {}
    meter.close()


def test_a_look_that_hangs_is_not_waited_for() -> None:
    release = threading.Event()

    def hang() -> dict[str, float]:
        release.wait(10)
        return {}

    meter = SystemMeter(0.001, lambda: BEFORE, hang)
    began = time.perf_counter()
    taken = meter.take()
    meter.close()

    assert taken == {} and time.perf_counter() - began < 8
    release.set()


def test_a_failure_is_kept_as_a_sentence() -> None:
    def fail() -> Counters:
        raise ValueError("could not convert '?' to int")

    meter = SystemMeter(0.001, fail, dict)

    wait_for(lambda: meter.fault)
    assert "off for the rest of this run: ValueError: could not convert" in str(meter.fault)


def test_it_can_be_switched_off() -> None:
    assert system.start(None) is None


@pytest.mark.parametrize("is_worker", [True, False])
def test_a_workers_job_is_what_its_launcher_started(monkeypatch: pytest.MonkeyPatch, is_worker: bool) -> None:
    jobs: list[int] = []

    def note(job: int) -> Counters:
        jobs.append(job)
        return BEFORE

    monkeypatch.setattr(system, "read_counters", note)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if is_worker:
        monkeypatch.setenv("LOCAL_RANK", "0")

    meter = system.start("1 h")

    wait_for(lambda: jobs)
    assert jobs == [os.getppid() if is_worker else os.getpid()]
    assert meter is not None
    meter.close()


# --- GPUs ---


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in the place of nvidia-smi, which notes its arguments."""
    script = tmp_path / "nvidia-smi"
    script.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n'
        "echo '0, 97, 40960, 61, 412.55'\necho '3, [N/A], 1024, 35, [Not Supported]'\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return script


def test_gpus_are_asked_of_nvidia_smi_and_what_it_does_not_know_is_left_out(smi: Path) -> None:
    assert read_gpus() == {
        "gpu0_utilisation_percent": 97,
        "gpu0_memory_bytes": 40960 << 20,
        "gpu0_temperature_c": 61,
        "gpu0_power_w": 412.55,
        "gpu3_memory_bytes": 1 << 30,
        "gpu3_temperature_c": 35,
    }
    asked = smi.with_name("asked").read_text()
    assert "--query-gpu=index,utilization.gpu,memory.used,temperature.gpu,power.draw" in asked and "-i" not in asked


def test_only_the_visible_gpus_are_asked_for(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")

    read_gpus()

    assert smi.with_name("asked").read_text().endswith("-i 0,3\n")


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hidden_gpus_are_not_asked_for(smi: Path, monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert read_gpus() == {}


@pytest.mark.parametrize(
    "script", ["#!/bin/sh\necho 'GPU is lost' >&2; exit 15", "#!/bin/sh\nsleep 60", "not a program"]
)
def test_a_driver_that_fails_or_hangs_means_no_numbers(smi: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(system, "_SMI_TIMEOUT_S", 0.2)
    smi.write_text(script)

    assert read_gpus() == {}
