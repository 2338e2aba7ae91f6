"""`srun distdl train` in an allocation or a script of the user's own."""

import json

import pytest

pytestmark = [pytest.mark.timeout(300), pytest.mark.needs("slurm")]

TREE = {"dist__reduction": "tree", "train__global_batch": 48, "train__steps": 8, "train__eval_every": None}
TWO_BY_TWO = ("--nodes=2", "--ntasks-per-node=2")


def run(cluster, place, script, *options, **environment):
    """(the state of the job, its exit code, what it has said)"""
    more = {**place.environment, "OMP_NUM_THREADS": "1", **environment}
    number = cluster.sbatch(script, place.path, *options, environment=more)
    state = cluster.wait(number)
    code = int(cluster.job(number)["ExitCode"].partition(":")[0])
    return state, code, (place.path / f"{number}.log").read_text()


@pytest.fixture(scope="session")
def tree_hash(tmp_path_factory, corpus, place_of):
    there = place_of(tmp_path_factory.mktemp("tree"), corpus)
    assert there.run("train", there.config(**TREE), "--nproc", 1).code == 0
    return there.hash("run")


@pytest.mark.parametrize("how", ["", "--distribution=cyclic", "--mpi=pmix"])
def test_a_script_of_ones_own_needs_nothing_but_srun(cluster, place, tree_hash, how):
    script = f"srun {how} python -m distdl train {place.config(**TREE)}"
    misleading = {} if "pmix" in how else {"MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "1"}

    state, code, said = run(cluster, place, script, *TWO_BY_TWO, **misleading)

    assert (state, code) == ("COMPLETED", 0), said
    assert f"on 4 workers (cpu, {'mpi' if 'pmix' in how else 'gloo'})" in said
    assert place.hash("run") == tree_hash
    hosts = [each["host"] for each in json.loads((place.path / "runs/run/environment.json").read_text())["workers"]]
    assert hosts == ["node1", "node1", "node2", "node2"] if "cyclic" not in how else set(hosts) == {"node1", "node2"}


def test_a_batch_script_and_a_shell_in_an_allocation_are_no_workers(cluster, place):
    train = f"python -m distdl train {place.config(**TREE)} --nproc 2"

    state, code, said = run(cluster, place, f"{train}; srun --ntasks=1 {train} --name other", *TWO_BY_TWO)

    assert (state, code) == ("COMPLETED", 0), said
    assert said.count("on 2 workers (cpu, gloo)") == 2


@pytest.mark.parametrize(("options", "rank"), [(TWO_BY_TWO, 3), (("--nodes=2", "--ntasks-per-node=1"), 1)])
def test_a_task_that_is_killed_ends_the_step_and_is_named(cluster, place, options, rank):
    fault = {"rank": rank, "where": "train", "nth": 4, "kill": "self", "once": str(place.path / "struck")}
    config = place.config(**TREE, model__name="faulty:lenet5")

    state, code, said = run(cluster, place, f"srun python -m distdl train {config}", *options, FAULT=json.dumps(fault))

    assert (state, code) == ("FAILED", 137), said
    told = place.run("why", "run").output
    assert f"rank {rank} on node2 failed after step" in told and "ended in the middle of a step without a word" in told
    assert f"task {rank}: Killed" in said


def test_a_mistake_in_the_config_is_told_once_a_node_and_not_by_every_task(cluster, place):
    config = place.config(**TREE, train__wrong=1)

    state, code, said = run(cluster, place, f"srun python -m distdl train {config}", *TWO_BY_TWO)

    assert (state, code) == ("FAILED", 2), said
    assert said.count("unknown key 'train.wrong'") == 2


@pytest.mark.parametrize("name", ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"])
def test_fault_47_an_evil_list_of_hosts_runs_nothing(cluster, place, name):
    """By a wrapper, since Slurm itself sets it."""
    config = place.config(**TREE)
    wrapper = f"env {name}='node1; touch CANARY; $(touch CANARY)' python -m distdl train {config}"

    state, code, said = run(cluster, place, f"srun {wrapper}", *TWO_BY_TWO)

    assert not (place.path / "CANARY").exists()
    if name == "SLURM_STEP_NODELIST":
        assert (state, code) == ("FAILED", 2)
        assert "is no list of hosts" in said
    else:
        assert (state, code) == ("COMPLETED", 0), said


def test_ports_that_are_taken_are_passed_over(cluster, place, tree_hash):
    config = place.config(**TREE)
    taker = place.path / "taker.py"
    taker.write_text(TAKER)

    state, code, said = run(
        cluster, place, f"srun bash -c 'python {taker} & sleep 1; exec python -m distdl train {config}'", *TWO_BY_TWO
    )

    assert (state, code) == ("COMPLETED", 0), said
    assert "took" in said
    assert place.hash("run") == tree_hash


TAKER = """
import os, socket, time
from distdl.comm import slurm, slurm_meeting

task = slurm.task(os.environ)
if task.rank == 0:
    held = [socket.create_server(("", port)) for port in slurm_meeting.ports(task.word)[:3]]
    print("took", [each.getsockname() for each in held], flush=True)
    time.sleep(20)
"""


def test_another_version_on_one_node_is_told_with_its_name(cluster, place):
    (place.path / "sitecustomize.py").write_text(
        "import importlib.metadata, socket\n"
        "real = importlib.metadata.version\n"
        "if socket.gethostname() == 'node2':\n"
        "    importlib.metadata.version = lambda name: '2.0.1' if name == 'torch' else real(name)\n"
    )
    path = f"{place.path}:{place.environment['PYTHONPATH']}"
    script = f"srun --nodelist=node1,node2 python -m distdl train {place.config(**TREE)}"

    state, code, said = run(cluster, place, script, *TWO_BY_TWO, "--nodelist=node[1-2]", PYTHONPATH=path)

    assert (state, code) == ("FAILED", 2), said
    assert "error: node2: torch 2.0.1 is not that of node1, 2." in said
