"""A worker is made to fail in each way that a collective can: who it was and why is told in seconds.

With a stall budget of 5 s. `python benchmarks/watch/faults.py` runs the same faults under torchrun and plain
DistributedDataParallel, beside these.
"""

import json
import re
import sys
import time
from itertools import product

import pytest
from hanging import TOLD, last_words
from mpis import AS_ROOT, OPEN_MPI
from namespaces import Namespaces, on_a_bridge

pytestmark = pytest.mark.timeout(180)

N = {"fast": 3, "tree": 4}  # workers; of a tree all have as many leaves
STALL_S = 5
ANSWER_S = 30  # 6 to 9 on a machine that does nothing else
CHANGES = {
    "model__name": "hanging:lenet5",
    "dist__stall_s": STALL_S,
    "train__global_batch": 48,
    "train__steps": 400,
    "train__eval_every": 10_000,
    "checkpoint__every": 10_000,
}
PYTHON = (sys.executable, "-m")
LAUNCHERS = {
    "distdl": (*PYTHON, "distdl"),
    "distdl over MPI": (*PYTHON, "distdl"),
    "mpirun": (*OPEN_MPI.mpirun, "-n", "{}", *PYTHON, "distdl"),
    "torchrun": (*PYTHON, "torch.distributed.run", "--standalone", "--nproc-per-node", "{}", "-m", "distdl"),
}
SETTINGS = list(product(LAUNCHERS, ["fast", "tree"]))
OURS = ("distdl", "distdl over MPI")
NOT_OTHERS = {"left"}  # to torchrun that worker has ended well
# A worker that is gone is told by mpirun, which ends the others before anybody else could.
TOLD_BY_MPIRUN = {
    "killed": r"rank 1 .* exited on signal 9",
    "left": r"due to process rank 1 .*(\n.*)* exiting improperly",
}
# Of numbers that are longer than their place MPI may write beyond it; what is said of it is right all the same.
CODES_OF_MPIRUN = {"killed": (137,), "other_dtype": (1, 134, 139)}
HANGS = {"stopped", "loop", "input"}  # which end by what the agent does, and by nothing else
# Each fault in one setting, and each setting with some of the faults; `make matrix` runs all of them.
GRID = [
    pytest.param(
        how,
        *setting,
        marks=[
            *([] if number % len(SETTINGS) == place else [pytest.mark.matrix]),
            *([pytest.mark.needs("mpi")] if "mpi" in setting[0].lower() else []),
        ],
    )
    for number, how in enumerate(TOLD)
    for place, setting in enumerate(SETTINGS)
    if setting[0] != "torchrun" or how not in NOT_OTHERS
]


@pytest.mark.parametrize(("how", "launcher", "reduction"), GRID)
def test_a_fault_is_told_with_its_rank_and_cause(place, how, launcher, reduction, record_property):
    fault = {"rank": 1, "after": 6, "how": how, "at": str(place.path / "at")}
    train = ["train", place.config(**CHANGES, dist__reduction=reduction)]
    train += ["--nproc", N[reduction]] if launcher in OURS else []
    train += ["--backend", "mpi"] if "MPI" in launcher else []
    command = [each.format(N[reduction]) for each in LAUNCHERS[launcher]]

    result = place.run(*train, launcher=command, HANG=json.dumps(fault), OMP_NUM_THREADS="1", **AS_ROOT)

    seconds = ended_after(place)
    record_property("seconds", seconds)
    said = last_words(result.output) if launcher in OURS else result.output  # others have words of their own
    told = TOLD_BY_MPIRUN.get(how, TOLD[how]) if launcher == "mpirun" else TOLD[how]
    assert result.code in ((1, 2) if launcher != "mpirun" else CODES_OF_MPIRUN.get(how, (1, 2))), result.output
    assert launcher not in OURS or re.search(r"rank 1 on \S+ (failed|hung)", said), result.output
    assert re.search(told, said), result.output
    if launcher == "torchrun" and how in HANGS:
        assert re.search(r"(?s)Root Cause .*?rank +: 1 ", result.output), result.output
    assert seconds < ANSWER_S
    assert place.gone_within(2)


def test_a_slow_worker_is_told_while_it_is_slow(place):
    fault = {"rank": 1, "after": 6, "how": "slow", "seconds": 0.1, "at": str(place.path / "at")}
    config = place.config(**CHANGES | {"train__steps": 20})

    result = place.run("train", config, "--nproc", 3, HANG=json.dumps(fault))

    assert result.code == 0, result.output
    told = next(row for row in place.rows("run", "event") if row["event"] == "straggler")
    assert re.match(r"rank 1 on \S+ computes for \S+ s a step, the others for", told["message"])
    assert told["step"] <= 16  # a step takes a second
    assert place.rows("run")[-1]["straggler_rank"] == 1 and place.rows("run")[-1]["straggler_cost"] > 0.5


@pytest.mark.needs("namespaces")
@pytest.mark.parametrize("way", ["both ways", "one way"])
def test_a_link_that_carries_nothing_is_told(place, way):
    """Two hosts, of two workers each; what host b sends, or what both send, is lost in the middle of the run."""
    place.config(**CHANGES)
    with Namespaces("a", "b", "bridge") as hosts:
        addresses = on_a_bridge(hosts, "bridge", ["a", "b"])
        workers = [start_worker(place, hosts, addresses, rank) for rank in range(4)]
        assert eventually(lambda: has_taken(place, 5), 60)
        hosts.lose("b", "eth0", addresses["a"])
        if way == "both ways":
            hosts.lose("a", "eth0", addresses["b"])
        cut = time.monotonic()
        screens = [worker.communicate(timeout=60)[1] for worker in workers]
        seconds = time.monotonic() - cut

    told = "\n".join(screens)
    assert re.search(rf"nothing has come from \S+ \({addresses['b']}\)", told), told
    if way == "one way":
        assert re.search(rf"nothing that \S+ \({addresses['b']}\) sends gets to \S+ \({addresses['a']}\)", told), told
    assert "of [" in told, "where the workers wait"
    assert seconds < ANSWER_S
    assert place.gone_within(2)


@pytest.mark.needs("namespaces")
def test_fault_14_a_slow_link_is_no_hang(place):
    """A sum of 240 KB takes 1.3 s at 1.5 Mbit/s, with hundreds of milliseconds of delay in the queue."""
    place.config(**CHANGES | {"train__steps": 14, "dist__stall_s": 2})
    with Namespaces("a", "b", "bridge") as hosts:
        addresses = on_a_bridge(hosts, "bridge", ["a", "b"])
        workers = [start_worker(place, hosts, addresses, rank) for rank in range(4)]
        assert eventually(lambda: has_taken(place, 3), 60)
        hosts.slow_down("b", "eth0", "1500kbit")
        screens = [worker.communicate(timeout=120)[1] for worker in workers]

    assert [worker.returncode for worker in workers] == [0] * 4, "\n".join(screens)
    assert "hang" not in "".join(screens)
    told = [row["message"] for row in place.rows("run", "event") if row["event"] == "straggler"]
    assert told and re.search(rf"on \S+ \({addresses['b']}\) sends slowly", told[0]), told


def start_worker(place, hosts, addresses, rank):
    environment = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % 2),
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": str(rank // 2),
        "MASTER_ADDR": addresses["a"],
        "MASTER_PORT": "29512",
        "OMP_NUM_THREADS": "1",
    }
    command = ["env", "-C", str(place.path), sys.executable, "-m", "distdl", "train", "run.yaml"]
    return hosts.start("ab"[rank // 2], command, {**place.environment, **environment})


def has_taken(place, n_steps):
    return (place.path / "runs/run/metrics.jsonl").exists() and len(place.rows("run")) >= n_steps


def eventually(condition, within_s):
    until = time.monotonic() + within_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


def ended_after(place):
    """Seconds from the fault, whose time its worker has written down, to the end."""
    struck = float((place.path / "at").read_text())
    return time.monotonic() - struck
