"""`distdl train --profile 10:13`: what the processor and the device do in a few steps, as torch's profiler sees it.

The steps of this launch are counted from 1; 10:13 traces 10, 11 and 12, on every worker. `traced` stands between the
loop and its batches, so that a step lies between two batches and an untraced run pays for nothing. It leaves

    profile/rank-0-steps-10-13.json.gz   a trace for ui.perfetto.dev, with the phases of the step as named ranges
    profile/rank-0-steps-10-13.txt       the operators that took longest

Free of torch at import: a mistake in the option is answered at once.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from distdl.errors import UserError
from distdl.watch import pulse

if TYPE_CHECKING:
    from distdl.trainer.phases import Phases

Batch = TypeVar("Batch")

WAIT = "data wait"
_MOST_STEPS = 100  # a step of a ResNet-50 leaves about 2 MB
_OPERATORS_SHOWN = 30


@dataclass(frozen=True, slots=True)
class Profile:
    """Steps `first` to `end` - 1 of a launch."""

    first: int
    end: int

    @classmethod
    def parse(cls, text: str) -> "Profile":
        """ "10:13" -> Profile(10, 13). Raises UserError."""
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if not match:
            raise UserError(f"'{text}' is not a range of steps", where="command line --profile", fix="Such as 10:13.")
        first, end = int(match[1]), int(match[2])
        if first < 2 or not first < end <= first + _MOST_STEPS:
            raise UserError(
                f"{text} can't be traced",
                where="command line --profile",
                fix=f"From step 2 on (the step before warms the profiler up), and 1 to {_MOST_STEPS} steps.",
            )
        return cls(first, end)


def traced(
    profile: Profile,
    batches: Iterable[Batch],
    phases: "Phases",
    folder: Path,
    rank: int,
    say: Callable[[str], None],
) -> Iterator[Batch]:
    """The batches, while the steps that are made of them are traced into `folder`. A run that ends earlier is traced
    as far as it came."""
    from torch.profiler import record_function

    batches, reached = iter(batches), False
    stem = folder / f"rank-{rank}-steps-{profile.first}-{profile.end}"
    try:
        yield from islice(batches, profile.first - 2)
        with _recorded(stem, profile.end - profile.first, say) as end_step, _annotated(phases):
            for number in range(profile.first - 1, profile.end):
                with record_function(WAIT):
                    batch = next(batches, None)
                if batch is None:
                    break
                reached = number >= profile.first
                yield batch
                end_step()
        yield from batches
    finally:  # the loop may want no more
        if not reached:
            say(f"warning: nothing was profiled: this launch ended before its step {profile.first}")


@contextlib.contextmanager
def _recorded(stem: Path, n_steps: int, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Warms up in the first step, traces the next `n_steps` and writes them. Yields what ends a step."""
    import torch
    from torch.profiler import ProfilerActivity, profile, schedule

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()

    def write(profiler: profile) -> None:
        trace = stem.with_name(f"{stem.name}.json.gz")
        trace.parent.mkdir(parents=True, exist_ok=True)
        with pulse.mine.phase("save"):  # as long as that may take
            profiler.export_chrome_trace(str(trace))
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=_OPERATORS_SHOWN)
        trace.with_name(f"{stem.name}.txt").write_text(table)
        say(f"profile: {trace} (open it in ui.perfetto.dev)")

    # Python's stacks would cost more than the operators that they explain.
    with profile(
        activities=activities,
        schedule=schedule(wait=0, warmup=1, active=n_steps, repeat=1),
        record_shapes=True,
        on_trace_ready=write,
    ) as profiler:
        yield profiler.step


@contextlib.contextmanager
def _annotated(phases: "Phases") -> Iterator[None]:
    phases.annotate = True
    try:
        yield
    finally:
        phases.annotate = False
