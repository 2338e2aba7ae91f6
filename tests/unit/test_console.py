"""What a person sees: the lines by the letter, the live line on a terminal, and silence where it was asked for."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from distdl.track.console import Console, Pace, bar, closing_summary, duration, metric_text

TRAIN = {
    "kind": "train",
    "step": 400,
    "epoch": 0.5,
    "samples": 51_200,
    "time_s": 60.0,
    "loss": 2.31,
    "lr": 0.8,
    "samples_per_s": 3412.4,
    "data_wait_s": 0.001,
    "step_s": 0.1,
}
MORE = {  # what a row of a real run holds besides
    "mfu": 0.4123,
    "forward_s": 0.0301,
    "backward_s": 0.06,
    "exchange_s": 0.0042,
    "update_s": 0.005,
    "grad_norm": 3.21,
    "peak_memory_bytes": 8_181_912_371,
}
EVAL = {"kind": "eval", "step": 400, "set": "eval", "loss": 0.0341, "top1": 0.989, "top5": 0.9999, "count": 10_000}
EVENT = {"kind": "event", "step": 400, "event": "checkpoint", "message": "saved in 0.2 s"}


class Screen:
    """A console on a clock that the test moves; stdout is captured by pytest's capsys."""

    def __init__(self, *, verbosity: int = 0, screen: Any = "plain", first_step: int = 0) -> None:
        self.now = 100.0
        self.console = Console(
            total_steps=45_000,
            samples_per_epoch=102_400,
            first_step=first_step,
            verbosity=verbosity,
            screen=screen,
            clock=lambda: self.now,
            time_of_day=lambda: "12:03:11",
        )

    def run_steps(self, steps: range, step_s: float) -> None:
        for step in steps:
            self.now += step_s
            self.console.progress(step, "")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("DISTDL_COLUMNS", "200")


def test_train_line(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.run_steps(range(1, 401), step_s=0.245)

    screen.console.row(TRAIN)

    expected = "12:03:11 r0 step 400/45000 loss 2.310 lr 0.80 3,412 samples/s data 1% eta 3h02m\n"
    assert capsys.readouterr().out == expected


def test_train_line_of_a_full_row_is_still_one_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().console.row({**TRAIN, **MORE})

    expected = "loss 2.310 lr 0.80 3,412 samples/s mfu 41% data 1% comm 4% eta --\n"
    assert capsys.readouterr().out == f"12:03:11 r0 step 400/45000 {expected}"


def test_a_worker_that_is_alone_is_not_told_of_communication(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().console.row({**TRAIN, "exchange_s": 2e-6})

    assert "comm" not in capsys.readouterr().out


def test_what_the_machine_does_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(verbosity=1).console.row({"kind": "system", "step": 400, "cpu_percent": 50.0})

    assert capsys.readouterr().out == ""


def test_eval_line(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().console.row({**EVAL, "eval_s": 1.24})

    expected = "12:03:11 r0 step 400/45000 eval top1 98.90 % top5 99.99 % loss 0.034 (10,000 samples, 1.2 s)\n"
    assert capsys.readouterr().out == expected


def test_eval_line_names_its_set_and_takes_any_metric(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"kind": "eval", "step": 9, "set": "dev", "wer": 0.0712, "mean_error": 1.5, "loss": None, "count": 7}

    Screen().console.row(row)

    assert capsys.readouterr().out.endswith("eval dev wer 7.12 % mean_error 1.500 loss - (7 samples)\n")


def test_event_line(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().console.row(EVENT)

    assert capsys.readouterr().out == "12:03:11 r0 step 400/45000 checkpoint: saved in 0.2 s\n"


@pytest.mark.parametrize("hole", [key for key in TRAIN | MORE if key not in ("kind", "step")])
def test_a_row_with_a_missing_number_or_nan_still_prints(hole: str, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(verbosity=1, screen="tty")

    for value in (None, float("nan")):
        screen.console.row({**TRAIN, **MORE, hole: value})
    screen.console.row({key: value for key, value in (TRAIN | MORE).items() if key != hole})
    screen.console.progress(400, "")

    assert capsys.readouterr().out.count("step 400/45000") == 4


def test_quiet_shows_evaluations_and_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(verbosity=-1, screen="tty")

    screen.console.row(TRAIN)
    screen.console.row(EVENT)
    screen.console.say("8 workers")
    screen.console.progress(400, "")
    screen.console.row(EVAL)
    screen.console.line("warning: the disk is full")

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "eval top1" in lines[0] and lines[1] == "warning: the disk is full"


def test_verbose_adds_the_epoch_the_step_time_and_numbers_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(verbosity=1).console.row({**TRAIN, **MORE})

    assert capsys.readouterr().out.endswith(
        "epoch 0.500 step 0.1000 s forward 0.0301 s backward 0.0600 s update 0.0050 s"
        " grad_norm 3.210 peak_memory 7.62 GiB\n"
    )


def test_without_a_terminal_there_is_no_live_line(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(screen="plain").run_steps(range(1, 50), step_s=1.0)

    assert capsys.readouterr().out == ""


def test_no_color_switches_the_live_line_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    Screen(screen="tty").run_steps(range(1, 50), step_s=1.0)

    assert capsys.readouterr().out == ""


def test_live_line_shows_how_far_the_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(screen="tty")
    screen.run_steps(range(1, 400), step_s=0.2449)
    screen.console.row(TRAIN)
    capsys.readouterr()

    screen.now += 1.0
    screen.console.progress(22_500, "eval 3/40")

    drawn = capsys.readouterr().out
    assert drawn.startswith("\r\x1b[K") and "\n" not in drawn
    rest = drawn.removeprefix("\r\x1b[K")
    assert re.fullmatch(
        r"━{12}─{12}  50% eta \w+ step 22500/45000 epoch 29/57 loss 2.310 3,412 samples/s eval 3/40", rest
    )


def test_live_line_is_erased_before_a_permanent_line(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(screen="tty")
    screen.console.progress(1, "")
    capsys.readouterr()

    screen.console.say("first")
    screen.console.say("second")

    assert capsys.readouterr().out == "\r\x1b[Kfirst\nsecond\n"


def test_live_line_is_cut_to_the_width_it_is_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTDL_COLUMNS", "40")

    Screen(screen="tty").console.progress(1, "")

    assert len(capsys.readouterr().out.removeprefix("\r\x1b[K")) == 39


def test_live_line_is_drawn_five_times_a_second_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(screen="tty").run_steps(range(1, 1001), step_s=0.001)

    assert capsys.readouterr().out.count("\r") in (5, 6)


def test_a_screen_that_is_gone_does_not_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class ClosedPipe(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    screen = Screen(screen="tty")

    screen.console.say("nobody reads this")
    screen.console.progress(1, "")


def test_a_screen_without_unicode_gets_plain_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))

    Screen().console.say("loss → 0")

    assert raw.getvalue() == b"loss ? 0\n"
    assert bar(0.5) == "#" * 12 + "-" * 12


def test_eta_ignores_the_slow_first_steps() -> None:
    pace = Pace(settled_step=10)
    pace.observe(1, 30.0)  # compilation
    for step in range(10, 111):
        pace.observe(step, 40.0 + 0.5 * (step - 10))

    assert pace.seconds_until(210, 110) == pytest.approx(50.0)


def test_eta_follows_a_change_of_speed() -> None:
    pace = Pace(settled_step=0)
    for step in range(1000):
        pace.observe(step, 0.1 * step)
    for step in range(1000, 3000):
        pace.observe(step, 100.0 + 1.0 * (step - 1000))

    assert pace.seconds_until(3099, 2999) == pytest.approx(100.0, rel=0.02)


def test_eta_is_unknown_at_first_also_after_a_resume() -> None:
    pace = Pace(settled_step=5010)
    pace.observe(5001, 1.0)
    pace.observe(5010, 2.0)

    assert pace.seconds_until(6000, 5010) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "--"), (44.6, "45s"), (725, "12m05s"), (10_930, "3h02m"), (86_400 * 2 + 3 * 3600, "2d03h")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("top1", 0.76134, "top1 76.13 %"),
        ("f1_macro", 0.5, "f1_macro 50.00 %"),
        ("loss", 0.0001234, "loss 0.000123"),
        ("loss", float("nan"), "loss nan"),
        ("absolute_error", 0.25, "absolute_error 0.250"),
        ("topology", 0.25, "topology 0.250"),
        ("boxes", 12_345, "boxes 12,345"),
    ],
)
def test_metric_texts(name: str, value: float, text: str) -> None:
    assert metric_text(name, value) == text


def test_closing_summary_says_what_came_of_the_run_and_what_to_do_next() -> None:
    lines = closing_summary(
        "done",
        step=2345,
        total_steps=2345,
        wall_s=738.0,
        samples_per_s=3412.4,
        folder=Path("runs/lenet5"),
        best=("top1", 0.9902, 2100),
        next_lines=["next: distdl eval runs/lenet5"],
    )

    assert lines == [
        "done: step 2345/2345 in 12m18s, 3,412 samples/s",
        "best top1 99.02 % at step 2100",
        "run folder runs/lenet5",
        "next: distdl eval runs/lenet5",
    ]
