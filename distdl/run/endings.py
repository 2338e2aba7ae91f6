"""How a process ended that left no record of it, in words: by which signal and what that means, or for want of what."""

import signal
from collections.abc import Sequence

from distdl.errors import EXIT_DONE, EXIT_PREEMPTED
from distdl.run import exhausted
from distdl.run.exhausted import Resource
from distdl.run.oom import Judgement

_UNLIKE_SIZES = "op.preamble.length <= op.nbytes"  # what gloo says before it aborts
_MEANINGS = {
    signal.SIGSEGV: "a fault in native code: an extension, a driver, or a stack that was too small",
    signal.SIGILL: "an instruction that this CPU lacks: a library was built for another one",
    signal.SIGABRT: "a library gave up; its last words may say why",
    signal.SIGFPE: "a division of whole numbers by zero in native code",
    signal.SIGXCPU: "its CPU time was limited (`ulimit -t`)",
    signal.SIGXFSZ: "the size of files is limited (`ulimit -f`)",
    signal.SIGSYS: "a system call that a sandbox forbids",
}


def in_words(exit_code: int, last_lines: Sequence[str], judged: Judgement | None = None) -> tuple[str, Resource | None]:
    """What to say of it, and what had run out, if something had. `judged`: whether the kernel was behind a SIGKILL."""
    shortage = exhausted.of_lines(last_lines)
    if exit_code >= 0:
        ended = f"ended with exit code {exit_code} and left no record"
        if exit_code in (EXIT_DONE, EXIT_PREEMPTED):
            ended = f"ended with exit code {exit_code} in the middle of the run: something in it has called os._exit"
        return (f"{shortage}: {ended}\n  {shortage.fix}", shortage.resource) if shortage else (ended, None)
    ended = f"killed by {signal_name(-exit_code)}"
    if -exit_code == signal.SIGKILL:
        return _of_kill(judged or Judgement(verdict="perhaps"))
    if any(_UNLIKE_SIZES in line for line in last_lines):
        return f"{ended}: the workers called collectives of unlike sizes", None
    if shortage:
        return f"{shortage}: {ended}\n  {shortage.fix}", shortage.resource
    if -exit_code == signal.SIGBUS:
        return _of_bus_error(ended)
    meaning = _MEANINGS.get(signal.Signals(-exit_code)) if -exit_code in _MEANINGS else None
    if -exit_code in (signal.SIGSEGV, signal.SIGABRT) and exhausted.address_space():
        meaning = f"perhaps out of memory: {exhausted.memory()[0]}"  # few libraries check each allocation
    return f"{ended}: {meaning}" if meaning else ended, None


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _of_kill(judged: Judgement) -> tuple[str, Resource | None]:
    if judged.verdict == "no":
        return judged.message, None
    fix = exhausted.describe("memory").fix
    return (f"{judged.message}\n  {fix}", "memory") if judged.verdict == "yes" else (judged.message, None)


def _of_bus_error(ended: str) -> tuple[str, Resource | None]:
    """A page of a mapped file that the kernel could not provide."""
    shared = exhausted.describe("shared memory")
    what = "a mapped page could not be had: shared memory is exhausted, or a file was cut short while it was read"
    return f"{ended}: {what} ({shared.limit})\n  {shared.fix}", "shared memory"
