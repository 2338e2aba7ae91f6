"""benchmarks/comm/mpi.py runs, of one size and one round; its numbers mean nothing here."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = {"openmpi": "mpirun.openmpi", "mpich": str(ROOT / ".mpi" / "mpich" / "bin" / "mpirun")}


@pytest.mark.timeout(120)
def test_every_form_is_measured_by_itself(tmp_path):
    name = next((name for name, program in PROGRAMS.items() if shutil.which(program)), None)
    if name is None:
        pytest.skip("no MPI here: make mpi")
    options = ["--mpi", name, "--workers", "2", "--sizes", "4M", "--rounds", "1", "--seconds-each", "0.01"]

    ended = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "comm" / "mpi.py", *options, "--out", tmp_path / "raw.json"],
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 workers, 4096 KiB: 0.9 of raw's bus bandwidth: " in ended.stdout
    found = json.loads((tmp_path / "raw.json").read_text())
    by_dtype = {row["dtype"]: row for row in found["rows"]}
    assert list(by_dtype) == ["float32", "bfloat16"]
    for dtype, row in by_dtype.items():
        forms = {key.removesuffix("_s") for key in row if key.endswith("_s") and "bus" not in key}
        assert forms == {"gloo", "bound", "sync", "async"} | ({"raw"} if dtype == "float32" else set())
        assert row["sync_over_gloo"] == row["sync_s"] / row["gloo_s"]
        assert row["sync_bus_gb_per_s"] == pytest.approx(row["bytes"] / row["sync_s"] / 1e9)
    assert list(found["machine"]["mpi"]) == [name]
    assert str(ROOT) not in json.dumps(found)
