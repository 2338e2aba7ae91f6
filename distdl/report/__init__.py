"""`distdl report`: one HTML file about one run or several, to read offline and to show to others.

    run folders -> record (what is in them) -> head, curves, timing, settings: HTML and JSON -> page -> report.html
    checkpoint  -> predictions, batches (torch) -> pictures: HTML with thumbnails in it     -> page

`markup` escapes; report.js draws the curves, report.css is the look.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from distdl.errors import UserError


def write_report(
    runs: Sequence[str],
    out: Path | None = None,
    *,
    step: str | None = None,
    n_samples: int = 10_000,
    warn: Callable[[str], None] = print,
) -> Path:
    """Writes the report and returns its path: `out`, or report.html in the folder of a single run, or here.

    Predictions are made with the checkpoint of `step` (a number, "best", or None for the newest) on up to `n_samples`;
    0 makes none, and torch is not imported. Raises UserError for a run that isn't there, or a file that can't be
    written.
    """
    from distdl.report import page, record
    from distdl.run.folder import write_atomic

    records = record.read_records(runs)
    if out is None:
        out = records[0].folder.path / "report.html" if len(records) == 1 else Path("report.html")
    content = page.render(records, step, n_samples, warn).encode("utf-8", "replace")
    try:
        write_atomic(out, content)
    except OSError as error:
        raise UserError(f"can't write the report: {error.strerror}", where=str(out)) from error
    return out
