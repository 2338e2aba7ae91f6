"""What `distdl bench comm` is asked for, what its numbers mean, and how they are shown. Free of torch.

Of a collective on S bytes that takes t seconds on n workers, as nccl-tests define it in doc/PERFORMANCE.md (GB = 1e9):

    algorithm bandwidth = S / t             what a caller gets; S is the whole array, of which all_gather, all_to_all,
                                            reduce_scatter, gather and scatter give or take an n-th part at each worker
    bus bandwidth = FACTORS[name](n) S / t  what has to pass the busiest link: to compare with what the hardware can do
"""

import importlib.util
import math
import re
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distdl.errors import UserError, did_you_mean

BACKENDS = ("auto", "gloo", "nccl", "mpi")
DTYPES = ("fp32", "bf16")
SIZES = "4K,64K,1M,16M,64M"
MOST_BYTES = 2**31

Factor = Callable[[int], float]
Row = dict[str, Any]


def _once(n: int) -> float:
    return 1.0


def _to_the_others(n: int) -> float:
    return (n - 1) / n


def _there_and_back(n: int) -> float:
    return 2 * (n - 1) / n


FACTORS: dict[str, Factor] = {  # of n workers; in the order in which they are measured
    "all_reduce": _there_and_back,
    "tree": _there_and_back,
    "hierarchical": _there_and_back,
    "reduce": _once,
    "broadcast": _once,
    "all_gather": _to_the_others,
    "reduce_scatter": _to_the_others,
    "all_to_all": _to_the_others,
    "gather": _to_the_others,  # this and the next are not in PERFORMANCE.md: as in gather.cu and scatter.cu
    "scatter": _to_the_others,
    "barrier": _once,  # of 0 bytes
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """`operations`: None for all that can be measured with these workers. `iterations`: None for what `seconds_each`
    leaves time for, of each operation at each size."""

    sizes: list[int]  # bytes, ascending
    operations: list[str] | None
    backend: str
    dtype: str
    seconds_each: float
    iterations: int | None


# --- what is asked for ---


def parse_sizes(text: str) -> list[int]:
    """ "4K,1M" -> bytes, ascending; K, M and G are powers of 1024. Raises UserError."""
    return sorted({_parse_size(each.strip()) for each in text.split(",")})


def _parse_size(text: str) -> int:
    where, usual = "command line --sizes", SIZES.split(",")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", text, re.IGNORECASE)
    if match is None:
        raise UserError(
            f"'{text}' is not a size{did_you_mean(text.upper(), usual)}", where=where, fix=f"Such as {SIZES}."
        )
    size = float(match[1]) * 1024 ** " KMG".index(match[2].upper() or " ")
    if not 1 <= size <= MOST_BYTES:
        raise UserError(f"{text} is out of range", where=where, fix=f"From 1 byte to {show_size(MOST_BYTES)}.")
    return int(size)


def parse_operations(text: str) -> list[str]:
    """Names by commas, in the order of FACTORS. Raises UserError."""
    names = {parse_name(each.strip(), FACTORS, "operation", "--ops") for each in text.split(",")}
    return [name for name in FACTORS if name in names]


def parse_name(text: str, known: Collection[str], kind: str, option: str) -> str:
    if text in known:
        return text
    raise UserError(
        f"unknown {kind} '{text}'{did_you_mean(text, known)}",
        where=f"command line {option}",
        fix=f"Known: {', '.join(known)}.",
    )


def check_plot(path: Path, operations: Sequence[str] | None) -> None:
    """Raises UserError if there could be no picture of them there: better now than after all was measured."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "the package matplotlib is not installed", where="command line --plot", fix="pip install 'distdl[plot]'"
        )
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = "this is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UserError(what, where=f"command line --plot {path}", fix="Name a file in a folder that is there.")
    if operations == ["barrier"]:
        raise UserError("a barrier has no bandwidth", where="command line --plot", fix="Add an operation to --ops.")


# --- what the numbers mean ---


def measured(name: str, size_bytes: int, n_workers: int, batches_s: Sequence[float], copy_s: float | None) -> Row:
    """`batches_s`: seconds of a call, the mean of each batch of calls. `copy_s`: of a copy of as many bytes."""
    latency_s = statistics.median(batches_s)
    row: Row = {
        "operation": name,
        "size_bytes": size_bytes,
        "latency_s": latency_s,
        "latency_95_s": sorted(batches_s)[math.ceil(0.95 * len(batches_s)) - 1],
    }
    if copy_s is None:  # nothing is sent
        return row
    bus = FACTORS[name](n_workers) * size_bytes / latency_s / 1e9
    copy = size_bytes / copy_s / 1e9
    return row | {
        "algorithm_gb_per_s": size_bytes / latency_s / 1e9,
        "bus_gb_per_s": bus,
        "copy_gb_per_s": copy,
        "share_of_copy": bus / copy,
    }


# --- for a person ---

_COLUMNS = ("size", "median", "95 %", "algorithm", "bus", "copy", "bus / copy")
_LEGEND = """\
time of a call on the slowest worker: median, and 95th percentile of the batches of calls
bandwidths in GB/s (1e9 bytes): algorithm = size / median; bus = what passes the busiest link;
copy = tensor.copy_ of that size in each worker, by all of them at once"""


def heading(result: Row) -> str:
    nodes = "" if result["nodes"] is None else f" on {result['nodes']} node{'s' if result['nodes'] > 1 else ''}"
    threads = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
    who = f"{result['workers']} workers{nodes}, {result['backend']}, {result['device']} ({threads} each)"
    return f"{who}, {result['dtype']}, torch {result['torch']}\n{_LEGEND}"


def table(rows: Sequence[Row]) -> str:
    """Rows of one operation, a line each."""
    lines = ["", _line(rows[0]["operation"], _COLUMNS)]
    for row in rows:
        times = [show_time(row["latency_s"]), show_time(row["latency_95_s"])]
        if "bus_gb_per_s" not in row:
            lines.append(_line("", ["-", *times]))
            continue
        rates = [show_rate(row[key]) for key in ("algorithm_gb_per_s", "bus_gb_per_s", "copy_gb_per_s")]
        lines.append(_line("", [show_size(row["size_bytes"]), *times, *rates, f"{100 * row['share_of_copy']:.1f} %"]))
    return "\n".join(lines)


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:<15}" + "".join(f"{cell:>11}" for cell in cells)


def show_size(size_bytes: int) -> str:
    """4096 -> 4K, 1536 -> 1.5K"""
    for unit, factor in (("G", 2**30), ("M", 2**20), ("K", 2**10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.4g}{unit}"
    return str(size_bytes)


def show_time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{1e6 * seconds:.3g} us"


def show_rate(gb_per_s: float) -> str:
    return f"{gb_per_s:.1f}" if gb_per_s >= 100 else f"{gb_per_s:.3g}"


def plot(result: Row, path: Path) -> None:
    """A PNG: bus bandwidth over size, a line for each operation, and the copy's. Raises UserError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if "bus_gb_per_s" in row]
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)  # needs no screen
    axes = figure.add_subplot(xscale="log", yscale="log")
    for i, name in enumerate(dict.fromkeys(row["operation"] for row in rows)):
        mine = [row for row in rows if row["operation"] == name]
        sizes, rates = [row["size_bytes"] for row in mine], [row["bus_gb_per_s"] for row in mine]
        axes.plot(sizes, rates, marker="os^vD"[i % 5], markersize=5, label=name)
    copies = sorted({row["size_bytes"]: row["copy_gb_per_s"] for row in rows}.items())
    axes.plot(*zip(*copies), color="black", linestyle="--", label="copy in memory")
    axes.set_xticks([size for size, _ in copies], [show_size(size) for size, _ in copies])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set(xlabel="size (bytes)", ylabel="bus bandwidth (GB/s)", title=heading(result).partition("\n")[0])
    axes.legend(ncols=2)
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise UserError(f"the picture can't be written: {error}", where=f"command line --plot {path}") from error
