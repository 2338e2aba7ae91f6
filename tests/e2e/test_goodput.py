"""benchmarks/watch/goodput.py for half a minute: whoever is killed, and when, the weights are the same at the end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "watch" / "goodput.py"


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
@pytest.mark.timeout(400)
def test_workers_that_are_killed_again_and_again_end_with_the_same_weights_and_leave_nothing(tmp_path):
    pytest.importorskip("sklearn")
    options = ["--minutes", "0.5", "--every-s", "6", "--steps", "1000", "--out", str(tmp_path / "raw.json")]

    ended = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=380)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads((tmp_path / "raw.json").read_text())
    assert result["n_kills"] >= 1
    assert result["same_weights"] and result["same_rows"]
    assert not any(result["left"].values())
    assert result["seen"]["ports"]  # or it would not have noticed that one was left
    assert 0 < result["goodput"] <= 1.2  # by luck of the machine it may be a little above 1
