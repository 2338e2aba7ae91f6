"""Fault: memory runs out, in a worker or in a process that decodes for one, by the kernel's killer or by `ulimit -v`.

The last words say so, with the limit and what to do, within seconds; a restart goes on from the last checkpoint.
"""

import json
import os
import sys
import time
import uuid
from pathlib import Path

import pytest

from distdl.run import cgroups

pytestmark = pytest.mark.timeout(120)

LIMIT_MIB = 1500  # two workers, their store and a loader process take two thirds of it
ADDRESS_SPACE_MIB = 2500
DISTDL = (sys.executable, "-m", "distdl")


@pytest.fixture
def group():
    """A control group of memory with a limit, below this process's own: what starts a command in it."""
    if os.geteuid():
        pytest.skip("only root can make control groups here")
    own = next(iter(cgroups.folders("memory")), None)
    folder = own / f"distdl-test-{uuid.uuid4().hex[:8]}" if own else None
    name = next((each for each in ("memory.max", "memory.limit_in_bytes") if own and _is_offered(own, each)), None)
    if folder is None or name is None:
        pytest.skip("no memory controller of control groups here")
    folder.mkdir()
    try:
        (folder / name).write_text(str(LIMIT_MIB << 20))
        yield ("sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh", *DISTDL)
    finally:
        _remove(folder)


def _is_offered(own: Path, name: str) -> bool:
    """Version 1 has the limit in every group; version 2 in the groups below one that hands it down."""
    if name == "memory.max":
        handed_down = own / "cgroup.subtree_control"
        return handed_down.exists() and "memory" in handed_down.read_text().split()
    return (own / name).exists()


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            return folder.rmdir()
        except OSError:  # a process in it is not gone yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


LIMITED = ("sh", "-c", f'ulimit -v {ADDRESS_SPACE_MIB << 10} && exec "$@"', "sh", *DISTDL)


def fault(place) -> dict[str, str]:
    """Of rank 1, in step 15."""
    once = str(place.path / "struck")
    return {"FAULT": json.dumps({"rank": 1, "where": "train", "nth": 15, "kill": "memory", "once": once})}


def seconds_since(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def hungry_config(place, **changes) -> Path:
    """With a stage that takes all memory of one of the processes that decode."""
    train = {
        "shards": "digits/train",
        "stages": [{"webdataset:decode": "l8"}, {"hungry:stage": None}],
        "transforms": [{"resize": 32}, {"normalise": {"mean": [0.3], "std": [0.37]}}],
    }
    return place.config(data__train=train, data__worker_type="process", data__workers=1, **changes)


def test_fault_41_a_worker_that_the_kernel_kills_for_want_of_memory(place, group):
    config = place.config(model__name="faulty:lenet5", checkpoint__every=10)

    result = place.run("train", config, "--nproc", 2, "--max-restarts", 1, launcher=group, **fault(place))

    assert result.code == 0, result.output
    assert "out of memory: killed by the kernel (cgroup limit 1,500 MiB" in result.output
    assert "starting again from the checkpoint of step 10" in result.output
    assert [row["step"] for row in place.rows("run")] == list(range(1, 41))
    (path,) = (place.path / "runs/run/failures/earlier").glob("*-rank-1.json")
    record = json.loads(path.read_text())
    assert (record["kind"], record["resource"]) == ("signal", "memory")
    assert record["time"] - (place.path / "struck").stat().st_mtime < 5


def test_fault_41_a_loader_process_that_the_kernel_kills_for_want_of_memory(place, group):
    struck = place.path / "struck"

    result = place.run("train", hungry_config(place), "--nproc", 2, launcher=group, HUNGRY=str(struck))

    assert seconds_since(struck) < 5
    assert result.code == 1, result.output
    last = result.output[result.output.rindex("data worker process ") :]
    assert "out of memory: killed by the kernel (cgroup limit 1,500 MiB" in last
    assert "data.prefetch" in last and "--resume" in last


def test_fault_41_a_worker_under_a_limit_on_its_address_space(place):
    config = place.config(model__name="faulty:lenet5", checkpoint__every=10)

    result = place.run("train", config, "--nproc", 2, launcher=LIMITED, **fault(place))

    assert seconds_since(place.path / "struck") < 5
    assert result.code == 1, result.output
    assert "out of memory (address space limited to 2,500 MiB by `ulimit -v`): MemoryError" in result.output
    assert "train.micro_batch" in result.last_line and "ulimit -v" in result.last_line


def test_fault_41_a_loader_process_under_a_limit_on_its_address_space(place):
    struck = place.path / "struck"

    result = place.run("train", hungry_config(place), "--nproc", 1, launcher=LIMITED, HUNGRY=str(struck))

    assert seconds_since(struck) < 5
    assert result.code == 1, result.output
    assert "out of memory (address space limited to 2,500 MiB by `ulimit -v`): MemoryError" in result.output


def test_an_address_space_that_is_too_small_to_begin_in(place):
    """Too small for the libraries, or for their threads: each has words of its own for that."""
    config = place.config()

    for most_mib in (1000, 400):
        launcher = ("sh", "-c", f'ulimit -v {most_mib << 10} && exec "$@"', "sh", *DISTDL)
        result = place.run("train", config, "--nproc", 2, "--name", f"of-{most_mib}", launcher=launcher)

        assert result.code == 1 and result.seconds < 60, result.output
        assert f"out of memory (address space limited to {most_mib:,} MiB by `ulimit -v`)" in result.output
