"""A bar for what a person waits for: packing, verifying, an evaluation. Drawn on stderr, if that is a terminal.

rich is imported when a bar is drawn, so that no other command pays for it. Lines printed meanwhile stand above the bar.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

_DRAW_EVERY_S = 0.1

Advance = Callable[..., None]


def is_drawn() -> bool:
    return sys.stderr.isatty()


@contextlib.contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Advance]:
    """Yields `advance(n=1)`, which may be called for every sample. `total`: None where nobody knows it beforehand."""
    if not is_drawn():
        yield lambda n=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task, kept, next_draw = bar.add_task(description, total=total), 0, 0.0

        def advance(n: int = 1) -> None:
            nonlocal kept, next_draw
            kept += n  # rich takes a lock and 10 us: too much for every sample
            if (now := time.monotonic()) >= next_draw:
                bar.advance(task, kept)
                kept, next_draw = 0, now + _DRAW_EVERY_S

        yield advance
