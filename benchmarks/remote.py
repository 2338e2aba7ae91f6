"""Time to the first batch, and to an epoch's end, of a corpus behind a slow link: distdl beside whole-shard downloads.

    python benchmarks/remote.py [--rate 100mbit] [--shards 128] [--shard-mb 4] [--lanes 128] [--batch 128]

One network namespace serves the shards over HTTP, the other reads them over a link of the given rate in both directions
(tbf): needs root and iproute2. Bound: the bytes of the first batch's samples, and of all shards, at the link's rate.
The peer is webdataset with FileCache, which downloads a shard before its first sample, and with `pipe:curl`, which
reads them in turn. Both see their shards' first samples, 128 shards one after the other: that a batch is made of
samples from 128 places is distdl's plan, and what its first batch has to fetch. `--keep FILE` writes the numbers.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "comm"))
from hosts import Hosts  # noqa: E402

PORT = 8437
SERVER = """
import signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from web import Web
web = Web(Path(sys.argv[1]))
web.host, web.port = "0.0.0.0", int(sys.argv[2])
web.start()
print("ready", flush=True)
signal.pause()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", default="100mbit")
    parser.add_argument("--shards", type=int, default=128)
    parser.add_argument("--shard-mb", type=float, default=4.0)
    parser.add_argument("--sample-kb", type=float, default=100.0)
    parser.add_argument("--lanes", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epoch", action="store_true", help="read the whole epoch as well")
    parser.add_argument("--keep", type=Path, help="JSON file for the numbers")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        print(json.dumps(CLIENTS[options.client](options)), flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="distdl-bench-") as folder:
        corpus = write_corpus(Path(folder) / "corpus", options)
        results = {name: measure(name, corpus, options) for name in CLIENTS}
    report(results, corpus_bytes(options), options)


def write_corpus(folder: Path, options: argparse.Namespace) -> Path:
    from distdl.data.corpus.shards import write_shards

    draws, size = random.Random(0), int(options.sample_kb * 1000)
    in_shard = max(1, int(options.shard_mb * 1e6 / size))
    samples = (
        {"__key__": f"{i:07}", "bin": draws.randbytes(size), "cls": i % 10} for i in range(options.shards * in_shard)
    )
    write_shards(samples, folder, classes=None, kind="noise", shard_samples=in_shard)
    return folder


def corpus_bytes(options: argparse.Namespace) -> int:
    return int(options.shards * options.shard_mb * 1e6)


def measure(client: str, corpus: Path, options: argparse.Namespace) -> dict[str, float]:
    with Hosts(2, options.rate) as hosts:
        server = hosts.start(0, [sys.executable, "-c", SERVER, str(corpus), str(PORT), str(ROOT / "tests")], {})
        assert server.stdout is not None
        server.stdout.readline()
        command = [sys.executable, __file__, *sys.argv[1:], "--client", client]
        began = hosts.sent_bytes(0)
        reader = hosts.start(1, [*command, "--url", f"http://{hosts.address(0)}:{PORT}"], {"OMP_NUM_THREADS": "1"})
        output, _ = reader.communicate(timeout=1800)
        if reader.returncode:
            sys.exit(f"{client} failed")
        found = json.loads(output.splitlines()[-1])
        found["sent_mb"] = (hosts.sent_bytes(0) - began) / 1e6
        server.kill()
        server.wait()
    print(client, found, flush=True)
    return found


# --- the readers, each in a process of its own ---


def read_distdl(options: argparse.Namespace) -> dict[str, float]:
    from distdl.config.schema import RemoteConfig
    from distdl.data.corpus.dataset import Dataset
    from distdl.data.order import Plan

    with tempfile.TemporaryDirectory(prefix="distdl-bench-cache-") as cache:
        began = time.perf_counter()
        with Dataset.open(options.url, remote=RemoteConfig(cache=cache, cache_gb=100)) as dataset:
            plan = Plan(dataset.sizes, seed=0, global_batch=options.batch, lanes=options.lanes, window=1000)
            end = plan.end_position(epochs=1, steps=None)
            dataset.follow(plan.steps(0, end, end=end), plan.epoch_length)
            steps = [rows.sample_id[rows.valid].tolist() for rows in plan.steps(0, end, end=end)]
            found: dict[str, float] = {}
            for number, ids in enumerate(steps if options.epoch else steps[:1]):
                for ahead in steps[number : number + 1]:
                    dataset.announce(ahead, None)
                for each in ids:
                    dataset.read(*dataset.locate(each))
                found.setdefault("first_batch_s", time.perf_counter() - began)
            if options.epoch:
                found["epoch_s"] = time.perf_counter() - began
            return found


def read_webdataset(options: argparse.Namespace, urls: list[str], **settings: object) -> dict[str, float]:
    import webdataset as wds

    began = time.perf_counter()
    dataset = wds.WebDataset(urls, shardshuffle=False, nodesplitter=None, **settings)
    found: dict[str, float] = {}
    one_of_each_lane: set[str] = set()
    for n_read, sample in enumerate(dataset, start=1):
        one_of_each_lane.add(str(sample["__url__"]))
        if n_read == options.batch:
            found["first_batch_s"] = time.perf_counter() - began
        if len(one_of_each_lane) == min(options.lanes, options.shards):
            found.setdefault("first_batch_of_all_lanes_s", time.perf_counter() - began)
            if not options.epoch:
                break
    if options.epoch:
        found["epoch_s"] = time.perf_counter() - began
    return found


def read_file_cache(options: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="distdl-bench-wds-") as cache:
        urls = [f"{options.url}/{i:06}.tar" for i in range(options.shards)]
        return read_webdataset(options, [f"pipe:curl -s -f {url}" for url in urls], cache_dir=cache, cache_size=10**12)


def read_pipe(options: argparse.Namespace) -> dict[str, float]:
    return read_webdataset(
        options, [f"pipe:curl -s -f {options.url}/{i:06}.tar" for i in range(options.shards)], cache_size=0
    )


CLIENTS = {"distdl": read_distdl, "webdataset FileCache": read_file_cache, "webdataset pipe:curl": read_pipe}


def report(results: dict[str, dict[str, float]], n_bytes: int, options: argparse.Namespace) -> None:
    per_s = float(options.rate.removesuffix("mbit")) * 1e6 / 8
    bound = {"first_batch_s": options.batch * options.sample_kb * 1000 / per_s, "epoch_s": n_bytes / per_s}
    print(f"{options.rate}, {options.shards} shards of {options.shard_mb:g} MB, batches of {options.batch}")
    print(f"bound at the link's rate: first batch {bound['first_batch_s']:.2f} s, all shards {bound['epoch_s']:.1f} s")
    for name, found in results.items():
        print(f"{name:24s} " + "  ".join(f"{key} {value:.2f}" for key, value in found.items()))
    if options.keep:
        settings = {key: value for key, value in vars(options).items() if key not in ("keep", "client", "url")}
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        kept = {"settings": settings, "bound": bound, "cores": os.cpu_count(), "commit": commit, "results": results}
        options.keep.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
