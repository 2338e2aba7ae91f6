"""When the job that this process belongs to will be ended."""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Mapping

_ASK_S = 10.0


def job_ends_in_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """None where no job of Slurm's is to be seen, or it has no end. Slurm is asked where it has not told by itself."""
    number = environment.get("SLURM_JOB_ID", "")
    if not number.isdigit():
        return None
    end = environment.get("SLURM_JOB_END_TIME", "")  # since Slurm 23.02
    if end.isdigit():
        return int(end) - time.time()
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        asked = ["squeue", "--noheader", f"--jobs={number}", "--format=%L"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=_ASK_S, stdin=subprocess.DEVNULL)
        return time_left_s(done.stdout.strip())
    return None


def time_left_s(text: str) -> float | None:
    """`D-HH:MM:SS`, `HH:MM:SS` or `MM:SS` as squeue writes it; None for UNLIMITED and the like."""
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(each or 0) for each in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
