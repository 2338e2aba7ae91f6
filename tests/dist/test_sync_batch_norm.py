"""Batch norm over all workers' rows is torch's own nn.BatchNorm on the whole batch in one process."""

import cases
import pytest
import torch

pytestmark = pytest.mark.timeout(60)

FORMS = {
    "fp32": {},
    "fp64": {"dtype": "float64"},
    "bf16": {"dtype": "bfloat16"},
    "channels last": {"channels_last": True},
    "far from 0": {"mean": 3000.0},  # where a sum of squares in fp32 would lose the variance
    "cumulative average": {"options": {"momentum": None}},
    "without weights": {"options": {"affine": False}, "dtype": "float64"},
    "without running statistics": {"options": {"track_running_stats": False}, "dtype": "float64"},
}
TOLERANCE = {"fp32": 1e-5, "channels last": 1e-5, "cumulative average": 1e-5, "bf16": 2e-2, "far from 0": 2e-3}


@pytest.mark.parametrize("rows", [[3, 4], [5, 0], [4, 1, 2]], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_sync_batch_norm_is_that_of_the_whole_batch(workers, form, rows):
    alone = cases.batch_norm_steps(sum(rows), slice(None), **FORMS[form])
    together = workers(len(rows)).run("sync_batch_norm", rows=rows, **FORMS[form])

    tolerance = TOLERANCE.get(form, 1e-10)
    for step in range(2):
        for name in ("outputs", "gradients"):
            joined = [row for worker in together for row in worker[name][step]]
            assert_close(joined, alone[name][step], tolerance)
    assert_close(sum(numbers(worker["weights"]) for worker in together), alone["weights"], tolerance)
    for worker in together:
        assert worker["buffers"] == together[0]["buffers"]
        assert worker["buffers"].keys() == alone["buffers"].keys()
        assert worker["kept"] == alone["kept"]
        for name, buffer in alone["buffers"].items():
            assert_close(worker["buffers"][name], buffer, tolerance)
    if alone["buffers"]:  # otherwise each worker evaluates by the statistics of its own rows, as torch does
        assert_close([row for worker in together for row in worker["evaluated"]], alone["evaluated"], tolerance)


def numbers(values):
    return torch.as_tensor(values, dtype=torch.float64)


def assert_close(found, expected, tolerance):
    torch.testing.assert_close(numbers(found), numbers(expected), rtol=tolerance, atol=tolerance)
