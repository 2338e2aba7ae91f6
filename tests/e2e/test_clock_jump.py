"""Fault: the wall clock jumps by an hour while a run goes on, as when a machine's clock is set.

Nothing that waits or measures may ask that clock: no false time-out, no early stop, and times that only grow.
"""

import json
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

SOURCE = Path(__file__).with_name("clock.c")


@pytest.fixture(scope="module")
def clock(tmp_path_factory) -> Path:
    """A library that is loaded before all others and lies about the wall clock."""
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    try:
        made = subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"], capture_output=True)
    except FileNotFoundError:
        pytest.skip("no C compiler here")
    if made.returncode:
        pytest.skip(f"the clock can't be compiled here: {made.stderr.decode()}")
    return library


@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_fault_43_a_wall_clock_that_jumps_by_an_hour(place, clock, jump_s):
    jumped = place.path / "jumped"
    fault = {"rank": 1, "where": "train", "nth": 40, "kill": "nothing", "once": str(jumped)}
    every = {"train__log_every": "0.1 s", "checkpoint__every": "0.3 s", "train__stop_after": "30 min"}
    config = place.config(model__name="faulty:lenet5", train__steps=200, train__eval_every=None, **every)

    result = place.run(
        "train",
        config,
        "--nproc",
        2,
        FAULT=json.dumps(fault),
        LD_PRELOAD=str(clock),
        CLOCK_JUMP_S=str(jump_s),
        CLOCK_JUMPED=str(jumped),
    )

    assert result.code == 0, result.output
    assert jumped.exists()
    times_s = [row["time_s"] for row in place.rows("run")]
    assert len([row for row in place.rows("run") if row["step"] > 50]) > 2  # by the time, and not only at the end
    assert all(0 < later - earlier < result.seconds for earlier, later in pairwise(times_s))
    assert times_s[-1] < result.seconds
    assert all(0 < row["step_s"] < result.seconds for row in place.rows("run"))
    final = json.loads((place.path / "runs/run/final.json").read_text())
    assert (final["outcome"], final["steps"]) == ("done", 200)
    assert 0 < final["wall_s"] < result.seconds and 0 < final["this_launch_s"] < result.seconds
