"""benchmarks/augment.py runs, on few small images; its numbers mean nothing here."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "augment.py"


def test_each_contender_has_a_time_per_image(tmp_path):
    options = ["--side", "32", "--rows", "4", "--rounds", "1", "--out", str(tmp_path / "raw.json")]
    ended = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=120)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    times = json.loads((tmp_path / "raw.json").read_text())["microseconds_per_image"]
    assert {"rotate", "3 warps, fused", "rand_augment", "1 warp (Pillow)"} <= set(times)
    assert all(value > 0 for value in times.values())
