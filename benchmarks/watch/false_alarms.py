"""Runs that are late in every way that is allowed, under a small stall budget: no hang may be told of any of them.

    python benchmarks/watch/false_alarms.py [--minutes 30]

`distdl train` on 3 workers with dist.stall_s: 5, run after run until the time is over. Random workers sleep up to 2 s
in their steps; one sleeps 8 s in the first step, one 20 s in each evaluation, and each save takes 60 s longer: those of
the background thread, a save that waits for the one before, the last save, which all wait for, and the last file of the
run (jittery.py). In every second run, processes that compute take all cores, two a core.

Printed for each run: its exit code, whether a hang was told, and how near it came to an alarm: the longest time in
which a worker told nothing while it did not wait, over what it may take there. The bound is 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runs import ROOT, Place, Workers

from distdl.watch import judge

STALL_S = 5.0
JITTER_S = {"step_s": 2, "first_s": 8, "eval_s": 20, "save_s": 60}
STEPS = {"train__steps": 60, "train__eval_every": 30, "checkpoint__every": 20, "train__log_every": 1}
N_WORKERS = 3
LOOK_S = 0.05


def one_run(place: Place, name: str, is_loaded: bool) -> dict:
    config = place.config(model__name="jittery:lenet5", dist__stall_s=STALL_S, **STEPS)
    log = place.folder / f"{name}.log"
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count() * is_loaded)]
    began = time.monotonic()
    process = place.start("train", config, "--nproc", N_WORKERS, "--name", name, log=log, JITTER=json.dumps(JITTER_S))
    nearest: dict[str, float] = {}
    try:
        workers = Workers(process.pid)
        while process.poll() is None:
            for worker in workers.now():
                state = worker.state()
                if state.waits_in is None:
                    where = "first step" if state.is_first and state.phase not in ("start", "end") else state.phase
                    share = state.beat_age_s / judge.budget_s(state, STALL_S)
                    nearest[where] = max(nearest.get(where, 0.0), share)
            time.sleep(LOOK_S)
    finally:
        process.kill()
        for each in load:
            each.kill()
            each.wait()
    text = log.read_text()
    records = [path.name for path in (place.run_folder(name) / "failures").rglob("*.json")]
    return {
        "run": name,
        "loaded": is_loaded,
        "seconds": round(time.monotonic() - began, 1),
        "exit_code": process.wait(),
        "hang_told": "hung" in text or bool(records),
        "last_step": place.rows(name)[-1]["step"],
        "nearest": {where: round(share, 3) for where, share in sorted(nearest.items(), key=lambda item: -item[1])},
        "output": text[-2000:] if process.returncode or records else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/watch/false_alarms.json", help="raw")
    arguments = parser.parse_args()
    runs: list[dict] = []
    until = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory(prefix="distdl-false-alarms-") as folder:
        place = Place(Path(folder))
        while not runs or time.monotonic() < until:
            runs.append(one_run(place, f"run-{len(runs)}", is_loaded=len(runs) % 2 == 1))
            print(json.dumps(runs[-1]), flush=True)
            if runs[-1]["exit_code"]:
                break
    minutes = sum(each["seconds"] for each in runs) / 60
    n_alarms = sum(each["hang_told"] or each["exit_code"] != 0 for each in runs)
    nearest = max(share for each in runs for share in each["nearest"].values())
    print(f"\n{len(runs)} runs, {minutes:.1f} minutes: {n_alarms} false alarms; nearest to one {nearest:.2f} (bound 1)")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"workers": N_WORKERS, "stall_s": STALL_S, "jitter": JITTER_S, "cores": os.cpu_count()}
    arguments.out.write_text(json.dumps({**settings, "minutes": minutes, "alarms": n_alarms, "runs": runs}) + "\n")
    sys.exit(n_alarms > 0)


if __name__ == "__main__":
    main()
