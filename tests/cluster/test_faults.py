"""Faults of machines and of what lies between them, by the numbers of docs/faults.md."""

import contextlib
import re
import subprocess
import sys
import time

import pytest
from test_slurm_jobs import LONG as JOB
from test_slurm_jobs import STEPS, Submitted
from test_ssh import LONG, Started

pytestmark = pytest.mark.timeout(300)

ANSWER_S = 20.0


@pytest.fixture(scope="session")
def hash_of_whole(tmp_path_factory, corpus, place_of):
    there = place_of(tmp_path_factory.mktemp("whole"), corpus)
    at_once = {"model__args": {"classes": 10, "pace_s": 0}}
    assert there.run("train", there.config(**{**LONG, **at_once}), "--nproc", 1).code == 0
    return there.hash("run")


@pytest.mark.needs("ssh")
def test_fault_6_the_launcher_that_holds_the_store_is_killed(hosts, place, hash_of_whole):
    """torchrun on two hosts: its own on the first one is killed, and the other one ends as well."""
    config = place.config(**LONG)
    nodes = ["--nnodes=2", "--nproc-per-node=1", f"--master-addr={hosts.addresses['a']}", "--master-port=29533"]
    started = []
    for number, host in enumerate("ab"):
        torchrun = [sys.executable, "-m", "torch.distributed.run", *nodes, f"--node-rank={number}"]
        command = [*torchrun, "-m", "distdl", "train", str(config)]
        own = ["unshare", "--uts", "bash", "-c", f'hostname {host}; cd "$0"; exec "$@"', str(place.path), *command]
        started.append(
            subprocess.Popen(
                hosts.network.command(host, own),
                env={**place.environment, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    metrics = place.path / "runs/run/metrics.jsonl"
    assert eventually(lambda: metrics.exists() and metrics.read_text().count('"train"') >= 13, 60)

    started[0].kill()  # which has become torchrun
    killed = time.monotonic()
    said = [each.communicate(timeout=60)[0] for each in started]

    assert time.monotonic() - killed < ANSWER_S, said[1]
    assert started[1].returncode == 1
    assert re.search(r"rank 1 on b .*\n?.*lost|lost contact with the other workers", said[1]), said[1]
    assert place.gone_within(5)
    again = Started(hosts, place, config, "--hosts", "a:1,b:1", "--resume")
    assert again.finish() == 0, again.said
    assert place.hash("run") == hash_of_whole


@pytest.mark.needs("ssh")
@pytest.mark.parametrize("way", ["fault 12: both ways", pytest.param("fault 13: one way", marks=pytest.mark.matrix)])
def test_a_link_that_carries_nothing_ends_both_sides_and_costs_no_step(hosts, place, hash_of_whole, way):
    config = place.config(**LONG, dist__stall_s=5.0)
    run = Started(hosts, place, config, "--hosts", "a:1,b:1")
    run.wait_for_step(13)
    a, b = hosts.addresses["a"], hosts.addresses["b"]

    with contextlib.ExitStack() as undo:
        cut = {"b": a, "a": b} if way.endswith("both ways") else {"b": a}
        for host, address in cut.items():
            hosts.network.lose(host, "eth0", address)
            undo.callback(hosts.network.ip, host, f"neigh del {address} dev eth0")
        began = time.monotonic()
        assert run.finish(60) == 1, run.said
        assert time.monotonic() - began < ANSWER_S
    assert re.search(r"nothing has come from b.*: the link from it, or itself, is down", run.said), run.said
    assert place.gone_within(5)

    again = Started(hosts, place, config, "--hosts", "a:1,b:1", "--resume")
    assert again.finish() == 0, again.said
    assert [row["step"] for row in place.rows("run")] == list(range(1, STEPS + 1))
    assert place.hash("run") == hash_of_whole


@pytest.mark.needs("slurm")
@pytest.mark.parametrize(
    "how",
    [
        "requeued by hand",
        pytest.param("its slurmd is killed", marks=pytest.mark.matrix),
        pytest.param("slurmctld is started again", marks=pytest.mark.matrix),
    ],
)
def test_fault_37_what_slurm_itself_does_to_a_job(cluster, place, hash_of_whole, how):
    job = Submitted(cluster, place, place.config(**JOB), "--nodes", "2", "--ntasks-per-node", "1")
    job.wait_for_step(13)
    if how == "requeued by hand":
        cluster.run(["scontrol", "requeue", job.numbers[0]], place.path)
    elif how == "its slurmd is killed":  # the job does not need it until it ends
        cluster.kill_daemon(job.nodes()[0], "slurmd")
    else:
        cluster.restart_controller()

    assert job.wait() == "COMPLETED", job.log()
    assert job.restarts() == (how == "requeued by hand")
    assert [row["step"] for row in place.rows("run")] == list(range(1, STEPS + 1))
    assert place.hash("run") == hash_of_whole


def eventually(is_so, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.05)
    return False
