"""How fast the command line answers: `distdl --help` and a config with mistakes, beside the bare interpreter.

    python benchmarks/startup.py [--rounds 20]

Interleaved; medians of the wall time of whole processes. The bound is the interpreter's own start.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BAD_CONFIG = """
model: {name: lenet}
data: {train: {shard: x}}
train: {global_batch: 0, epochs: 1}
optim: {lr: -1}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        bad = Path(folder) / "bad.yaml"
        bad.write_text(BAD_CONFIG)
        distdl = [sys.executable, "-m", "distdl"]
        commands = {
            "python -c pass (the bound)": ([sys.executable, "-c", "pass"], 0),
            "python -c 'import torch' (for comparison)": ([sys.executable, "-c", "import torch"], 0),
            "distdl --help": ([*distdl, "--help"], 0),
            "distdl train, a config with four mistakes": ([*distdl, "train", str(bad)], 2),
        }
        times = {name: [] for name in commands}
        for _ in range(rounds):
            for name, (command, code) in commands.items():
                began = time.perf_counter()
                result = subprocess.run(command, capture_output=True, cwd=folder)
                times[name].append(time.perf_counter() - began)
                assert result.returncode == code, result.stderr
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    print(json.dumps({"median_s": medians, "rounds": rounds}, indent=2))
    raw = Path(__file__).parent / "results" / "startup.json"
    raw.write_text(json.dumps({"median_s": medians, "seconds": times}) + "\n")


if __name__ == "__main__":
    main()
