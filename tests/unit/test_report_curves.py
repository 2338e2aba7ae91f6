"""The curves of a report, and where it says that the time went."""

import math
from pathlib import Path

import pytest

from distdl.report import curves, timing
from distdl.report.record import Record
from distdl.run.folder import RunFolder


def record(*rows, final=None) -> Record:
    return Record(
        label="run",
        folder=RunFolder(Path("runs/run")),
        state="done",
        best={},
        config=None,
        config_problem="",
        written_config={},
        rows=list(rows),
        final=final or {},
        environment={},
        failures=[],
        git_diff="",
    )


def train_row(step, **values):
    return {"kind": "train", "step": step, "epoch": step / 10, "samples": 8 * step, "time_s": step / 2, **values}


def eval_row(step, **values):
    return {**train_row(step), "kind": "eval", "set": "eval", "count": 100, "eval_s": 3.0, **values}


# --- curves ---


def test_rows_become_columns_of_their_kind_and_evaluation_set():
    rows = [train_row(10, loss=2.0, lr=0.1), train_row(20, loss=1.0, lr=0.2), eval_row(20, set="dev", top1=0.5)]

    groups = curves.groups(record(*rows))

    assert groups == {
        "train": {
            "step": [10, 20],
            "epoch": [1.0, 2.0],
            "time": [5.0, 10.0],
            "values": {"loss": [2.0, 1.0], "lr": [0.1, 0.2]},
        },
        "eval/dev": {"step": [20], "epoch": [2.0], "time": [10.0], "values": {"top1": [0.5]}},
    }


def test_a_value_that_is_missing_or_no_number_is_a_gap():
    rows = [train_row(1, loss=2.0), train_row(2, loss=None), train_row(3), train_row(4, loss="x"), train_row(5, loss=1)]

    assert curves.groups(record(*rows))["train"]["values"] == {"loss": [2.0, None, None, None, 1.0]}


def test_the_parts_of_a_steps_time_are_no_curves_but_rates_are():
    row = train_row(1, loss=1.0, step_s=0.1, forward_s=0.02, samples_per_s=80.0)

    assert list(curves.groups(record(row))["train"]["values"]) == ["loss", "samples_per_s"]


def test_panels_begin_with_the_loss_and_evaluation_and_the_systems_are_apart():
    rows = [
        train_row(1, lr=0.1, loss=1.0, mfu=0.4),
        {**train_row(1), "kind": "system", "cpu_percent": 50.0, "gpu0_memory_bytes": 1024},
        eval_row(1, loss=1.0, top1=0.5),
    ]

    panels = curves.panels([curves.groups(record(*rows))])

    assert [(panel["metric"], panel["unit"], panel["part"]) for panel in panels] == [
        ("loss", "", "curves"),
        ("top1", "percent", "curves"),
        ("lr", "", "curves"),
        ("mfu", "percent", "curves"),
        ("cpu_percent", "", "system"),
        ("gpu0_memory_bytes", "bytes", "system"),
    ]


def test_a_long_curve_is_thinned_to_what_can_be_seen():
    losses = [math.sin(step / 40) for step in range(10_000)]
    losses[1234], losses[7777] = 50.0, -50.0
    rows = [train_row(step, loss=loss) for step, loss in enumerate(losses)]

    thinned = curves.groups(record(*rows))["train"]

    shown = thinned["values"]["loss"]
    assert len(shown) == len(thinned["step"]) == curves.MOST_POINTS
    assert thinned["step"] == sorted(thinned["step"])
    assert (thinned["step"][0], thinned["step"][-1]) == (0, 9_999)
    assert (max(shown), min(shown)) == (50.0, -50.0)
    assert abs(thinned["step"][shown.index(50.0)] - 1234) < 10


def test_thinning_keeps_the_order_of_high_and_low_and_a_stretch_without_values_is_a_gap():
    columns = {"step": list(range(9)), "epoch": list(range(9)), "time": list(range(9))}
    group = {**columns, "values": {"loss": [5.0, 1.0, 3.0, None, None, None, 2.0, None, 9.0]}}

    thinned = curves.thinned(group, curves.low_and_high, most=6)

    assert thinned["step"] == [0, 2, 3, 5, 6, 8]
    assert thinned["values"]["loss"] == [5.0, 1.0, None, None, 2.0, 9.0]


def test_events_keep_their_place_and_message():
    row = {**train_row(7), "kind": "event", "event": "resumed", "message": "on 2 workers"}

    assert curves.events(record(row)) == [
        {"step": 7, "epoch": 0.7, "time": 3.5, "name": "resumed", "message": "on 2 workers"}
    ]


# --- time ---

PARTS = {"data_wait_s": 0.01, "forward_s": 0.02, "backward_s": 0.04, "exchange_s": 0.01, "update_s": 0.01}


def test_the_time_of_a_run_is_split_without_anything_lost():
    rows = [train_row(10, step_s=0.1, **PARTS), train_row(30, step_s=0.2, **PARTS), eval_row(30)]

    seconds = timing.total_seconds(record(*rows, final={"wall_s": 10.0}))

    assert seconds == pytest.approx(
        {
            "waiting for data": 0.3,
            "forward": 0.6,
            "backward": 1.2,
            "exchange of gradients": 0.3,
            "update": 0.3,
            "rest of the step": 10 * 0.01 + 20 * 0.11,
            "evaluation": 3.0,
            "saving and pauses": 10.0 - (10 * 0.1 + 20 * 0.2) - 3.0,
        }
    )
    assert sum(seconds.values()) == pytest.approx(10.0)


def test_a_run_that_timed_only_the_data_wait_has_that_and_the_rest():
    seconds = timing.total_seconds(record(train_row(10, data_wait_s=0.25, step_s=0.5)))

    assert seconds == pytest.approx({"waiting for data": 2.5, "rest of the step": 2.5})


def test_parts_that_overlap_leave_no_negative_rest():
    parts = timing.step_parts({"forward_s": 0.3, "exchange_s": 0.3, "step_s": 0.5})

    assert parts["rest of the step"] == 0.0


def test_a_stretch_of_the_run_is_shown_as_the_mean_of_its_steps():
    rows = [train_row(1, step_s=1.0), train_row(4, step_s=2.0)]  # 1 step of 1 s, 3 steps of 2 s
    rows += [train_row(4 + n, step_s=2.0) for n in range(1, 600)]

    shown = timing.over_the_run(record(*rows))

    assert len(shown["step"]) == 300 and shown["step"][-1] == 603
    assert shown["values"]["rest of the step"][0] == pytest.approx((1 * 1.0 + 3 * 2.0) / 4)


def test_speed_is_over_the_steps_alone():
    rows = [train_row(10, step_s=0.1), train_row(20, step_s=0.3), eval_row(20)]

    assert timing.samples_per_second(record(*rows)) == pytest.approx(160 / (10 * 0.1 + 10 * 0.3))


def test_a_run_without_training_rows_has_no_times():
    assert timing.over_the_run(record()) is None
    assert timing.samples_per_second(record()) is None
    assert timing.total_seconds(record()) == {}
