"""What is left of a run whose workers are killed again and again: goodput, and the time from a kill to the next step.

    python benchmarks/watch/goodput.py [--minutes 10] [--every-s 30]

`distdl train --max-restarts` of LeNet-5 on 3 workers, a checkpoint about every second. At random times, `--every-s`
apart in the mean, 2 of the 3 are ended by SIGKILL, also while they start, until the time is over; then the run may go
on to its end. Where the supervisor gives up, since a restart made no checkpoint, it is started again with --resume.

    goodput      seconds of the same run that nobody kills, over seconds of this one; the bound is 1
    recovery     seconds from a kill to the end of the next step; the phases of it, of the kills that none came after
    same weights whether both runs end with the same bits
    left         processes, ports, shared memory and temporary files that are still there; more descriptors
"""

import argparse
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runs import PROC, ROOT, Place, Workers, is_alive

N_WORKERS, N_KILLED = 3, 2
LOOK_S = 0.01
SAVE_EVERY = 50  # steps
CALIBRATION_STEPS = 200
SHARE = 0.6  # of the time of killing, in which the run may get as far as its end
# The ends of the phases of a recovery, in their order.
MARKS = {
    "gone": "the others are gone: told of the loss, or killed after the grace",
    "started": "new processes",
    "attached": "the interpreter, the command line, the config",
    "joined": "import torch, the others found",
    "loaded": "the network, the data and the checkpoint",
    "step": "the first step",
}


class Recovery:
    """From a kill to the next step, as the workers tell it."""

    def __init__(self, killed: list[int], others: list[int]) -> None:
        self.began = time.monotonic()
        self.marks: dict[str, float] = {}
        self.is_disturbed = False  # another kill came before its end
        self._old = {*killed, *others}
        self._first_step: int | None = None

    @property
    def is_over(self) -> bool:
        return "step" in self.marks

    def look(self, workers: list) -> None:
        now = time.monotonic() - self.began
        new = [worker for worker in workers if worker.pid not in self._old]
        if not any(map(is_alive, self._old)):
            self.marks.setdefault("gone", now)
        if len(new) < N_WORKERS:
            return
        states = [worker.state() for worker in new]
        steps = [state.step for state in states]
        self.marks.setdefault("started", now)
        if all(state.attached for state in states):
            self.marks.setdefault("attached", now)
        if all(state.n_calls for state in states):
            self.marks.setdefault("joined", now)
        if None not in steps:
            self.marks.setdefault("loaded", now)
            self._first_step = min(steps) if self._first_step is None else self._first_step
            if min(steps) > self._first_step:
                self.marks.setdefault("step", now)

    def again(self, killed: list[int]) -> None:
        self.is_disturbed = True
        self._old |= set(killed)
        self._first_step = None

    def phases(self) -> dict[str, float]:
        ends = [0.0, *(self.marks[name] for name in MARKS)]
        return {name: after - before for name, before, after in zip(MARKS, ends, ends[1:])}


class Traces:
    """What the processes of a run hold that could be left of them."""

    def __init__(self, place: Place) -> None:
        """After another run in this place, which has left what libraries keep between runs."""
        self._place, self._kept = place, {path.name for path in place.temporary.iterdir()}
        self.shared_memory: set[str] = set()
        self.ports: set[str] = set()

    def look(self) -> None:
        sockets = set()
        for pid in self._place.processes():
            try:
                links = [str(path.readlink()) for path in (PROC / str(pid) / "fd").iterdir()]
                maps = (PROC / str(pid) / "maps").read_text()
            except OSError:
                continue
            sockets |= {link for link in links if link.startswith("socket:")}
            paths = [line.split(maxsplit=5)[-1] for line in maps.splitlines()] + links
            self.shared_memory |= {path for path in paths if path.startswith("/dev/shm/")}
        self.ports |= {port for port, inode in listening() if f"socket:[{inode}]" in sockets}

    def left(self) -> dict[str, list]:
        now = {port for port, _ in listening()}
        return {
            "processes": self._place.processes(),
            "ports": sorted(self.ports & now),
            "shared memory": sorted(path for path in self.shared_memory if Path(path).exists()),
            "temporary files": sorted({path.name for path in self._place.temporary.iterdir()} - self._kept),
        }


def listening() -> list[tuple[str, str]]:
    """(address, inode) of each listening TCP socket of this machine."""
    rows = [row.split() for name in ("tcp", "tcp6") for row in (PROC / "net" / name).read_text().splitlines()[1:]]
    return [(row[1], row[9]) for row in rows if row[3] == "0A"]


# --- runs ---


def run_unkilled(place: Place, name: str, config: Path) -> float:
    """Seconds."""
    log = place.folder / f"{name}.log"
    began = time.monotonic()
    code = place.start("train", config, "--nproc", N_WORKERS, "--name", name, log=log).wait()
    if code:
        sys.exit(f"the run that nobody killed failed: {log.read_text()[-2000:]}")
    return time.monotonic() - began


def steps_within(place: Place, seconds: float) -> int:
    run_unkilled(place, "calibration", config_of(place, CALIBRATION_STEPS))
    step_s = statistics.median(row["step_s"] for row in place.rows("calibration")[2:])
    return round(SHARE * seconds / step_s)


def config_of(place: Place, steps: int) -> Path:
    return place.config(train__steps=steps, train__log_every=10, train__eval_every=None, checkpoint__every=SAVE_EVERY)


def run_killed(place: Place, name: str, config: Path, kill_until_s: float, every_s: float) -> dict:
    log, draw = place.folder / f"{name}.log", random.Random(0)
    command = ["train", config, "--nproc", N_WORKERS, "--name", name, "--max-restarts", 10_000]
    traces, recoveries, descriptors = Traces(place), [], []
    n_kills = n_resumes = 0
    began = time.monotonic()
    next_kill, next_trace = math.inf, began + 3
    process = place.start(*command, log=log)
    workers = Workers(process.pid)
    try:
        while True:
            now, there = time.monotonic(), workers.now()
            if process.poll() is not None:
                if process.returncode == 0:
                    break
                if n_resumes > n_kills:
                    sys.exit(f"it fails by itself: {log.read_text()[-3000:]}")
                n_resumes += 1
                process = place.start(*command, "--resume", log=log)
                workers = Workers(process.pid)
            if recoveries and not recoveries[-1].is_over:
                recoveries[-1].look(there)
                if recoveries[-1].is_over:
                    descriptors.append(len(list((PROC / str(process.pid) / "fd").iterdir())))
            if now >= next_trace:
                traces.look()
                next_trace = now + 3
            if next_kill == math.inf and there and there[0].state().step:
                next_kill = now + draw.uniform(0, every_s)
            if now >= next_kill and now - began < kill_until_s and len(there) == N_WORKERS:
                victims = draw.sample(there, N_KILLED)
                if recoveries and not recoveries[-1].is_over:
                    recoveries[-1].again([worker.pid for worker in there])
                else:
                    others = [worker.pid for worker in there if worker not in victims]
                    recoveries.append(Recovery([worker.pid for worker in victims], others))
                for worker in victims:
                    os.kill(worker.pid, signal.SIGKILL)
                n_kills += 1
                next_kill = now + draw.uniform(0, 2 * every_s)
            time.sleep(LOOK_S)
        seconds = time.monotonic() - began
    finally:
        process.kill()
        process.wait()
    over = [each for each in recoveries if each.is_over]
    alone = [each.phases() for each in over if not each.is_disturbed and len(each.marks) == len(MARKS)]
    return {
        "seconds": seconds,
        "n_kills": n_kills,
        "n_resumes": n_resumes,
        "recovery_s": [round(each.marks["step"], 3) for each in over],
        "recoveries_of_several_kills": sum(each.is_disturbed for each in over),
        "phases": [{name: round(value, 3) for name, value in phases.items()} for phases in alone],
        "descriptors": descriptors,
        "left": {
            **traces.left(),
            "descriptors": max(0, max(descriptors[1:], default=0) - max(descriptors[:1], default=0)),
        },
        "seen": {"ports": len(traces.ports), "shared memory": len(traces.shared_memory)},
    }


def import_torch_s(n: int) -> float:
    """Seconds of `import torch` in so many processes at once: a part of each recovery that is not distdl's."""
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    importing = [subprocess.Popen([sys.executable, "-c", "import torch"], env=environment) for _ in range(n)]
    for each in importing:
        each.wait()
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of killing")
    parser.add_argument("--every-s", type=float, default=30.0, help="mean time between kills")
    parser.add_argument("--steps", type=int, help="of the run (default: about as many as fit)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/watch/goodput.json", help="raw figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="distdl-goodput-") as folder:
        place = Place(Path(folder))
        steps = arguments.steps or steps_within(place, 60 * arguments.minutes)
        config = config_of(place, steps)
        unkilled_s = run_unkilled(place, "unkilled", config)
        result = run_killed(place, "killed", config, 60 * arguments.minutes, arguments.every_s)
        same_weights = place.hash("killed") == place.hash("unkilled")
        same_rows = [row["step"] for row in place.rows("killed")] == [row["step"] for row in place.rows("unkilled")]
    result |= {"steps": steps, "checkpoint_every": SAVE_EVERY, "same_weights": same_weights, "same_rows": same_rows}
    result["unkilled_seconds"] = unkilled_s
    result["goodput"] = result["unkilled_seconds"] / result["seconds"]
    result["import_torch_s"] = import_torch_s(N_WORKERS)
    print(report(result))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"workers": N_WORKERS, "killed_at_once": N_KILLED, "every_s": arguments.every_s, "cores": os.cpu_count()}
    arguments.out.write_text(json.dumps({**settings, **result}) + "\n")
    sys.exit(not result["same_weights"] or any(result["left"].values()))


def report(result: dict) -> str:
    seconds, recovery_s = result["seconds"], result["recovery_s"] or [float("nan")]
    lines = [
        f"{result['steps']} steps in {seconds:.0f} s, {N_KILLED} of {N_WORKERS} workers killed {result['n_kills']} "
        f"times, {result['n_resumes']} times started again with --resume",
        f"goodput       {result['goodput']:.3f} (nobody killed: {result['unkilled_seconds']:.0f} s)",
        f"recovery      {statistics.median(recovery_s):.2f} s in the median, {max(recovery_s):.2f} s at most",
    ]
    if result["phases"]:
        for name, what in MARKS.items():
            values = [phases[name] for phases in result["phases"]]
            lines.append(f"  {name:<10}  {statistics.median(values):6.2f} s, {max(values):.2f} s at most: {what}")
        lines.append(f"  (`import torch` in {N_WORKERS} processes at once takes {result['import_torch_s']:.2f} s)")
    lines.append(f"same weights  {result['same_weights']}, same rows of metrics {result['same_rows']}")
    lines.append(f"left          {result['left']} (of {result['seen']} seen)")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
