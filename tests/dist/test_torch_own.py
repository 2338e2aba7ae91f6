"""Over MPI pass those of torch's own tests that did when benchmarks/results/comm/mpi_torch_tests.txt was written."""

from pathlib import Path

import pytest
import torch_own
from mpis import AS_ROOT

EXPECTED = Path(__file__).parents[2] / "benchmarks/results/comm/mpi_torch_tests.txt"


@pytest.mark.matrix
@pytest.mark.timeout(1800)
def test_torchs_own_tests_pass(mpi):
    pytest.importorskip("expecttest", reason="torch's own tests need expecttest")

    found = torch_own.run(list(mpi.mpirun), AS_ROOT)

    expected = torch_own.passed_in(EXPECTED.read_text())
    assert len(expected) > 100
    assert {test: found[test] for test in expected & found.keys() if found[test][0] != "passed"} == {}
    assert len(expected - found.keys()) < 10, "torch has others now"
