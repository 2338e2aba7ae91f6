"""What a framework's step costs over a bare PyTorch loop of the same network, on CPUs, with 1 and 2 workers.

    make bench-peers                                       everything below, about 12 minutes on 2 cores
    python benchmarks/step_overhead.py [--networks lenet5,resnet18] [--workers 1,2] [--rounds N] [--peers .venv-peers]

LeNet-5 with 64 rows and ResNet-18 with 16 rows of 64x64; contenders.py has the loops. Each framework lives in processes
of its own, one a worker and one thread each, and trains only when it is its turn; in every round each has one, in an
order that changes. Reported: the median over the rounds of the ratio to the bare loop's time in the same round, with
its 95 % interval from the bootstrap. The bound is 1.0. With 2 workers the bare loop has DistributedDataParallel.

All of them run with a C library that keeps freed memory, as distdl's own workers do: without, a process may or may not
take page faults for every large tensor, by the luck of its heap, which makes up to a third of a step.

Without an environment of peers only distdl is compared.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from contenders import CASES

from distdl.bench.ratio import ratio

HERE = Path(__file__).resolve().parent
PEERS = ("lightning", "fabric", "accelerate", "hf_trainer")
SHOWN = {"distdl": "distdl", "lightning": "Lightning", "fabric": "Fabric", "accelerate": "Accelerate"}
SHOWN |= {"hf_trainer": "Hugging Face Trainer"}
ROUNDS = {"lenet5": 60, "resnet18": 30}
WARM_UP = 3  # rounds
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


class Contender:
    """The processes of one framework. A turn is one round of steps; between turns they wait for a line."""

    def __init__(self, framework: str, network: str, n_workers: int, python: Path) -> None:
        self.framework = framework
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the processes
        self._workers: list[subprocess.Popen[str]] = []
        self._replies = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for rank in range(n_workers):
            reading, writing = os.pipe()
            environment = {
                **os.environ,
                **KEEP_FREED_MEMORY,
                "PYTHONPATH": str(HERE.parent),
                "OMP_NUM_THREADS": "1",
                "REPLY_DESCRIPTOR": str(writing),
                **(_distributed(rank, n_workers, port) if n_workers > 1 else {}),
            }
            command = [str(python), str(HERE / "contenders.py"), framework, network]
            self._workers.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=self._log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(writing,),
                    text=True,
                )
            )
            os.close(writing)
            self._replies.append(os.fdopen(reading))
        self._wait()  # until all are set up

    def turn(self) -> float:
        """Seconds of the slowest worker."""
        for worker in self._workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return self._wait()

    def _wait(self) -> float:
        lines = [replies.readline() for replies in self._replies]
        if not all(lines):
            self._log.seek(0)
            sys.exit(f"{self.framework} ended:\n{self._log.read()[-3000:]}")
        return max(map(float, lines))

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.communicate()
        self._log.close()


def _distributed(rank: int, n_workers: int, port: int) -> dict[str, str]:
    """What torchrun would say."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(n_workers),
        "LOCAL_WORLD_SIZE": str(n_workers),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "bench",
        "GLOO_SOCKET_IFNAME": "lo",
    }


def compare(frameworks: dict[str, Path], network: str, n_workers: int, n_rounds: int) -> dict:
    """`frameworks`: the interpreter of each."""
    draw, seconds = random.Random(0), {name: [] for name in frameworks}
    with contextlib.ExitStack() as closing:
        contenders = []
        for name, python in frameworks.items():
            contenders.append(Contender(name, network, n_workers, python))
            closing.callback(contenders[-1].close)
        for number in range(WARM_UP + n_rounds):
            for contender in draw.sample(contenders, len(contenders)):
                taken = contender.turn()
                if number >= WARM_UP:
                    seconds[contender.framework].append(taken)
    steps = CASES[network].steps_per_round
    return {
        "network": network,
        "workers": n_workers,
        "global_batch": CASES[network].global_batch,
        "steps_per_round": steps,
        "rounds": n_rounds,
        "bound": 1.0,
        "ms_per_step": {name: 1e3 * statistics.median(times) / steps for name, times in seconds.items()},
        "ratio": {name: ratio(times, seconds["bare"]) for name, times in seconds.items() if name != "bare"},
        "seconds": seconds,
    }


def markdown(results: list[dict]) -> str:
    """The README's table: a row per framework."""
    heads = [f"{each['network']}, {each['workers']} worker{'s' * (each['workers'] > 1)}" for each in results]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    lines.append("| bare loop | " + " | ".join(f"{each['ms_per_step']['bare']:.2f} ms" for each in results) + " |")
    for name in results[0]["ratio"]:
        cells = ["{:.3f} ({:.3f} to {:.3f})".format(*each["ratio"][name]) for each in results]
        lines.append(f"| {SHOWN[name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(CASES))
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--rounds", type=int, help="(default: 60 of LeNet-5, 30 of ResNet-18)")
    parser.add_argument("--peers", type=Path, default=HERE.parent / ".venv-peers", help="environment of the peers")
    parser.add_argument("--frameworks", default=",".join(PEERS), help="peers to compare, besides distdl")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "step_overhead.json", help="raw times")
    arguments = parser.parse_args()
    python = arguments.peers / "bin" / "python"
    peers = [name for name in PEERS if name in arguments.frameworks.split(",")] if python.exists() else []
    frameworks = {"bare": Path(sys.executable), "distdl": Path(sys.executable)} | dict.fromkeys(peers, python)
    versions = {"torch": torch.__version__, **(peer_versions(python) if peers else {})}
    results, began = [], time.monotonic()
    for network in arguments.networks.split(","):
        for n_workers in map(int, arguments.workers.split(",")):
            results.append(compare(frameworks, network, n_workers, arguments.rounds or ROUNDS[network]))
            print(json.dumps({key: value for key, value in results[-1].items() if key != "seconds"}), flush=True)
    print(f"\n{markdown(results)}\n\n{time.monotonic() - began:.0f} s, {versions}")
    arguments.out.write_text(json.dumps({"versions": versions, "results": results}) + "\n")


def peer_versions(python: Path) -> dict[str, str]:
    """Of the peers. Their PyTorch has to be ours: another one has other kernels."""
    source = "import json, torch; from importlib.metadata import version as v; names = ['lightning', 'accelerate', "
    source += "'transformers']; print(json.dumps({'torch': torch.__version__, **{n: v(n) for n in names}}))"
    found = json.loads(subprocess.run([python, "-c", source], capture_output=True, text=True, check=True).stdout)
    if found.pop("torch") != torch.__version__:
        sys.exit(f"{python} has another PyTorch than this environment")
    return found


if __name__ == "__main__":
    main()
