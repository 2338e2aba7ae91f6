"""All-reduce over MPI: distdl's backend beside raw mpi4py and gloo, on one machine.

    python benchmarks/comm/mpi.py [--mpi openmpi,mpich] [--workers 2,4] [--rounds 5]

Each form runs alone, in processes of its own: gloo's threads beside an MPI that spins would disturb both. These sets of
processes take turns. A set's time is the median of its calls, after some to warm up, on the slowest worker; the table
has the medians of the sets, and its ratios are medians over the rounds.

    gloo     dist.all_reduce
    raw      mpi4py's Allreduce, in place; not of bfloat16, which MPI can't calculate with
    sync     dist.all_reduce over distdl_mpi
    async    the same with async_op=True, and wait
    bound    the passes over memory that no all-reduce can do without, by all workers at once: the sum of the n-th part
             of n arrays, and a copy of the other parts. The fastest call. Not of what stays in a core's cache.

The bus bandwidth, 2 (n - 1) / n * bytes / time, is that of links which would take as long in a ring.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import mpiruns
import torch
import workers

from distdl.bench.ratio import ratio

OUT = workers.ROOT / "benchmarks" / "results" / "comm" / "mpi.json"
SIZES = {"4K": 0x1000, "256K": 0x40000, "4M": 0x400000, "100M": 0x6400000}
FORMS = {"gloo": ["gloo"], "bound": ["bound"], "raw": ["raw"], "distdl": ["sync", "async"]}
OF_MPI = ("raw", "distdl")
IN_CACHE_BYTES = 1 << 20
PIECE_BYTES = 1 << 18
WARM_UP_CALLS, FEWEST_CALLS, MOST_CALLS = 3, 5, 2000

# --- a worker ---


def worker(options):
    torch.set_num_threads(1)
    form_set = options["set"]
    rank, n, agree, library, leave = {"raw": join_raw, "distdl": join_distdl}.get(form_set, join_gloo)()
    found = []
    for name in options["dtypes"]:
        dtype = getattr(torch, name)
        for form in FORMS[form_set]:
            for size in options["sizes"]:
                tensor = torch.full([size // dtype.itemsize], rank + 1, dtype=dtype)
                call = PREPARE[form](tensor, n)
                if call is None:
                    continue
                call()
                if form != "bound":
                    assert torch.all(tensor == n * (n + 1) // 2), f"{form}: a wrong sum of {size} bytes"
                tensor.zero_()  # so that sums stay what they are
                times = timed(call, options["seconds_each"], agree)
                seconds = fastest_s(times, n) if form == "bound" else statistics.median(times)
                row = {"dtype": name, "form": form, "bytes": size, "calls": len(times), "seconds": seconds}
                found.append({**row, "mean_s": statistics.mean(times)})
    leave()
    workers.tell(rank, {"library": library.strip("\0\n ").partition("\n")[0].replace("\t", " "), "found": found})


def timed(call: Callable[[], None], seconds: float, agree: Callable[[float], float]) -> list[float]:
    """Seconds of each call. `agree`: the largest of all workers' numbers."""
    slowest = 0.0
    for _ in range(WARM_UP_CALLS):
        began = time.perf_counter()
        call()
        slowest = time.perf_counter() - began
    n_calls = int(min(MOST_CALLS, max(FEWEST_CALLS, seconds / agree(slowest))))
    agree(0.0)
    times = [time.perf_counter()]
    for _ in range(n_calls):
        call()
        times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)]


def fastest_s(times: list[float], n: int) -> float:
    """Of calls of `n` workers at once. One that another worker has interrupted says nothing: they take turns."""
    return min(times) * max(1.0, n / len(os.sched_getaffinity(0)))


def join_gloo():
    import torch.distributed as dist

    dist.init_process_group("gloo")

    def agree(value):
        largest = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.item()

    return dist.get_rank(), dist.get_world_size(), agree, "gloo", dist.destroy_process_group


def join_raw():
    from distdl.comm import mpi_library

    mpi = mpi_library.load()
    everyone = mpi.COMM_WORLD
    agree = partial(everyone.allreduce, op=mpi.MAX)
    return everyone.rank, everyone.size, agree, mpi.Get_library_version(), mpi_library.finish


def join_distdl():
    import torch.distributed as dist

    import distdl.comm.mpi

    *joined, finish = join_raw()
    distdl.comm.mpi.init_process_group()
    return *joined, lambda: (dist.destroy_process_group(), finish())


def by_torch(tensor, n):
    import torch.distributed as dist

    return partial(dist.all_reduce, tensor)


def by_torch_async(tensor, n):
    import torch.distributed as dist

    return lambda: dist.all_reduce(tensor, async_op=True).wait()


def by_mpi4py(tensor, n):
    from mpi4py import MPI

    if tensor.dtype != torch.float32:
        return None
    return partial(MPI.COMM_WORLD.Allreduce, MPI.IN_PLACE, [tensor.numpy(), MPI.FLOAT])


def passes(tensor, n):
    if tensor.nbytes < IN_CACHE_BYTES:
        return None
    mine, *rest = tensor[: len(tensor) // n * n].view(n, -1)
    others = torch.zeros(n - 1, len(mine), dtype=tensor.dtype)
    n_piece = PIECE_BYTES // tensor.itemsize

    def call():
        for piece, addends in zip(mine.split(n_piece), others.split(n_piece, dim=1)):
            for each in addends:
                piece.add_(each)
        for part, other in zip(rest, others):
            part.copy_(other)

    return call


PREPARE = {"gloo": by_torch, "bound": passes, "raw": by_mpi4py, "sync": by_torch, "async": by_torch_async}

# --- all of them ---


def measure(mpi_names, ns, options, rounds):
    """({(mpi or None, n, dtype, form, bytes): seconds of each round}, each MPI's version, all that was measured)."""
    sets = [(n, None, "gloo") for n in ns] + [(n, None, "bound") for n in ns]
    sets += [(n, name, each) for n in ns for name in mpi_names for each in OF_MPI]
    seconds, libraries, raw = {}, {}, []
    for number in range(rounds):
        for n, name, each in sets[:: -1 if number % 2 else 1]:
            results = workers.run(__file__, {**options, "set": each}, per_host=n, hosts=None, n=n, mpi=name)
            if name:
                libraries[name] = results[0]["library"]
            for of_ranks in zip(*(result["found"] for result in results), strict=True):
                slowest = max(of_ranks, key=lambda row: row["seconds"])
                key = (name, n, slowest["dtype"], slowest["form"], slowest["bytes"])
                seconds.setdefault(key, []).append(slowest["seconds"])
                raw.append({"round": number, "mpi": name, "workers": n, **slowest})
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return seconds, libraries, raw


def row_of(seconds, name, n, dtype, size):
    def times(form):
        return seconds.get((name if form in ("raw", "sync", "async") else None, n, dtype, form, size))

    row = {"mpi": name, "workers": n, "dtype": dtype, "bytes": size}
    for form in ("gloo", "bound", "raw", "sync", "async"):
        if times(form):
            row[f"{form}_s"] = statistics.median(times(form))
            row[f"{form}_bus_gb_per_s"] = 2 * (n - 1) / n * size / row[f"{form}_s"] / 1e9
    for over, under in (("sync", "gloo"), ("async", "gloo"), ("sync", "raw"), ("async", "raw"), ("sync", "bound")):
        if times(under):
            compared = ratio(times(over), times(under))
            row[f"{over}_over_{under}"] = compared.median
            row[f"{over}_over_{under}_95"] = [compared.low, compared.high]
    return row


def table(rows):
    lines = ["| MPI | workers | dtype | size | gloo | raw | sync | async | bound | sync / gloo | async / gloo |"]
    lines[0] += " sync / raw | bus GB/s: raw | sync | bound |"
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    names = {size: name for name, size in SIZES.items()}
    for row in rows:
        cells = [mpiruns.LAUNCHERS[row["mpi"]].title, row["workers"], row["dtype"], names[row["bytes"]]]
        cells += [in_words(row.get(f"{form}_s")) for form in ("gloo", "raw", "sync", "async", "bound")]
        cells += [number(row.get(key)) for key in ("sync_over_gloo", "async_over_gloo", "sync_over_raw")]
        cells += [number(row.get(f"{form}_bus_gb_per_s")) for form in ("raw", "sync", "bound")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def in_words(seconds):
    if seconds is None:
        return ""
    return f"{1e6 * seconds:.0f} µs" if seconds < 1e-3 else f"{1e3 * seconds:.3g} ms"


def number(value):
    return "" if value is None else f"{value:.2f}"


def targets(rows, cores):
    """Of float32 by dist.all_reduce as it is by default."""
    for row in rows:
        if row["dtype"] != "float32":
            continue
        at = f"{mpiruns.LAUNCHERS[row['mpi']].title}, {row['workers']} workers, {row['bytes'] >> 10} KiB"
        if row["workers"] > cores:
            low, _ = row["sync_over_raw_95"]  # what differs by chance is not worse
            yield {"target": f"{at}: no slower than raw", "time_over_raw": row["sync_over_raw"], "met": low <= 1}
            continue
        of_gloo, of_raw = row["sync_over_gloo"], 1 / row["sync_over_raw"]
        match row["bytes"]:
            case 0x1000:
                yield {"target": f"{at}: at most 40 µs", "seconds": row["sync_s"], "met": row["sync_s"] <= 40e-6}
                yield {"target": f"{at}: at most 0.15 of gloo's time", "of_gloo": of_gloo, "met": of_gloo <= 0.15}
            case 0x400000:
                yield {"target": f"{at}: 0.9 of raw's bus bandwidth", "of_raw": of_raw, "met": of_raw >= 0.9}
            case 0x6400000:
                yield {"target": f"{at}: 1.5 of raw's bus bandwidth", "of_raw": of_raw, "met": of_raw >= 1.5}
                yield {"target": f"{at}: at most 0.7 of gloo's time", "of_gloo": of_gloo, "met": of_gloo <= 0.7}


def machine(libraries, load):
    cores = len(os.sched_getaffinity(0))
    lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    versions = {"python": platform.python_version(), "torch": torch.__version__, "mpi4py": version("mpi4py")}
    return {"processor": lines[0].partition(": ")[2], "cores": cores, "load_before": load, **versions, "mpi": libraries}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--mpi", default="openmpi,mpich", help=", ".join(mpiruns.LAUNCHERS))
    parser.add_argument("--workers", default="2,4")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds-each", type=float, default=0.4)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(json.loads(arguments.worker))
        return
    names, ns, load = mpiruns.find(arguments.mpi), list(map(int, arguments.workers.split(","))), os.getloadavg()[0]
    dtypes, sizes = arguments.dtypes.split(","), [SIZES[each] for each in arguments.sizes.split(",")]
    options = {"dtypes": dtypes, "sizes": sizes, "seconds_each": arguments.seconds_each}
    seconds, libraries, raw = measure(names, ns, options, arguments.rounds)
    rows = [row_of(seconds, *each) for each in itertools.product(names, ns, dtypes, sizes)]
    facts = machine(libraries, load)
    found = list(targets(rows, facts["cores"]))
    print(table(rows))
    for each in found:
        _, value, met = each.values()
        print(f"{'met' if met else 'NOT MET'}: {each['target']}: {value:.3g}")
    options |= {"rounds": arguments.rounds}
    text = json.dumps({"options": options, "machine": facts, "rows": rows, "targets": found, "raw": raw}, indent=1)
    arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
