"""The tracker that the loop talks to: one call reaches every place, and none of them can stop training."""

import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest

from distdl.config.schema import TrackConfig
from distdl.run.folder import RunFolder, create_or_reopen
from distdl.track import NullTracker, Tracker, jsonl
from distdl.track.background import Background

ROW = {"kind": "train", "step": 20, "epoch": 0.1, "samples": 160, "time_s": 2.0, "loss": 1.5, "lr": 0.1}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create_or_reopen(tmp_path / "run", resume=False)


def open_tracker(folder: RunFolder, *, resume_step: int | None = None, verbosity: int = 0, **track: Any) -> Any:
    return Tracker.open(
        folder,
        TrackConfig(**track),
        config={},
        resume_step=resume_step,
        total_steps=100,
        samples_per_epoch=1600,
        verbosity=verbosity,
        screen="plain",
    )


class FakeSink:
    """Keeps what it is given; can be told to block until released, or to raise."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.rows: list[Any] = []
        self.outcome = ""
        self.release = threading.Event()
        self.release.set()
        self.error = error

    def log(self, rows: list[Any]) -> None:
        self.release.wait(10)
        if self.error:
            raise self.error
        self.rows += rows

    def close(self, outcome: str) -> None:
        self.outcome = outcome


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_row_reaches_the_file_and_the_screen(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with open_tracker(folder) as tracker:
        tracker.log(ROW)

    assert jsonl.read(folder.metrics) == [ROW]
    assert "step 20/100 loss 1.500 lr 0.10" in capsys.readouterr().out


def test_a_bad_row_is_refused_before_it_reaches_anything(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = open_tracker(folder)

    with pytest.raises(TypeError, match="loss"):
        tracker.log({**ROW, "loss": object()})

    tracker.close("failed")
    assert jsonl.read(folder.metrics) == [] and capsys.readouterr().out == ""


def test_a_row_kept_from_before_a_restart_is_shown_but_written_nowhere_again(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_tracker(folder) as tracker:
        tracker.log(ROW)
    sink = FakeSink()

    with open_tracker(folder, resume_step=20) as tracker:
        tracker.background.append(Background("fake", lambda say: sink))
        tracker.log({**ROW, "time_s": 9.0})
        tracker.log({**ROW, "step": 40})

    assert jsonl.read(folder.metrics) == [ROW, {**ROW, "step": 40}]
    assert sink.rows == [{**ROW, "step": 40}]
    assert capsys.readouterr().out.count("step 20/100") == 2


def test_a_warning_is_given_once_a_topic_and_also_when_quiet(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_tracker(folder, verbosity=-1) as tracker:
        tracker.say("not shown")
        for sample in range(3):
            tracker.warn_once("bad samples", f"can't decode sample {sample}")

    assert capsys.readouterr().out == "warning: can't decode sample 0\n"


def test_metrics_that_can_not_be_written_are_one_warning(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.metrics.mkdir()  # nothing can be appended to a folder

    tracker = open_tracker(folder, verbosity=-1)
    tracker.log(ROW)
    tracker.log({**ROW, "step": 40})
    folder.metrics.rmdir()
    tracker.close("done")

    assert capsys.readouterr().out.count("warning:") == 1
    assert [row["step"] for row in jsonl.read(folder.metrics)] == [20, 40]


def test_the_summary_is_the_last_thing_printed_and_a_second_close_does_nothing(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = open_tracker(folder, verbosity=-1)
    tracker.background.append(Background("fake", lambda say: FakeSink(error=RuntimeError("no route to host"))))
    tracker.log(ROW)

    tracker.close("done", ["done: step 100/100", "run folder runs/x"])
    tracker.close("failed", ["again"])

    lines = capsys.readouterr().out.splitlines()
    assert "fake is off" in lines[0] and "no route to host" in lines[0]
    assert lines[1:] == ["done: step 100/100", "run folder runs/x"]


def test_a_failing_background_tracker_is_one_warning_and_gets_no_more_rows(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    abandoned = []
    fake = Background("fake", lambda say: FakeSink(error=SystemExit(3)), abandon=lambda: abandoned.append(1))
    with open_tracker(folder, verbosity=-1) as tracker:
        tracker.background.append(fake)
        tracker.log(ROW)
        wait_for(lambda: fake.fault)
        tracker.log({**ROW, "step": 40})
        tracker.log({**ROW, "step": 60})

    assert capsys.readouterr().out.count("warning: fake is off") == 1
    assert abandoned == [1]
    assert len(jsonl.read(folder.metrics)) == 3


def test_a_background_tracker_gets_all_rows_in_order_and_the_outcome() -> None:
    sink = FakeSink()
    background = Background("fake", lambda say: sink)
    for step in range(200):
        background.put({"kind": "train", "step": step})

    background.close("preempted", timeout_s=10)

    assert [row["step"] for row in sink.rows] == list(range(200))
    assert sink.outcome == "preempted" and background.fault is None


def test_a_background_tracker_that_hangs_is_found_while_training_and_never_waited_for() -> None:
    sink = FakeSink()
    sink.release.clear()
    background = Background("fake", lambda say: sink, stall_s=0.05)
    background.put(ROW)
    wait_for(lambda: background._queue.empty())
    time.sleep(0.1)

    started = time.monotonic()
    background.put(ROW)
    background.close("done", timeout_s=10)

    assert background.fault is not None and "has not answered" in background.fault
    assert time.monotonic() - started < 8
    sink.release.set()


def test_a_background_tracker_that_does_not_keep_up_is_switched_off() -> None:
    sink = FakeSink()
    sink.release.clear()
    background = Background("fake", lambda say: sink, capacity=10)

    for _ in range(30):
        background.put(ROW)

    assert background.fault is not None and "does not keep up" in background.fault
    sink.release.set()


def test_closing_waits_for_a_hanging_tracker_only_so_long() -> None:
    sink = FakeSink()
    sink.release.clear()
    background = Background("fake", lambda say: sink)
    background.put(ROW)

    started = time.monotonic()
    background.close("done", timeout_s=0.1)

    assert 0.1 <= time.monotonic() - started < 20
    assert background.fault is not None and "did not finish" in background.fault
    sink.release.set()


class FakeSystem:
    """Has one sample ready, and then none."""

    def __init__(self, fault: str | None = None) -> None:
        self.fault = fault
        self.samples = [{"cpu_percent": 50.0}]
        self.closed = False

    def take(self) -> dict[str, float]:
        return self.samples.pop() if self.samples else {}

    def close(self) -> None:
        self.closed = True


def test_what_the_machine_does_is_logged_with_the_next_row_and_at_its_place(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    sink, system = FakeSink(), FakeSystem()
    with open_tracker(folder, system_every=None) as tracker:
        tracker.system = system
        tracker.background.append(Background("fake", lambda say: sink))
        tracker.log(ROW)
        tracker.log({**ROW, "step": 40})

    expected = {"kind": "system", "step": 20, "epoch": 0.1, "samples": 160, "time_s": 2.0, "cpu_percent": 50.0}
    assert jsonl.read(folder.metrics) == [ROW, expected, {**ROW, "step": 40}]
    assert sink.rows == jsonl.read(folder.metrics)
    assert "cpu" not in capsys.readouterr().out and system.closed


def test_system_metrics_that_fail_are_one_warning(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with open_tracker(folder, verbosity=-1, system_every=None) as tracker:
        tracker.system = FakeSystem(fault="system metrics are off")
        tracker.log(ROW)
        tracker.log({**ROW, "step": 40})

    assert capsys.readouterr().out == "warning: system metrics are off\n"


def test_other_ranks_can_make_the_same_calls() -> None:
    public = {name for name in vars(Tracker) if not name.startswith("_") and callable(getattr(Tracker, name))}
    assert public - set(vars(NullTracker)) == {"open"}

    with NullTracker() as tracker:
        tracker.log(ROW)
        tracker.progress(1, "eval")
        tracker.say("hello")
        tracker.warn_once("a", "b")
        tracker.close("done", ["x"])


def test_the_live_line_costs_the_step_next_to_nothing(folder: RunFolder) -> None:
    with open_tracker(folder) as tracker:
        started = time.perf_counter()
        for step in range(10_000):
            tracker.progress(step)
        mean_s = (time.perf_counter() - started) / 10_000

    assert mean_s < 20e-6  # 0.15 microseconds where it was written


def test_importing_the_tracker_imports_neither_torch_nor_wandb_nor_tensorboard() -> None:
    script = "import sys, distdl.track; print([m for m in ('torch', 'wandb', 'tensorboard') if m in sys.modules])"

    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert output.strip() == "[]"


# --- TensorBoard ---


class FakeMessage(types.SimpleNamespace):
    """Stands for a protocol buffer: keeps what it was made with."""

    START = 1


@pytest.fixture
def fake_tensorboard(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Puts a tensorboard package in place whose writer keeps its events in the list returned; "closed" ends it."""
    events: list[Any] = []

    class EventFileWriter:
        def __init__(self, logdir: str, flush_secs: int) -> None:
            assert Path(logdir).is_dir()

        def add_event(self, event: Any) -> None:
            events.append(event)

        def close(self) -> None:
            events.append("closed")

    class Summary(FakeMessage):
        Value = FakeMessage

    contents: dict[str, dict[str, Any]] = {
        "tensorboard": {},
        "tensorboard.compat": {},
        "tensorboard.compat.proto": {},
        "tensorboard.compat.proto.event_pb2": {"Event": FakeMessage, "SessionLog": FakeMessage},
        "tensorboard.compat.proto.summary_pb2": {"Summary": Summary},
        "tensorboard.summary": {},
        "tensorboard.summary.writer": {},
        "tensorboard.summary.writer.event_file_writer": {"EventFileWriter": EventFileWriter},
    }
    for name, attributes in contents.items():
        module = types.ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    return events


def test_tensorboard_gets_the_numbers_by_name_and_a_restart_at_the_resumed_step(
    folder: RunFolder, fake_tensorboard: list[Any]
) -> None:
    with open_tracker(folder, resume_step=15, tensorboard=True) as tracker:
        tracker.log(ROW)
        tracker.log({"kind": "event", "step": 20, "event": "saved", "message": ""})

    restart, numbers, end = fake_tensorboard
    assert restart.step == 16 and restart.session_log.status == FakeMessage.START
    assert numbers.step == 20
    assert {value.tag: value.simple_value for value in numbers.summary.value} == {"train/loss": 1.5, "train/lr": 0.1}
    assert end == "closed"


def test_a_missing_tensorboard_package_is_one_warning(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)

    with open_tracker(folder, tensorboard=True) as tracker:
        tracker.log(ROW)

    assert capsys.readouterr().out.count("warning: tensorboard is off") == 1
    assert jsonl.read(folder.metrics) == [ROW]


def test_tensorboard_reads_what_was_written_and_forgets_the_steps_made_again(folder: RunFolder) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with open_tracker(folder, tensorboard=True) as tracker:
        for step in (10, 20, 30):
            tracker.log({**ROW, "step": step, "loss": 1.0})
    with open_tracker(folder, resume_step=20, tensorboard=True) as tracker:
        tracker.log({**ROW, "step": 30, "loss": 2.0})

    events = accumulator.EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()

    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(10, 1.0), (20, 1.0), (30, 2.0)]
