"""Cores and threads of workers, on machines that are folders of files: two sockets, eight cores, two GPUs a socket."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from distdl.launch import binding, plan

GPUS = ["0000:1a:00.0", "0000:1b:00.0", "0000:81:00.0", "0000:82:00.0"]
UUID = "8932f937-d72c-4106-c12f-20bd9faed9f6"


@pytest.fixture
def root(tmp_path) -> Path:
    """Node 0 has cores 0-3 and their second threads 8-11, node 1 has 4-7 and 12-15."""
    for number, gpu in enumerate(GPUS):
        write(tmp_path / f"sys/bus/pci/devices/{gpu}/numa_node", f"{number // 2}\n")
        information = (
            f"Model:           NVIDIA H100\nGPU UUID:        GPU-{UUID[:-1]}{number}\nDevice Minor:    {number}\n"
        )
        write(tmp_path / f"proc/driver/nvidia/gpus/{gpu}/information", information)
    for node, cores in enumerate(("0-3,8-11", "4-7,12-15")):
        write(tmp_path / f"sys/devices/system/node/node{node}/cpulist", f"{cores}\n")
    for core in range(16):
        siblings = f"{core % 8},{core % 8 + 8}\n"
        write(tmp_path / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list", siblings)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)


@pytest.fixture
def process(monkeypatch):
    """What this process was given, and in `.bound` what it was bound to. Its parent has all 16 cores."""

    found = SimpleNamespace(given=set(range(16)), of_parent=set(range(16)), bound=None)

    def bind(thread, cores):
        found.bound = set(cores)

    binding._given.cache_clear()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: found.of_parent if pid == os.getppid() else found.given)
    monkeypatch.setattr(os, "sched_setaffinity", bind)
    monkeypatch.setattr(binding.cgroups, "cpu_quota", lambda proc: None)
    yield found
    binding._given.cache_clear()


# --- binding ---


def test_workers_share_the_cores_beside_their_gpus_core_by_core(root, process):
    parts = [binding.bind(rank, GPUS, n_needed=4, root=root) for rank in range(4)]

    assert [binding.as_list(part.cores) for part in parts] == ["0-1,8-9", "2-3,10-11", "4-5,12-13", "6-7,14-15"]
    assert process.bound == {6, 7, 14, 15}
    assert str(parts[3]) == "bound to cores 6-7,14-15 of memory node 1, beside GPU 0000:82:00.0"


def test_a_part_that_is_too_small_is_not_cut_off(root, process):
    found = binding.bind(1, GPUS, n_needed=6, root=root)

    assert binding.as_list(found.cores) == "0-3,8-11"
    assert "shared by 2 workers" in str(found)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (range(4, 8), "0 of the cores given are beside GPU 0000:1a:00.0"),  # those of the other socket
        (range(4), "all cores given are beside GPU"),
    ],
)
def test_what_would_leave_too_few_cores_or_change_nothing_is_not_done(root, process, given, why):
    process.given = process.of_parent = set(given)

    found = binding.bind(0, GPUS[:1], n_needed=2, root=root)

    assert not found.is_bound and process.bound is None
    assert why in str(found)


def test_without_a_gpu_or_memory_nodes_nothing_is_bound(root, process):
    assert str(binding.bind(0, [None, None], n_needed=1, root=root)) == "not bound: no GPU"
    (root / f"sys/bus/pci/devices/{GPUS[0]}/numa_node").write_text("-1\n")
    assert "isn't known" in str(binding.bind(0, GPUS, n_needed=1, root=root))
    assert "isn't known" in str(binding.bind(0, ["0000:ff:00.0"], n_needed=1, root=root))
    assert process.bound is None


def test_a_worker_whose_launcher_has_bound_it_is_left_alone(root, process):
    process.given = {4, 5, 6, 7}

    assert "the launcher has given" in str(binding.bind(0, GPUS, n_needed=1, root=root))
    assert binding.share(4) == 4  # and they are its own


def test_a_gpu_is_found_by_its_uuid(root):
    assert binding.address_of(UUID[:-1] + "2", root) == GPUS[2]
    assert binding.address_of("GPU-" + UUID[:-1] + "0", root) == GPUS[0]
    assert binding.address_of("0-0", root) is None


def test_lists_of_cores_are_read_and_written_as_the_kernel_does():
    for text in ("0-3,8-11", "5", "", "0,2,4-5"):
        assert binding.as_list(binding.of_list(f"{text}\n")) == text


# --- cores and threads ---


@pytest.mark.parametrize(("quota", "cores"), [(None, 16), (2.5, 2), (0.5, 1), (64.0, 16)])
def test_a_quota_counts_as_fewer_cores(process, monkeypatch, quota, cores):
    monkeypatch.setattr(binding.cgroups, "cpu_quota", lambda proc: quota)

    assert plan.cores() == binding.cores() == cores
    assert binding.threads(1, {})[0] == cores


def test_a_share_is_the_same_after_binding(root, process):
    before = binding.share(4)
    process.given = set(binding.bind(0, GPUS, n_needed=4, root=root).cores)

    assert before == binding.share(4) == 4


@pytest.mark.parametrize(
    ("environment", "of_launcher", "threads", "by"),
    [
        ({}, None, 4, "share of the cores"),
        ({"OMP_NUM_THREADS": "3"}, None, 3, "OMP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "1"}, None, 1, "OMP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "nonsense"}, None, 4, "share of the cores"),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RESTART_COUNT": "0"}, b"HOME=/root\0", 4, "share of the cores"),
        (
            {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RESTART_COUNT": "0"},
            b"OMP_NUM_THREADS=1\0A=b\0",
            1,
            "OMP_NUM_THREADS",
        ),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RESTART_COUNT": "0"}, None, 4, "share of the cores"),
        ({"OMP_NUM_THREADS": "2", "TORCHELASTIC_RESTART_COUNT": "0"}, None, 2, "OMP_NUM_THREADS"),
    ],
)
def test_what_the_user_has_set_is_told_from_what_a_launcher_has(
    process, tmp_path, environment, of_launcher, threads, by
):
    if of_launcher is not None:
        (tmp_path / "environ").write_bytes(of_launcher)

    assert binding.threads(4, environment, parent=tmp_path) == (threads, by)


def test_too_few_cores_for_decoding_and_computing_are_told_with_the_key(process):
    assert binding.too_few(4, n_threads=4, n_loading=4) is None  # the default: they take turns
    assert "set data.workers=4," in binding.too_few(4, n_threads=1, n_loading=12)
    assert "set train.threads=4," in binding.too_few(4, n_threads=16, n_loading=2)
    assert "set --nproc 16," in binding.too_few(64, n_threads=1, n_loading=1)
