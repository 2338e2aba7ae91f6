"""What each check of `distdl doctor` says of a machine that is made up, and how several are told."""

import socket
import time

import pytest

from distdl.doctor import between, check, devices, disk, links, machine, services
from distdl.doctor.check import Check
from distdl.doctor.devices import Driver, Torch

GIB = 1 << 30


# --- how it is told ---


def test_a_line_each_and_below_what_is_not_ok_what_to_do():
    checks = [check.ok("cores", "2 of 2"), check.warning("shm", "it is small", "Docker: --shm-size 8g")]

    assert check.shown(checks).splitlines() == [
        "ok       cores  2 of 2",
        "warning  shm    it is small",
        "                -> Docker: --shm-size 8g",
        "",
        "1 ok, 1 to look at, 0 failed",
    ]


def test_the_exit_code_is_1_only_if_something_failed():
    bad = [check.ok("a", ""), check.warning("b", "", "")]

    assert check.exit_code(bad) == 0
    assert check.exit_code([*bad, check.failed("c", "", "")]) == 1


def test_several_faults_are_one_line_as_bad_as_the_worst():
    found = check.worst("disk", "fine", [("warning", "slow", "wait"), ("failed", "full", "delete")])

    assert (found.state, found.text, found.fix) == ("failed", "slow; full", "wait\ndelete")
    assert check.worst("disk", "fine", []).text == "fine"


def test_what_all_machines_say_is_told_once_and_else_with_their_names():
    by_host = {
        "a": [check.ok("cores", "2"), check.ok("shm", "big")],
        "b": [check.ok("cores", "2"), check.warning("shm", "small", "more")],
        "c": [check.ok("cores", "2"), check.ok("shm", "big")],
    }

    found = [(each.name, each.text, each.hosts) for each in check.merge(by_host)]

    assert found == [("cores", "2", []), ("shm", "big", ["a", "c"]), ("shm", "small", ["b"])]


def test_of_many_machines_that_are_well_only_some_are_told():
    checks = check.merge({f"host{i}": [check.ok("runs", f"{i} MB/s")] for i in range(9)})

    lines = check.shown(checks).splitlines()

    assert len(checks) == 9
    assert [line for line in lines if "runs" in line][4:] == [
        "ok       runs  and so on, on the other machines (--json tells all)"
    ]


def test_a_check_survives_its_way_between_workers():
    found = check.warning("shm", "small", "more", details=["a"], values={"bytes": 3})

    assert Check.from_row(found.as_row()) == found


# --- cores, limits, shared memory ---


def test_fewer_cores_by_the_cgroup_than_by_affinity_is_a_warning():
    found = machine.check_cores(16, 64, 2.0)

    assert found.state == "warning"
    assert "16 of 64 cores, but the cgroup gives time for 2" in found.text
    assert "OMP_NUM_THREADS=2" in found.fix


def test_all_cores_are_ok():
    assert machine.check_cores(2, 2, None).text == "2 of 2 cores, no cgroup quota"


def test_a_quota_of_version_2_is_the_least_on_the_way_up(tmp_path):
    own, inner = tmp_path / "self", tmp_path / "cgroup/job/step"
    own.write_text("0::/job/step\n")
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (inner.parent / "cpu.max").write_text("150000 100000\n")

    assert machine.cgroup_quota(tmp_path / "cgroup", own) == 1.5


def test_a_quota_of_version_1_is_found_from_within_a_container_too(tmp_path):
    own, folder = tmp_path / "self", tmp_path / "cgroup/cpu,cpuacct"
    own.write_text("5:cpu,cpuacct:/docker/0123\n3:memory:/docker/0123\n")
    folder.mkdir(parents=True)  # a container sees its own cgroup as the root
    (folder / "cpu.cfs_quota_us").write_text("400000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")

    assert machine.cgroup_quota(tmp_path / "cgroup", own) == 4.0


def test_no_limit_is_no_quota(tmp_path):
    (tmp_path / "self").write_text("5:cpu:/\n")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")

    assert machine.cgroup_quota(tmp_path, tmp_path / "self") is None


def test_numa_nodes_and_those_of_the_gpus_are_listed(tmp_path):
    for number, cores in ((1, "16-31"), (0, "0-15")):
        (tmp_path / f"node/node{number}").mkdir(parents=True)
        (tmp_path / f"node/node{number}/cpulist").write_text(f"{cores}\n")
    (tmp_path / "gpus/0000:3b:00.0").mkdir(parents=True)
    (tmp_path / "pci/0000:3b:00.0").mkdir(parents=True)
    (tmp_path / "pci/0000:3b:00.0/numa_node").write_text("1\n")

    nodes = machine.numa_nodes(tmp_path / "node")
    found = machine.check_numa(nodes, machine.gpu_nodes(tmp_path / "gpus", tmp_path / "pci"))

    assert found.text == "2 nodes: cores 0-15 | 16-31; GPUs on node 1"


@pytest.mark.parametrize(
    ("soft", "has_infiniband", "said"),
    [
        ({"nofile": 1024}, False, "1024 open files"),
        ({"nproc": 100}, False, "100 processes and threads"),
        ({"memlock": 8 << 20}, True, "8 MiB of locked memory"),
        ({"as": 4 << 30}, False, "4,096 MiB of address space"),
    ],
)
def test_small_limits_are_warnings_with_the_line_that_lifts_them(soft, has_infiniband, said):
    found = machine.check_limits(soft, has_infiniband=has_infiniband)

    assert found.state == "warning" and said in found.text and "ulimit -" in found.fix


def test_locked_memory_is_for_infiniband_alone():
    found = machine.check_limits({"nofile": 65536, "memlock": 65536, "as": None}, has_infiniband=False)

    assert found.state == "ok"
    assert found.text == "files 65,536, locked bytes 65,536, address space unlimited"


def test_shared_memory_that_is_not_there_is_told(tmp_path):
    assert machine.check_shm(tmp_path / "none").state == "warning"


# --- disks ---


def test_a_run_folder_is_measured_and_nothing_is_left_in_it(tmp_path):
    found = disk.check_runs(tmp_path / "runs")

    assert "not there yet; in " in found.text and "writes" in found.text
    assert found.values["bytes_per_s"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "state", "said"),
    [
        ({}, "ok", "runs/"),
        ({"free_bytes": 4 * GIB}, "warning", "runs/"),
        ({"free_bytes": GIB // 8}, "failed", "runs/"),
        ({"free_inodes": 12}, "warning", "12 more files can be made"),
        ({"free_inodes": None}, "ok", "runs/"),
        ({"bytes_per_s": 1e6}, "warning", "runs/"),
    ],
)
def test_little_space_few_inodes_and_a_slow_disk_are_told(values, state, said):
    good = {"free_bytes": 100 * GIB, "free_inodes": 10**6, "bytes_per_s": 1e9}

    found = disk.judge("runs", "runs/", good | values, is_written=True)

    assert (found.state, found.text) == (state, said)


def test_a_full_disk_is_no_matter_where_data_is_only_read():
    values = {"free_bytes": 0, "free_inodes": 0, "bytes_per_s": 1e9}

    assert disk.judge("data", "data/", values, is_written=False).state == "ok"


def test_data_is_read_from_a_file_that_is_there(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/000000.tar").write_bytes(bytes(2 << 20))

    assert disk.check_data(tmp_path).values["bytes_per_s"] > 0
    assert disk.check_data(tmp_path / "nowhere").state == "failed"


def test_quota_marks_what_is_over_the_limit():
    said = (
        "Disk quotas for user me (uid 1000):\n"
        "     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace\n"
        "     /dev/sda1  1200*   1000    2000   6days      12       0       0        0\n"
        "     /dev/sdb1   900    1000    2000       0      12       0       0        0\n"
    )

    assert disk.over_quota(said) == ["/dev/sda1"]


# --- devices ---


H100 = Driver(version="550.54", cuda="12.4", gpus=("NVIDIA H100", "NVIDIA H100"))
FOR_CUDA = Torch(version="2.11.0+cu126", cuda="12.6", n_devices=2)


@pytest.mark.parametrize(
    ("driver", "torch", "n_gpus", "state", "said"),
    [
        (None, Torch(version="2.13.0+cpu"), 0, "ok", "no GPU: it trains on the CPU"),
        (None, Torch(version="2.13.0+cpu"), 2, "failed", "2 GPUs in /dev, but no NVIDIA driver"),
        (H100, FOR_CUDA, 2, "ok", "2 x NVIDIA H100, driver 550.54 for CUDA up to 12.4"),
        (H100, Torch(version="2.13.0+cpu"), 2, "warning", "built without CUDA"),
        (H100, Torch(version="2.13.0+cu130", cuda="13.0"), 2, "failed", "built for CUDA 13.0"),
        (H100, Torch(version="2.11.0", cuda="12.6", n_devices=1), 2, "warning", "can use 1 of 2"),
        (H100, Torch(version="2.11.0", cuda="12.6"), 2, "failed", "can use 0 of 2"),
        (Driver(version="550.54", problem="Driver/library version mismatch"), FOR_CUDA, 2, "failed", "mismatch"),
    ],
)
def test_gpus_driver_and_torch_have_to_fit_together(driver, torch, n_gpus, state, said):
    found = devices.check_devices(driver, torch, n_gpus)

    assert found.state == state and said in found.text


def test_the_driver_is_asked_what_it_is(tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = -L ]; then echo "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)"; else\n'
        'echo "| NVIDIA-SMI 550.54   Driver Version: 550.54.15   CUDA Version: 12.4 |"; fi\n'
    )
    program.chmod(0o755)

    found = devices.find_driver(tmp_path / "none", str(program))

    assert found == Driver(version="550.54.15", cuda="12.4", gpus=("NVIDIA H100 80GB HBM3",))


def test_a_driver_that_is_loaded_but_does_not_answer_has_a_problem(tmp_path):
    program, version = tmp_path / "nvidia-smi", tmp_path / "version"
    program.write_text("#!/bin/sh\necho Failed to initialize NVML: Driver/library version mismatch\nexit 18\n")
    program.chmod(0o755)
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 2023\n")

    found = devices.find_driver(version, str(program))

    assert found and found.version == "535.104.05" and "mismatch" in found.problem
    assert devices.find_driver(tmp_path / "none", str(tmp_path / "none")) is None


@pytest.mark.parametrize(
    ("version", "is_within"),
    [("2.11.0+cpu", True), ("2.13.1", True), ("2.10.2", False), ("2.14.0a0+git1", False), ("3.0", False)],
)
def test_torch_has_to_be_within_the_bounds_of_the_installation(version, is_within):
    found = devices.check_torch(Torch(version=version), ["numpy>=1.26", "torch<2.14,>=2.11"])

    assert (found.state == "ok") == is_within


def test_a_torch_that_can_not_be_imported_is_told_without_a_traceback():
    found = devices.check_torch(Torch(problem="libcudart.so.12: cannot open shared object file"), [])

    assert found.state == "failed" and "libcudart.so.12" in found.text


@pytest.mark.parametrize(
    ("available", "has_gpu", "state"),
    [
        ({"gloo": True, "nccl": False, "mpi": False}, False, "ok"),
        ({"gloo": True, "nccl": False, "mpi": False}, True, "warning"),
        ({"gloo": False, "nccl": True, "mpi": False}, True, "failed"),
    ],
)
def test_gloo_is_needed_and_nccl_with_gpus(available, has_gpu, state):
    assert devices.check_backends(available, has_gpu=has_gpu).state == state


# --- wandb, launchers ---


def never(url: str) -> str:
    raise AssertionError("nobody should be asked")


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_wandb_asks_nobody_where_it_is_told_not_to(mode):
    assert services.check_wandb({"WANDB_MODE": mode}, is_installed=True, reach=never).state == "ok"


@pytest.mark.parametrize(
    ("key", "problem", "state"),
    [("", "", "ok"), ("", "no answer", "ok"), ("k", "", "ok"), ("k", "no answer", "warning")],
)
def test_wandb_out_of_reach_matters_to_who_is_logged_in(key, problem, state):
    said = services.check_wandb({"WANDB_API_KEY": key}, is_installed=True, reach=lambda url: problem)

    assert said.state == state


def test_a_server_that_never_answers_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        found = services.cannot_reach(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)

    assert found and time.monotonic() - began < 20


def test_a_job_of_slurm_is_told():
    job = {"SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "2"}

    found = services.check_launchers(job, lambda name: name if name in ("srun", "mpirun") else None)

    assert found.text == "Slurm (in job 17, 2 nodes), MPI (mpirun)"


# --- between machines ---


NAMES = {0: "a", 1: "b", 4: "c", 6: "d"}
ALL = {(a, b) for a in NAMES for b in NAMES if a != b}


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
def test_every_pair_is_measured_once_and_nobody_twice_at_a_time(n):
    found = list(links.rounds(range(n)))

    assert sorted(pair for pairs in found for pair in pairs) == [(a, b) for a in range(n) for b in range(a + 1, n)]
    assert all(len({place for pair in pairs for place in pair}) == 2 * len(pairs) for pairs in found)
    assert len(found) == n - 1 + n % 2


def test_one_way_is_told_with_its_direction():
    answered = ALL - {(1, 4), (4, 1)}

    found = links.check_reach(NAMES, answered, heard=ALL - {(4, 1)})

    assert found.state == "failed"
    assert found.text == "the link is one-way: what b sends arrives at c, but nothing comes back"
    assert links.check_reach(NAMES, answered, heard=answered).text == "b and c do not reach each other"
    assert links.check_reach(NAMES, ALL, heard=ALL).text == "all 6 pairs of machines reach each other both ways"


def test_a_machine_whose_links_are_all_slow_is_named():
    rates = {link: 10e6 if 6 in link else 9e9 for link in ALL}

    found = links.check_rates(NAMES, rates)

    assert found.state == "warning"
    assert found.text == "d is slow (both ways): 10 Mbit/s, where the others have 9 Gbit/s"


def test_with_three_machines_the_slow_one_is_named_though_most_links_are_slow():
    rates = {(a, b): 10e6 if 2 in (a, b) else 1e9 for a in range(3) for b in range(3) if a != b}

    found = links.check_rates({0: "a", 1: "b", 2: "c"}, rates)

    assert found.values["slow"] == ["c is slow (both ways): 10 Mbit/s"]


def test_a_machine_that_only_sends_slowly_is_told_so():
    rates = {link: 50e6 if link[0] == 6 else 9e9 for link in ALL}

    assert links.check_rates(NAMES, rates).values["slow"] == ["d is slow (what it sends): 50 Mbit/s"]


def test_one_slow_link_among_good_ones_is_named_alone():
    rates = {link: 1e8 if link == (1, 4) else 9e9 for link in ALL}

    assert links.check_rates(NAMES, rates).values["slow"] == ["b -> c is slow: 100 Mbit/s"]


def test_two_machines_are_measured_against_what_is_sensible():
    names = {0: "a", 1: "b"}

    assert links.check_rates(names, {(0, 1): 94e7, (1, 0): 94e7}).state == "ok"
    slow = links.check_rates(names, {(0, 1): 9e6, (1, 0): 94e7})
    assert slow.text == "a -> b is slow: 9 Mbit/s, where the others have 940 Mbit/s"


def test_rates_that_differ_a_little_are_ok():
    rates = {link: 4e9 + 1e9 * link[0] for link in ALL}

    assert links.check_rates(NAMES, rates).state == "ok"


def test_a_late_link_is_named():
    round_trips = {link: 30e-3 if set(link) == {0, 1} else 2e-4 for link in ALL}

    assert links.check_latency(NAMES, round_trips).text == "a - b 30 ms, where 0.2 ms are usual"
    assert links.check_latency(NAMES, dict.fromkeys(ALL, 2e-4)).state == "ok"


def test_a_clock_that_is_off_is_told():
    found = links.check_clocks(NAMES, {1: 0.01, 4: -61.0})

    assert (found.state, found.text) == ("warning", "c is 61 s behind a")


def test_workers_of_one_machine_are_one_place_and_unlike_ones_of_one_name_are_told_apart():
    def worker(host, address):
        return {"host": host, "addresses": [address]}

    told = [worker("vm", "10.0.0.1"), worker("vm", "10.0.0.1"), worker("vm", "10.0.0.2"), None, worker("b", "10.0.0.3")]

    places = between.find_places(told)

    assert [(place.rank, place.host) for place in places] == [(0, "vm (10.0.0.1)"), (2, "vm (10.0.0.2)"), (4, "b")]
    assert "4 of 5 on 3 machines: rank 3 did not come within 60 s" in between.check_workers(told, 3, 60.0).text


def test_unlike_versions_are_told():
    told = [{"host": host, "versions": {"torch": version}} for host, version in (("a", "2.11.0"), ("b", "2.12.0"))]

    assert between.check_versions(told).text == "torch 2.11.0 on a, torch 2.12.0 on b"
