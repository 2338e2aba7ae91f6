"""What a person sees of a run: a line for each row, and on a terminal one live line in between that is drawn over.

    12:03:11 r0 step 400/45000 loss 2.310 lr 0.80 3,412 samples/s mfu 41% data 1% comm 4% eta 3h02m
    12:03:40 r0 step 400/45000 eval top1 98.90 % top5 99.99 % loss 0.034 (10,000 samples, 1.2 s)

The live line is for terminals that take it; in a file, a pipe, or with NO_COLOR set there are only whole lines.
Everything goes to sys.stdout, a string per write, so that lines of several writers don't mix.
"""

import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from distdl.track.jsonl import NOT_METRICS, Row

DRAW_EVERY_S = 0.2
BAR_CELLS = 24
SETTLE_STEPS = 10  # compilation, cold caches and autotuning say nothing about the steps to come
PACE_MEMORY_S = 300.0
ERASE_LINE = "\r\x1b[K"

# Metrics that are fractions and are read as percent: top1, top5, accuracy, wer, miou, map50, f1_macro, ...
_IN_PERCENT = re.compile(r"(top\d+|acc|accuracy|error_rate|precision|recall|f1|m?iou|map\d*|auc|wer|cer)(_.*)?")
_ON_TRAIN_LINE = (
    "loss",
    "lr",
    "samples_per_s",
    "mfu",
    "data_wait_s",
    "exchange_s",
    "step_s",
    "straggler_rank",
    "straggler_cost",
)


class Console:
    """Prints rows, messages and the live line. `verbosity` -1: evaluations, warnings and the end only; 1: every number.

    `screen` is "tty" where a live line can be drawn. `first_step` is the step that this process starts from.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        samples_per_epoch: int,
        first_step: int,
        verbosity: int,
        screen: Literal["tty", "plain"],
        clock: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
    ) -> None:
        self._total_steps = total_steps
        self._samples_per_epoch = samples_per_epoch
        self._verbosity = verbosity
        self._clock, self._time_of_day = clock, time_of_day
        self._draws = screen == "tty" and not os.environ.get("NO_COLOR") and verbosity >= 0
        self._pace = Pace(first_step + SETTLE_STEPS)
        self._last_train: Row = {}
        self._next_draw = 0.0
        self._drawn = False
        self._gone = False

    def row(self, row: Row) -> None:
        """Prints a row of metrics.jsonl, as far as the verbosity asks for its kind."""
        if row["kind"] == "system":  # for plots
            return
        if row["kind"] == "train":
            self._last_train = row
            self._pace.observe(row["step"], self._clock())
            text = self._train_text(row)
        elif row["kind"] == "eval":
            text = eval_text(row)
        else:
            text = ": ".join(str(row[key]) for key in ("event", "message") if row.get(key))
        if row["kind"] == "eval" or self._verbosity >= 0:
            self.line(f"{self._time_of_day()} r0 step {row['step']}/{self._total_steps} {text}")

    def say(self, message: str) -> None:
        if self._verbosity >= 0:
            self.line(message)

    def line(self, text: str) -> None:
        """A permanent line, whatever the verbosity; the live line makes room for it."""
        self._write((ERASE_LINE if self._drawn else "") + text + "\n")
        self._drawn = False

    def progress(self, step: int, note: str) -> None:
        """Draws the live line again when it is due: at most five times a second, else this is a look at the clock."""
        now = self._clock()
        if now < self._next_draw:
            return
        self._next_draw = now + DRAW_EVERY_S
        self._pace.observe(step, now)
        if self._draws:
            self._write(f"{ERASE_LINE}{self._live_text(step, note)[: _columns() - 1]}")
            self._drawn = True

    def erase(self) -> None:
        """Takes the live line off the screen."""
        if self._drawn:
            self._write(ERASE_LINE)
            self._drawn = False

    def _train_text(self, row: Row) -> str:
        parts = _loss_lr_rate(row)
        keys = ("step_s", "data_wait_s", "exchange_s", "mfu", "epoch")
        step_s, data_wait_s, exchange_s, mfu, epoch = (_number(row, key) for key in keys)
        if mfu is not None:
            parts.append(f"mfu {100 * mfu:.0f}%")
        if step_s and data_wait_s is not None:
            parts.append(f"data {100 * data_wait_s / step_s:.0f}%")
        if step_s and exchange_s and exchange_s >= 0.005 * step_s:  # a worker that is alone has next to none
            parts.append(f"comm {100 * exchange_s / step_s:.0f}%")
        if (straggler := _number(row, "straggler_rank")) is not None:
            parts.append(f"slow r{straggler:.0f} {100 * (_number(row, 'straggler_cost') or 0):.0f}%")
        parts.append(f"eta {duration(self._pace.seconds_until(self._total_steps, row['step']))}")
        if self._verbosity >= 1:
            if epoch is not None:
                parts.append(f"epoch {epoch:.3f}")
            if step_s is not None:
                parts.append(f"step {step_s:.4f} s")
            parts += [_own_text(k, v) for k, v in row.items() if k not in NOT_METRICS and k not in _ON_TRAIN_LINE]
        return " ".join(parts)

    def _live_text(self, step: int, note: str) -> str:
        done = min(1.0, step / max(1, self._total_steps))
        eta = f"eta {duration(self._pace.seconds_until(self._total_steps, step))}"
        parts = [bar(done), f"{math.floor(100 * done):3d}%", eta, f"step {step}/{self._total_steps}"]
        samples = _number(self._last_train, "samples")
        if samples and self._last_train["step"]:
            epochs_per_step = samples / self._last_train["step"] / max(1, self._samples_per_epoch)
            epochs = max(1, math.ceil(self._total_steps * epochs_per_step - 0.05))  # the last step may be part padding
            parts.append(f"epoch {min(epochs, 1 + math.floor(step * epochs_per_step))}/{epochs}")
        parts += _loss_lr_rate({key: value for key, value in self._last_train.items() if key != "lr"})
        if note:
            parts.append(note)
        return " ".join(parts)

    def _write(self, text: str) -> None:
        """To stdout; a screen that is gone (a closed terminal or pipe) must not end the training."""
        if self._gone:
            return
        try:
            encoding = sys.stdout.encoding or "utf-8"
            sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
            sys.stdout.flush()
        except (OSError, ValueError):  # ValueError: the file object is closed
            self._gone = True


class Pace:
    """Seconds per step over the last minutes of wall time, evaluations and checkpoints included, first steps left out.

    Steps and seconds are both summed with weights that fade by 1/e in PACE_MEMORY_S; their quotient is the pace.
    """

    def __init__(self, settled_step: int) -> None:
        self._settled_step = settled_step
        self._last: tuple[int, float] | None = None
        self._steps = self._seconds = 0.0

    def observe(self, step: int, now: float) -> None:
        if step < self._settled_step:
            return
        if self._last is not None:
            last_step, last_time = self._last
            fade = math.exp(-(now - last_time) / PACE_MEMORY_S)
            self._steps = self._steps * fade + step - last_step
            self._seconds = self._seconds * fade + now - last_time
        self._last = (step, now)

    def seconds_until(self, total_steps: int, step: int) -> float | None:
        """None while too little was seen."""
        if self._steps <= 0:
            return None
        return max(0, total_steps - step) * self._seconds / self._steps


def closing_summary(
    outcome: str,
    *,
    step: int,
    total_steps: int,
    wall_s: float,
    samples_per_s: float | None,
    folder: Path,
    best: tuple[str, float, int] | None = None,
    next_lines: Sequence[str] = (),
) -> list[str]:
    """The last lines of a run: what came of it, where it lies and what to do next. `best` is (metric, value, step)."""
    rate = f", {rate_text(samples_per_s)}" if samples_per_s is not None else ""
    lines = [f"{outcome}: step {step}/{total_steps} in {duration(wall_s)}{rate}"]
    if best is not None:
        name, value, best_step = best
        lines.append(f"best {metric_text(name, value)} at step {best_step}")
    lines.append(f"run folder {folder}")
    return [*lines, *next_lines]


def eval_text(row: Row) -> str:
    """`eval top1 98.90 % top5 99.99 % loss 0.034 (10,000 samples, 1.2 s)`; the loss is always last, the set named."""
    metrics = {key: value for key, value in row.items() if key not in NOT_METRICS}
    if "loss" in metrics:
        metrics["loss"] = metrics.pop("loss")
    count, eval_s = _number(row, "count"), _number(row, "eval_s")
    aside = [] if count is None else [f"{count:,.0f} samples"]
    if eval_s is not None:
        aside.append(f"{eval_s:.1f} s")
    parts = ["eval" if row["set"] == "eval" else f"eval {row['set']}"]
    parts += [metric_text(name, value) for name, value in metrics.items()]
    return " ".join(parts) + (f" ({', '.join(aside)})" if aside else "")


def metric_text(name: str, value: Any) -> str:
    """`top1 98.90 %` for a metric that is a fraction, `loss 0.034` for any other number."""
    if isinstance(value, bool | str) or value is None:
        return f"{name} {'-' if value is None else value}"
    if _IN_PERCENT.fullmatch(name):
        return f"{name} {100 * value:.2f} %"
    if isinstance(value, int):
        return f"{name} {value:,}"
    plain = value == 0 or 0.01 <= abs(value) < 10_000 or not math.isfinite(value)
    return f"{name} {value:{'.3f' if plain else '.3g'}}"


def _own_text(name: str, value: Any) -> str:
    """`forward 0.0301 s` and `peak_memory 7.62 GiB` for names that end in a unit, else as any metric."""
    if isinstance(value, int | float) and name.endswith("_bytes"):
        return f"{name.removesuffix('_bytes')} {value / 2**30:.2f} GiB"
    if isinstance(value, int | float) and name.endswith("_s") and not name.endswith("_per_s"):
        return f"{name.removesuffix('_s')} {value:.4f} s"
    return metric_text(name, value)


def rate_text(samples_per_s: float) -> str:
    return f"{samples_per_s:,.0f} samples/s" if samples_per_s >= 100 else f"{samples_per_s:.1f} samples/s"


def duration(seconds: float | None) -> str:
    """45s, 12m05s, 3h02m, 2d03h; -- when unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "--"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def bar(done: float) -> str:
    """A bar of BAR_CELLS characters for a fraction, in line-drawing characters where stdout can encode them."""
    full = round(done * BAR_CELLS)
    try:
        "━─".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#" * full + "-" * (BAR_CELLS - full)
    return "━" * full + "─" * (BAR_CELLS - full)


def _loss_lr_rate(row: Row) -> list[str]:
    parts = []
    if "loss" in row:
        parts.append(metric_text("loss", row["loss"]))
    if (lr := _number(row, "lr")) is not None:
        parts.append("lr " + f"{lr:#.2g}".removesuffix("."))
    if (samples_per_s := _number(row, "samples_per_s")) is not None:
        parts.append(rate_text(samples_per_s))
    return parts


def _number(row: Row, key: str) -> float | None:
    value = row.get(key)
    return value if isinstance(value, int | float) else None


def _columns() -> int:
    """The width given by whoever forwards this process's output, or that of our own terminal."""
    given = os.environ.get("DISTDL_COLUMNS", "")
    return max(20, int(given) if given.isdigit() else shutil.get_terminal_size().columns)
