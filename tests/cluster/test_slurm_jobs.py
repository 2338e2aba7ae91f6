"""`distdl submit`: jobs that train a run to its end, whatever Slurm does to them meanwhile."""

import re
import shlex
import sys
import time
from pathlib import Path

import pytest
from place import mnist_config

from distdl.launch.slurm import lists

pytestmark = [pytest.mark.timeout(300), pytest.mark.needs("slurm")]

SHORT = {"dist__reduction": "tree", "train__global_batch": 48, "train__steps": 8, "train__eval_every": None}
STEPS, PACE_S = 60, 0.1
LONG = {
    **SHORT,
    "model__name": "paced:lenet5",
    "model__args": {"classes": 10, "pace_s": PACE_S},
    "train__steps": STEPS,
    "checkpoint__every": 10,
}
TWO_BY_TWO = ("--nodes", "2", "--ntasks-per-node", "2")


class Submitted:
    def __init__(self, cluster, place, *arguments, **environment):
        self.cluster, self.place = cluster, place
        more = {**place.environment, "OMP_NUM_THREADS": "1", **environment}
        command = [sys.executable, "-m", "distdl", "submit", *map(str, arguments)]
        self.done = cluster.run(command, place.path, more)
        self.code, self.said = self.done.returncode, self.done.stdout + self.done.stderr
        found = re.search(r"submitted job ([\d,]+):", self.said)
        self.numbers = found[1].split(",") if found else []

    def wait(self, which=0):
        assert self.code == 0, self.said
        return self.cluster.wait(self.numbers[which], 200.0)

    def exit_code(self, which=0):
        return int(self.cluster.job(self.numbers[which])["ExitCode"].partition(":")[0])

    def nodes(self):
        return lists.expand(self.cluster.job(self.numbers[0])["NodeList"])

    def restarts(self):
        return int(self.cluster.job(self.numbers[0])["Restarts"])

    def log(self, which=0, run="run"):
        return (self.place.path / f"runs/{run}/slurm/{self.numbers[which]}.log").read_text()

    def wait_for_step(self, step, run="run"):
        metrics = self.place.path / f"runs/{run}/metrics.jsonl"
        self.cluster.wait_until(
            lambda: metrics.exists() and metrics.read_text().count('"kind": "train"') >= step, 60.0, f"step {step}"
        )


@pytest.fixture(scope="session")
def hash_of(tmp_path_factory, corpus, place_of):
    """Of a run of one worker on this machine that nobody stopped."""
    known = {}

    def find(config):
        name = config["train__steps"]
        if name not in known:
            there = place_of(tmp_path_factory.mktemp("whole"), corpus)
            at_once = {"model__args": {"classes": 10, "pace_s": 0}} if config is LONG else {}
            assert there.run("train", there.config(**{**config, **at_once}), "--nproc", 1).code == 0
            known[name] = there.hash("run")
        return known[name]

    return find


def test_a_job_trains_to_the_bits_of_a_run_on_one_machine(cluster, place, hash_of):
    job = Submitted(cluster, place, place.config(**SHORT), *TWO_BY_TWO, "--time", "5")

    assert job.wait() == "COMPLETED", job.log()
    assert "on 4 workers (cpu, gloo)" in job.log()
    assert place.hash("run") == hash_of(SHORT)
    assert f"runs/run/slurm/{job.numbers[0]}.log" in job.said
    assert f"scancel {job.numbers[0]}" in job.said


@pytest.mark.matrix
@pytest.mark.needs("data")
def test_mnist_on_two_nodes_of_two_has_the_bits_of_four_workers_on_this_machine(cluster, place, real_data):
    config = mnist_config(
        place,
        real_data,
        dist__reduction="tree",
        train__global_batch=128,
        train__steps=469,  # an epoch
        train__log_every=50,
        checkpoint__every=200,
    )
    local = place.run("train", config, "--nproc", 4, "--name", "local", deadline=240)
    assert local.code == 0, local.output
    job = Submitted(cluster, place, config, *TWO_BY_TWO, "--time", "10")

    assert job.wait() == "COMPLETED", job.log()
    assert place.hash("run") == place.hash("local")
    assert place.rows("run", "eval")[-1]["top1"] > 0.95


def test_what_is_edited_later_does_not_reach_a_job_that_waits(cluster, place, hash_of):
    plugin = place.path / "own.py"
    plugin.write_text(OWN)
    config = place.config(**SHORT, plugins=["own.py"], model__name="mine")
    job = Submitted(cluster, place, config, *TWO_BY_TWO, "slurm.sbatch={hold: true}")
    assert job.code == 0, job.said

    place.config(**SHORT, train__wrong=1)
    plugin.write_text("raise ValueError")
    cluster.run(["scontrol", "release", job.numbers[0]], place.path)

    assert job.wait() == "COMPLETED", job.log()
    assert place.hash("run") == hash_of(SHORT)
    code = place.path / "runs/run/slurm/1/code/distdl/cli.py"
    assert code.exists()


OWN = """
from distdl import models, register_model

@register_model("mine")
def mine(**args):
    return models.build("lenet5", args)
"""


@pytest.mark.parametrize(
    "warning",
    ["slurm.sbatch={signal: USR1@60}", pytest.param("train.stop_after=auto", marks=pytest.mark.matrix)],
)
def test_fault_37_before_its_time_limit_a_job_saves_and_queues_itself_again(cluster, place, hash_of, warning):
    config = place.config(**LONG)
    slow = "model.args.pace_s=0.5" if "USR1" in warning else "model.args.pace_s=0.8"
    own = ["slurm.sbatch={signal: false}"] * ("auto" in warning)
    job = Submitted(cluster, place, config, slow, warning, *own, *TWO_BY_TWO, "--time", "2")

    assert job.wait() == "COMPLETED", job.log()
    assert job.restarts() >= 1
    assert "resumed at step" in job.log()
    assert place.hash("run") == hash_of(LONG)


def test_a_job_that_is_told_to_stop_saves_and_goes_on_at_that_step(cluster, place, hash_of):
    job = Submitted(cluster, place, place.config(**LONG), *TWO_BY_TWO)
    job.wait_for_step(13)

    cluster.run(["scancel", "--signal=USR1", job.numbers[0]], place.path)

    assert job.wait() == "COMPLETED", job.log()
    assert job.restarts() == 1
    steps = [row["step"] for row in place.rows("run")]
    assert steps == list(range(1, STEPS + 1))  # none twice: it went on where it was stopped
    assert place.hash("run") == hash_of(LONG)


def test_where_jobs_may_not_be_queued_again_the_next_of_a_chain_goes_on_and_the_last_has_nothing_to_do(
    cluster, place, hash_of
):
    job = Submitted(cluster, place, place.config(**LONG), *TWO_BY_TWO, "--chain", "3")
    assert len(job.numbers) == 3, job.said
    job.wait_for_step(13)

    cluster.run(["scancel", "--signal=USR1", job.numbers[0]], place.path)

    assert [job.wait(which) for which in range(3)] == ["FAILED", "COMPLETED", "COMPLETED"]
    assert job.exit_code() == 75
    assert "resumed at step" in job.log(1)
    assert not (place.path / f"runs/run/slurm/{job.numbers[2]}.log").read_text()
    assert place.hash("run") == hash_of(LONG)


def test_a_job_that_is_cancelled_saves_and_its_script_goes_on(cluster, place, hash_of):
    job = Submitted(cluster, place, place.config(**LONG), *TWO_BY_TWO)
    job.wait_for_step(13)

    cluster.run(["scancel", job.numbers[0]], place.path)
    assert job.wait() == "CANCELLED"
    again = re.search(r"go on +(.*)", job.said)[1].split()
    done = cluster.run(again, place.path, place.environment)
    job.numbers = [re.search(r"\d+", done.stdout)[0]]

    assert job.wait() == "COMPLETED", job.log()
    assert place.hash("run") == hash_of(LONG)


def test_a_node_that_fails_costs_the_steps_since_the_last_checkpoint(cluster, place, hash_of):
    job = Submitted(cluster, place, place.config(**LONG), *TWO_BY_TWO)
    job.wait_for_step(13)
    victim = cluster.job(job.numbers[0])["NodeList"]

    cluster.kill_node(f"node{re.search(r'[0-9]+', victim)[0]}")

    assert job.wait() == "COMPLETED", job.log()
    assert job.restarts() == 1
    assert "resumed at step" in job.log()
    assert place.hash("run") == hash_of(LONG)


@pytest.mark.parametrize("how", [pytest.param("at once", marks=pytest.mark.matrix), "after Slurm has given it up"])
def test_a_job_may_lose_a_node_and_have_it_back(cluster, place, hash_of, how):
    """Faults 7 and 8."""
    config = place.config(**LONG)
    four = ("--nodes", "4", "--min-nodes", "3", "--ntasks-per-node", "1")
    job = Submitted(cluster, place, config, "model.args.pace_s=0.5", *four, DISTDL_REST_S="3")
    job.wait_for_step(13)

    cluster.kill_node("node3")
    cluster.wait_until(lambda: "with 3 workers" in job.log(), 60.0, "it goes on without the node")
    is_given_up = how != "at once"
    if is_given_up:
        cluster.wait_until(lambda: "node3" not in job.nodes(), 90.0, "the job has lost it")
    cluster.start_node("node3")

    assert job.wait() == "COMPLETED", job.log()
    assert "node3 was lost" in job.log()
    assert ("can be had again" if is_given_up else "a host is back: saving") in job.log()
    assert job.restarts() == int(is_given_up)
    assert [row["step"] for row in place.rows("run")] == list(range(1, STEPS + 1))
    assert place.hash("run") == hash_of(LONG)


def test_fault_38_what_goes_on_on_a_node_that_was_lost_writes_nothing(cluster, place, hash_of):
    """The job was queued again, and then its former node, which only hung, comes back."""
    job = Submitted(cluster, place, place.config(**LONG), "--nodes", "1", "--ntasks-per-node", "2")
    job.wait_for_step(13)
    former = cluster.job(job.numbers[0])["NodeList"]

    cluster.freeze(former)
    cluster.wait_until(lambda: cluster.job(job.numbers[0])["JobState"] == "PENDING", 60.0, "it was queued again")
    time.sleep(7)  # as Cluster.wait does
    cluster.run(["scontrol", "update", f"JobId={job.numbers[0]}", "StartTime=now"], place.path)
    job.wait_for_step(24)
    cluster.thaw(former, "python")

    assert job.wait() == "COMPLETED", job.log()
    assert cluster.job(job.numbers[0])["NodeList"] != former
    cluster.kill_node(former)
    assert [row["step"] for row in place.rows("run")] == list(range(1, STEPS + 1))
    assert place.hash("run") == hash_of(LONG)


def test_an_array_is_a_sweep_of_which_each_run_has_a_folder_of_its_own(cluster, place):
    (place.path / "grid.yaml").write_text("optim.lr: [0.05, 0.1]\ntrain.seed: [0, 1]\n")
    job = Submitted(cluster, place, place.config(**SHORT), "--array", "grid.yaml", "--ntasks-per-node", "1")

    assert job.code == 0, job.said
    cluster.wait_until(lambda: not cluster.run(["squeue", "-h"], place.path).stdout, 120.0, "all have ended")
    done = sorted(path.parent.name for path in place.path.glob("runs/*/final.json"))
    assert done == [f"run-lr={lr}-seed={seed}" for lr in ("0.05", "0.1") for seed in (0, 1)]
    assert len({place.hash(name) for name in done}) == 4
    told = re.search(r"; (distdl runs .*)", job.said)
    assert told and all(name in place.run(*shlex.split(told[1])[1:]).output for name in done)
    assert len(list(place.path.glob(f"sweeps/run/{job.numbers[0]}_*.log"))) == 4


@pytest.mark.parametrize("how", ["submit", "script"])
def test_one_of_an_array_that_saves_is_queued_again_and_no_other(cluster, place, how):
    """Of the array's last one the number is that of the whole array."""
    config = place.config(**LONG)
    if how == "submit":
        (place.path / "grid.yaml").write_text("train.seed: [0, 1]\n")
        job = Submitted(cluster, place, config, "--array", "grid.yaml", "--ntasks-per-node", "1", "--nodes", "1")
        array, runs = job.numbers[0], ["run-seed=0", "run-seed=1"]
    else:
        script = Path(__file__).parents[2] / "slurm/array.sh"
        options = [
            "--array=0-1",
            "--nodes=1",
            "--gpus-per-node=1",
            "--cpus-per-task=1",
            "--time=5",
            "--output=%A_%a.log",
        ]
        done = cluster.run(
            ["sbatch", "--parsable", *options, str(script), str(config), "--nproc", "1"],
            place.path,
            {**place.environment, "OMP_NUM_THREADS": "1"},
        )
        array, runs = done.stdout.strip(), ["run-lr-0.05", "run-lr-0.1"]
    rows = [place.path / f"runs/{run}/metrics.jsonl" for run in runs]
    cluster.wait_until(
        lambda: all(row.exists() and row.read_text().count("train") > 9 for row in rows), 60.0, "step 10"
    )

    cluster.run(["scancel", "--signal=USR1", f"{array}_1"], place.path)

    assert cluster.wait(f"{array}_1", 200.0) == cluster.wait(f"{array}_0") == "COMPLETED"
    assert [cluster.job(f"{array}_{each}")["Restarts"] for each in (0, 1)] == ["0", "1"]
    assert all((place.path / f"runs/{run}/final.json").exists() for run in runs)


def test_a_corpus_is_packed_by_an_array_of_jobs(cluster, place):
    command = ["submit", "data", "pack", "digits", "packed", "--parts", "3", "--cpus-per-task", "1", "--time", "5"]
    done = cluster.run([sys.executable, "-m", "distdl", *command], place.path, place.environment)
    assert done.returncode == 0, done.stderr
    cluster.wait_until(lambda: not cluster.run(["squeue", "-h"], place.path).stdout, 120.0, "all have ended")

    logs = sorted(place.path.glob("packs/packed/*.log"))
    assert len(logs) == 3
    assert sum("joined 3 parts" in log.read_text() for log in logs) == 1
    assert sorted(path.name for path in (place.path / "packed").iterdir()) == ["test", "train"]
    verified = place.run("data", "verify", "packed/train")
    assert verified.code == 0, verified.output
    again = cluster.run([sys.executable, "-m", "distdl", *command], place.path, place.environment)
    assert again.returncode == 2 and "this exists already" in again.stderr


def test_a_mistake_ends_the_job_and_no_other_is_tried(cluster, place):
    config = place.config(**SHORT, data__train__shards="nowhere")
    job = Submitted(cluster, place, config, *TWO_BY_TWO, "--chain", "2")

    assert job.wait() == "FAILED"
    assert job.exit_code() == 2
    assert job.wait(1) == "COMPLETED"
    assert not job.log(1)


def test_each_worker_of_a_node_sees_its_devices(cluster, place):
    show = "slurm.setup=[\"srun bash -c 'echo task $SLURM_PROCID sees $CUDA_VISIBLE_DEVICES'\"]"
    job = Submitted(cluster, place, place.config(**SHORT), show, "--nodes", 2, "--gpus-per-node", 2)

    assert job.wait() == "COMPLETED", job.log()
    assert sorted(re.findall(r"task \d sees .*", job.log())) == [f"task {i} sees 0,1" for i in range(4)]
    assert "on 4 workers" in job.log()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--name", "x; touch CANARY"],
        ["--name", "x\n#SBATCH --comment=CANARY"],
        ["--partition", "main\n#SBATCH --comment=CANARY"],
        ["--account", "$(touch CANARY)"],
        ["--constraint", "`touch CANARY`"],
        ["slurm.sbatch={comment: '\"; touch CANARY'}"],
        ["slurm.sbatch={'comment=x --wrap': 'touch CANARY'}"],
        ["slurm.srun={'export=x; touch CANARY': 1}"],
    ],
)
def test_fault_47_what_might_be_shell_or_another_option_is_refused(cluster, place, arguments):
    job = Submitted(cluster, place, place.config(**SHORT), *arguments, *TWO_BY_TWO)

    assert job.code == 2, job.said
    assert "Traceback" not in job.said
    assert not list(place.path.rglob("CANARY*")) and not list(place.path.rglob("job.sh"))


def test_what_a_shell_might_read_otherwise_stays_one_word(cluster, place):
    odd = place.path / "a folder, with (odd) & $names"
    odd.mkdir()
    job = Submitted(cluster, place, place.config(**SHORT), "slurm.sbatch={comment: 'a b; c & d #e'}", "--dry-run")
    assert '#SBATCH --comment="a b; c & d #e"' in job.said

    refused = cluster.run(
        [sys.executable, "-m", "distdl", "submit", str(place.path / "run.yaml")], odd, place.environment
    )

    assert refused.returncode == 2
    assert "Submit from another folder" in refused.stderr


@pytest.mark.parametrize("name", ["single-node", "multi-node", "preemptible", "array"])
def test_the_scripts_to_start_from_start(cluster, place, name):
    script = Path(__file__).parents[2] / "slurm" / f"{name}.sh"
    nodes, tasks = ("1", "1") if name in ("single-node", "array") else ("2", "2")
    options = [f"--nodes={nodes}", f"--ntasks-per-node={tasks}", "--gpus-per-node=2", "--cpus-per-task=1", "--time=5"]
    options += ["--array=1"] * (name == "array") + ["--output=%A.log"]
    own = ["--nproc", "2"] * (tasks == "1")
    done = cluster.run(
        ["sbatch", "--parsable", *options, str(script), str(place.config(**SHORT)), *own],
        place.path,
        {**place.environment, "OMP_NUM_THREADS": "1"},
    )
    number = done.stdout.strip()

    assert cluster.wait(number) == "COMPLETED", done.stderr
    said = (place.path / f"{number}.log").read_text()
    assert f"on {2 * int(nodes)} workers (cpu, gloo)" in said
    run = "run-lr-0.1" if name == "array" else "run"
    assert (place.path / "runs" / run / "final.json").exists()
