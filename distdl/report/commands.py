"""`distdl report`: its arguments, and what they call. torch is only imported where predictions are made."""

import argparse
import sys
from pathlib import Path

from distdl.errors import EXIT_DONE, UserError


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", nargs="+", metavar="RUN", help="run folder or name")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: report.html in the run's folder")
    command.add_argument("--step", help="predict with this checkpoint, or 'best' (default: the newest)")
    command.add_argument("--samples", type=int, default=10_000, metavar="N", help="predict at most N (default: 10,000)")
    command.add_argument(
        "--no-predictions", action="store_true", help="numbers only: fast, needs neither data nor torch"
    )


def report(arguments: argparse.Namespace) -> int:
    from distdl.report import write_report

    if arguments.samples < 1:
        raise UserError(
            f"at least one sample is needed (got {arguments.samples})",
            where="command line --samples",
            fix="For none: --no-predictions.",
        )
    n_samples = 0 if arguments.no_predictions else arguments.samples
    path = write_report(arguments.runs, arguments.out, step=arguments.step, n_samples=n_samples, warn=_warn)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return EXIT_DONE


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
