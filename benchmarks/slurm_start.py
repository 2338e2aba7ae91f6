"""From the submission of a Slurm job on four nodes to its first step, and where the time goes, beside a bare script.

    python benchmarks/slurm_start.py [--rounds 7]        as root, on a machine with Slurm's programs

The Slurm is that of the tests: its nodes are network namespaces of this machine, which share its cores. The bare script
is started by srun, takes its place from Slurm's variables, and has noise for its data. Interleaved; medians. A mark is
made at the start of each Python: a worker's first is its own, and its second (after it has joined the others) that of
the process which watches its links; the bare script makes its second one by itself.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from first_step import BARE, prepare

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from slurm_cluster import Cluster  # noqa: E402

NODES = 4
MARK = """
import os, time
if "SLURM_PROCID" in os.environ and "MARKS" in os.environ and "SLURM_STEP_ID" in os.environ:
    with open(os.path.join(os.environ["MARKS"], f"python-{os.environ['SLURM_PROCID']}"), "a") as file:
        file.write(f"{time.time()}\\n")
"""
OF_SLURM = """
import os
os.environ.update(RANK=os.environ["SLURM_PROCID"], WORLD_SIZE=os.environ["SLURM_NTASKS"], LOCAL_RANK="0")
os.environ.update(MASTER_ADDR="node1", MASTER_PORT="29555")
"""
JOIN = 'dist.init_process_group("gloo")\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    phases: dict[str, dict[str, list[float]]] = {"distdl": {}, "bare": {}}
    with tempfile.TemporaryDirectory() as folder, Cluster(NODES, made(Path(folder) / "slurm")) as cluster:
        here = made(Path(folder) / "work")
        config = prepare(here)
        (here / "bare.py").write_text(OF_SLURM + BARE.replace(JOIN, JOIN + MARK))
        (here / "sitecustomize.py").write_text(MARK)
        for number in range(rounds):
            for which in phases:
                marks = made(here / f"marks-{which}-{number}")
                environment = {"MARKS": str(marks), "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"}
                begin = time.time()
                start = submit if which == "distdl" else submit_bare
                job, first_step = start(cluster, here, config, f"run-{number}", marks, environment)
                submitted = time.time()
                seen = until_seen(first_step)
                assert cluster.wait(job) == "COMPLETED", (here / "runs").exists()
                script = float((marks / "script").read_text())
                marked = [sorted(map(float, path.read_text().split())) for path in marks.glob("python-*")]
                begun, joined = max(each[0] for each in marked), max(each[1] for each in marked)
                for phase, seconds in {
                    "submitting": submitted - begin,
                    "Slurm until the script begins": max(0.0, script - submitted),
                    "srun until the last worker's Python begins": begun - script,
                    "imports and joining": joined - begun,
                    "until the first step": seen - joined,
                    "in all, from the submission on": seen - begin,
                }.items():
                    phases[which].setdefault(phase, []).append(seconds)
    medians = {
        which: {name: round(statistics.median(each), 2) for name, each in of.items()} for which, of in phases.items()
    }
    result = {"nodes": NODES, "cores": os.cpu_count(), "rounds": rounds, "median_s": medians}
    print(json.dumps(result, indent=2))
    raw = Path(__file__).parent / "results" / "slurm_start.json"
    raw.write_text(json.dumps({**result, "seconds": phases}) + "\n")


def made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def submit(
    cluster: Cluster, here: Path, config: Path, name: str, marks: Path, environment: dict[str, str]
) -> tuple[str, Path]:
    """The job, and the file whose first row of training is the first step."""
    setup = json.dumps([f"date +%s.%N > {marks}/script"])
    options = ["--nodes", str(NODES), "--ntasks-per-node", "1", "--name", name, f"slurm.setup={setup}"]
    command = [sys.executable, "-m", "distdl", "submit", str(config), *options]
    done = cluster.run(command, here, {**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    found = re.search(r"submitted job (\d+)", done.stdout)
    assert found
    return found[1], here / "runs" / name / "metrics.jsonl"


def submit_bare(
    cluster: Cluster, here: Path, config: Path, name: str, marks: Path, environment: dict[str, str]
) -> tuple[str, Path]:
    script = f"date +%s.%N > {marks}/script\nsrun {sys.executable} bare.py > {marks}/out"
    job = cluster.sbatch(
        script, here, f"--nodes={NODES}", "--ntasks-per-node=1", environment={**os.environ, **environment}
    )
    return job, marks / "out"


def until_seen(path: Path) -> float:
    """When the first step was done, in seconds since 1970."""
    end = time.monotonic() + 120
    while not (path.exists() and re.search(rb'"train"|first step', path.read_bytes())):
        assert time.monotonic() < end, f"no first step in {path}"
        time.sleep(0.005)
    return time.time()


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
