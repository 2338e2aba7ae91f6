"""A long run takes no more memory, file descriptors or threads at its end than near its beginning."""

import json
import os
import statistics
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(1500)

WARM_ROWS = 30  # of metrics, 10 steps each: an evaluation and a save are behind it
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def usage(pid):
    """(resident bytes, file descriptors, threads) of a process; None once it is gone."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        return resident, len(list(Path(f"/proc/{pid}/fd").iterdir())), threads
    except OSError:
        return None


def watch(place, process, every_s):
    """Usage of every process of the run over time, by pid, of those that lived through most of it.

    From when the run is warm: on a loaded machine, to start takes long.
    """
    seen = {}
    metrics = place.path / "runs/run/metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and len(place.rows("run")) >= WARM_ROWS):
        time.sleep(0.05)
    while process.poll() is None:
        for pid in place.processes():
            if (now := usage(pid)) is not None:
                seen.setdefault(pid, []).append(now)
        time.sleep(every_s)
    longest = max(map(len, seen.values()))
    return {pid: samples for pid, samples in seen.items() if len(samples) > 0.8 * longest}


def assert_flat(samples, *, more_bytes):
    """The last fifth against the second fifth: what a process needs, it has by then."""
    fifth = len(samples) // 5
    early, late = samples[fifth : 2 * fifth], samples[-fifth:]
    for kind, allowed in enumerate((more_bytes, 2, 1)):  # a save under way holds a file or two
        before, after = (statistics.median(each[kind] for each in part) for part in (early, late))
        what = ("resident bytes", "file descriptors", "threads")[kind]
        assert after - before <= allowed, f"{what} grew from {before} to {after}"


def soak(place, steps, every_s):
    config = place.config(
        train__steps=steps, train__eval_every=200, checkpoint__every=250, train__log_every=10, train__ema=0.99
    )
    process = place.start("train", config, "--nproc", 2, "-q")
    try:
        samples = watch(place, process, every_s)
    finally:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    figures = {pid: [each[0], each[len(each) // 2], each[-1]] for pid, each in samples.items()}
    print(json.dumps({"steps": steps, "bytes, descriptors, threads at start, middle, end": figures}))
    assert len(samples) >= 3  # the supervisor and two workers
    for each in samples.values():
        assert_flat(each, more_bytes=8 * 2**20)


def test_memory_descriptors_and_threads_are_flat_over_1500_steps(place):
    soak(place, 1500, every_s=0.1)


@pytest.mark.matrix
def test_memory_descriptors_and_threads_are_flat_over_20000_steps(place):
    soak(place, 20_000, every_s=1.0)
