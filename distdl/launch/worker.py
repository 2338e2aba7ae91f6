"""The worker's side of being supervised: it dies with its supervisor, and reads what the supervisor told it.

`tie_to_supervisor` comes before `import torch`, which takes a second or more in which the supervisor may be gone.
"""

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from types import FrameType

from distdl.errors import EXIT_BUG, EXIT_PREEMPTED, EXIT_USER_ERROR, PeerLost, ProcessLost, UserError
from distdl.run import exhausted, failures
from distdl.run.folder import RunFolder
from distdl.watch import pulse, stacks

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_PARENT_POLL_S = 0.5


def is_supervised() -> bool:
    """Whether a supervisor of ours started this process (torchrun, mpirun and a plain start: no)."""
    return "DISTDL_SUPERVISOR_PID" in os.environ


def attempt() -> int:
    """0 for the first start of the workers, 1 after the first restart, ... (torchrun counts alike)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def fence() -> int | None:
    """The fence of the lease that the supervisor holds for this run; None when this process has to take it itself."""
    value = os.environ.get("DISTDL_FENCE")
    return int(value) if value else None


def report(error: BaseException, folder: RunFolder | None, rank: int, step: int | None = None) -> int:
    """Records a failure of this worker in the folder, if there is one, or prints it; returns the exit code."""
    error = exhausted.as_users_mistake(error) or error
    if folder:
        failures.write(folder, rank, step, error, attempt())
    says_all = isinstance(error, UserError | ProcessLost)
    if not is_supervised() and not isinstance(error, PeerLost):
        text = str(error) if says_all else traceback.format_exc()
        failures.tell_torchrun(os.environ.get("TORCHELASTIC_ERROR_FILE", ""), text, time.time() - 1.0)
    if not is_supervised() or rank != 0:  # rank 0's output is on the screen, where the supervisor has the last word
        print(f"error: {error}" if says_all else traceback.format_exc(), file=sys.stderr, flush=True)
    return EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_BUG


def refuse(error: UserError | ProcessLost) -> int:
    """Prints why a command ends before there is a run to keep it in; returns the exit code."""
    if _is_first_of_host():  # the others have read the same config
        print(f"error: {error}", file=sys.stderr)
    failures.tell_torchrun(os.environ.get("TORCHELASTIC_ERROR_FILE", ""), str(error), time.time())
    return EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_BUG


def _is_first_of_host() -> bool:
    names = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


def tie_to_supervisor() -> None:
    """Has the kernel kill this process when its supervisor ends, however it ends. Does nothing without a supervisor.

    torchrun counts as one: when it is killed it leaves its workers behind. The signal comes at the end of the *thread*
    that started this process: the supervisor starts workers from its main thread. Until the training loop installs its
    handlers, a forwarded Ctrl-C ends the worker without a traceback.
    """
    parent = os.environ.get("DISTDL_SUPERVISOR_PID") or os.environ.get("DISTDL_PARENT_PID")
    if not parent:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _ask_for_parent_death_signal()
        return
    supervisor = int(parent)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if not _ask_for_parent_death_signal():
        threading.Thread(target=_die_with, args=(supervisor,), name="parent-watch", daemon=True).start()
    if os.getppid() != supervisor:  # it was gone before the request: no signal will come any more
        os._exit(1)


def leave_when_told(stop_signals: Sequence[str]) -> None:
    """Till training begins there is nothing to save: a signal that asks for a stop ends this process as if it had."""

    def leave(number: int, frame: FrameType | None) -> None:
        os.write(2, f"{signal.Signals(number).name}: stopped before training had begun\n".encode())
        os._exit(EXIT_PREEMPTED)

    for name in stop_signals:
        signal.signal(signal.Signals[name], leave)


def leave_undisturbed(stop_signals: Sequence[str]) -> None:
    """At the end: nothing is left to stop, and while the interpreter ends, such a signal would kill the process."""
    for name in stop_signals:
        signal.signal(signal.Signals[name], signal.SIG_IGN)


def tell_of_oneself() -> None:
    """Into the memory that the supervisor watches, and stacks when it asks for them. Nothing without one."""
    if described := os.environ.get("DISTDL_PULSE"):
        board, slot, stack_file = map(int, described.split(":"))
        pulse.attach(*pulse.slot_of(board, slot))
        stacks.answer(stack_file)


def _ask_for_parent_death_signal() -> bool:
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0)


def _die_with(supervisor: int) -> None:
    """For systems without a parent-death signal: an orphan's parent is another process."""
    while os.getppid() == supervisor:
        time.sleep(_PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)
