"""Who is missing and why: what a run says when a worker fails in each way that collectives can, beside stock torchrun.

    python benchmarks/watch/faults.py [--patience-s 60] [--faults stopped,link]
    python benchmarks/watch/faults.py --backend mpi    # distdl alone, over MPI

Three workers of LeNet-5 on one host, or four on two network namespaces (root and iproute2); rank 1 fails at step 6, or
the link between the hosts does. distdl with a stall budget of 5 s; torchrun with plain DistributedDataParallel as it
comes, whose own time-out is 30 minutes, is watched for `--patience-s`.

    rank, cause  whether what was said names them (the patterns of tests/e2e/hanging.py)
    s            from the fault to the end, or to the report of a worker that is only slow
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from runs import ROOT, Place

sys.path += [str(ROOT / "tests"), str(ROOT / "tests/e2e")]
from hanging import TOLD, last_words
from namespaces import Namespaces, on_a_bridge

PLAIN = Path(__file__).with_name("plain.py")
STALL_S = 5
SLOW = r"straggler: rank 1 on \S+ computes for"
ON_LINKS = {"link": r"nothing has come from", "one way": r"nothing has come from"}
FAULTS = {**TOLD, "slow": SLOW, **ON_LINKS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", help="default: all, over MPI all but those of links")
    parser.add_argument("--backend", choices=("gloo", "mpi"), default="gloo")
    parser.add_argument("--patience-s", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/watch/faults.json", help="raw output")
    arguments = parser.parse_args()
    is_mpi = arguments.backend == "mpi"
    faults = arguments.faults.split(",") if arguments.faults else [f for f in FAULTS if not is_mpi or f not in ON_LINKS]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        for fault in faults:
            result = {"distdl": distdl(place, fault, arguments.backend)}
            if not is_mpi:
                result["torchrun"] = torchrun(place, fault, arguments.patience_s)
            for each in result.values():
                each["said"] = without_paths(str(each["said"]), place)
            results.append({"fault": fault, **result})
            print(row(results[-1]), flush=True)
    right = sum(each["distdl"]["rank"] and each["distdl"]["cause"] and each["distdl"]["s"] <= 10 for each in results)
    print(f"distdl: rank and cause within 10 s in {right} of {len(results)}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def distdl(place: Place, fault: str, backend: str) -> dict[str, object]:
    at = place.folder / "at"
    at.unlink(missing_ok=True)
    told = json.dumps({"rank": 1, "after": 6, "how": fault, "seconds": 0.1, "at": str(at)})
    name = fault.replace(" ", "-")
    config = place.config(
        model__name="hanging:lenet5",
        dist__stall_s=STALL_S,
        train__steps=20 if fault == "slow" else 2000,
        train__log_every=1,
        train__eval_every=10_000,
        checkpoint__every=10_000,
    )
    environment = {**place.environment(), "PYTHONPATH": str(ROOT / "tests/e2e")}
    train = [sys.executable, "-m", "distdl", "train", str(config), "--name", name]
    if fault in ON_LINKS:
        output, seconds = over_links(place, train, environment, fault, 60.0, place.run_folder(name) / "metrics.jsonl")
        return {
            "rank": "10.97.0.2" in output,
            "cause": bool(re.search(FAULTS[fault], output)),
            "s": seconds,
            "said": output,
        }
    command = [*train, "--nproc", "3", "--backend", backend]
    done = subprocess.run(command, cwd=place.folder, env={**environment, "HANG": told}, capture_output=True, text=True)
    output, seconds = done.stdout + done.stderr, time.monotonic() - float(at.read_text())
    if fault == "slow":
        steps = [each["step"] for each in place.rows(name, "event") if each["event"] == "straggler"]
        seconds = float(steps[0] - 6) if steps else float("inf")  # a step takes a second
    said = output if fault == "slow" else last_words(output)
    is_rank = bool(re.search(r"rank 1 on \S+ (failed|hung|computes)", said))
    return {"rank": is_rank, "cause": bool(re.search(FAULTS[fault], said)), "s": seconds, "said": said}


def torchrun(place: Place, fault: str, patience_s: float) -> dict[str, object]:
    at = place.folder / "at-plain"
    at.unlink(missing_ok=True)
    environment = {**place.environment(), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["HANG"] = json.dumps({"rank": 1, "after": 6, "how": fault, "at": str(at)})
    start = [sys.executable, "-m", "torch.distributed.run"]
    if fault in ON_LINKS:
        environment["GLOO_SOCKET_IFNAME"] = "eth0"
        output, seconds = over_links(
            place, [sys.executable, str(PLAIN)], environment, fault, patience_s, place.folder / "steps"
        )
    else:
        command = [*start, "--standalone", "--nproc-per-node", "3", str(PLAIN)]
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        output = finish(place, [process], patience_s + 15)
        seconds = time.monotonic() - float(at.read_text())
    said = [line for line in output.splitlines() if re.search(r"Error|error|Signal|signal|terminate|what\(\)", line)]
    return {"s": seconds, "ended": seconds < patience_s, "said": "\n".join(said[-6:])}


def over_links(
    place: Place, command: list[str], environment: dict[str, str], fault: str, patience_s: float, steps: Path
) -> tuple[str, float]:
    """Two hosts with two workers each; the link between them fails once there are steps."""
    steps.unlink(missing_ok=True)
    with Namespaces("a", "b", "bridge") as hosts:
        addresses = on_a_bridge(hosts, "bridge", ["a", "b"])
        workers = []
        for rank in range(4):
            told = {
                "RANK": rank,
                "LOCAL_RANK": rank % 2,
                "WORLD_SIZE": 4,
                "LOCAL_WORLD_SIZE": 2,
                "GROUP_RANK": rank // 2,
            }
            told |= {"MASTER_ADDR": addresses["a"], "MASTER_PORT": 29517, "OMP_NUM_THREADS": 1}
            of_worker = {**environment, **{name: str(value) for name, value in told.items()}}
            workers.append(hosts.start("ab"[rank // 2], ["env", "-C", str(place.folder), *command], of_worker))
        until = time.monotonic() + 60
        while not (steps.exists() and n_steps(steps) > 4):
            assert time.monotonic() < until
            time.sleep(0.1)
        hosts.lose("b", "eth0", addresses["a"])
        if fault == "link":
            hosts.lose("a", "eth0", addresses["b"])
        cut = time.monotonic()
        return finish(place, workers, patience_s), time.monotonic() - cut


def n_steps(path: Path) -> int:
    """As rows of metrics.jsonl, or as a number."""
    text = path.read_text()
    return int(text) if text.isdigit() else len(text.splitlines())


def finish(place: Place, processes: list["subprocess.Popen[str]"], within_s: float) -> str:
    """What they have printed. After `within_s` all that still runs is killed, the workers of a launcher as well."""
    until, output = time.monotonic() + within_s, ""
    for process in processes:
        try:
            out, error = process.communicate(timeout=max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            for pid in place.processes():
                os.kill(pid, signal.SIGKILL)
            out, error = process.communicate()
        output += (out or "") + (error or "")
    return output


def without_paths(text: str, place: Place) -> str:
    """Without where this machine has the project, Python and the run."""
    for path in (place.folder, ROOT, sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")):
        text = text.replace(f"{path}/", "")
    return text


def row(result: dict[str, dict[str, object]]) -> str:
    ours, yes = result["distdl"], {True: "yes", False: "NO"}
    found = f"| {result['fault']} | {yes[bool(ours['rank'])]} | {yes[bool(ours['cause'])]} | {ours['s']:.1f} |"
    if "torchrun" not in result:
        return found
    theirs = result["torchrun"]
    said = str(theirs["said"]).splitlines()
    words = said[-1].strip()[:110] if said else "nothing"
    how = f"{theirs['s']:.1f} s" if theirs["ended"] else f"silent after {theirs['s']:.0f} s"
    return f"{found} {how}: {words} |"


if __name__ == "__main__":
    main()
