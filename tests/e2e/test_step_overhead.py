"""benchmarks/step_overhead.py runs, with no peers and few rounds; its numbers mean nothing here."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step_overhead.py"


def test_distdl_is_compared_with_the_bare_loop_on_one_and_two_workers(tmp_path):
    options = ["--networks", "lenet5", "--rounds", "1", "--frameworks", "", "--out", str(tmp_path / "raw.json")]
    ended = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=240)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "| distdl | " in ended.stdout
    results = json.loads((tmp_path / "raw.json").read_text())["results"]
    assert [each["workers"] for each in results] == [1, 2]
    for each in results:
        assert each["ratio"]["distdl"][0] == each["seconds"]["distdl"][0] / each["seconds"]["bare"][0]
