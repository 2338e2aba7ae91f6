"""What a process ran out of: the many faces of a shortage, and what is said of each."""

import errno
import resource
import signal

import pytest

from distdl.errors import UserError
from distdl.run import endings, exhausted
from distdl.run.oom import Judgement

MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
]


@pytest.fixture
def address_space(monkeypatch):
    """As after `ulimit -v 4000000`."""
    monkeypatch.setattr(exhausted, "address_space", lambda: 4_000_000 << 10)


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: str(error)[:30] or "MemoryError")
def test_every_face_of_memory_that_ran_out(error):
    assert exhausted.of_error(error).resource == "memory"
    assert exhausted.of_lines(["epoch 3", f"{type(error).__name__}: {error}"]).resource == "memory"


def test_the_limit_on_address_space_is_named(address_space):
    shortage = exhausted.of_error(MemoryError())

    assert str(shortage) == "out of memory (address space limited to 3,906 MiB by `ulimit -v`)"
    assert shortage.fix.endswith("or raise `ulimit -v`.")


def test_a_thread_that_does_not_start_lacks_memory_or_leave(address_space, monkeypatch):
    error = RuntimeError("can't start new thread")
    assert exhausted.of_error(error).resource == "memory"

    monkeypatch.setattr(exhausted, "address_space", lambda: None)
    assert exhausted.of_error(error).resource == "threads"


def test_a_cause_further_down_is_found():
    try:
        try:
            raise OSError(errno.EMFILE, "Too many open files", "/data/000.tar")
        except OSError as error:
            raise UserError("can't open this shard", where="/data/000.tar") from error
    except UserError as error:
        mistake = exhausted.as_users_mistake(error)

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    what, fix = str(mistake).splitlines()
    assert what.startswith(f"/data/000.tar: out of file descriptors ({hard:,} a process by `ulimit -Hn`): OSError: ")
    assert "ulimit -n 65536" in fix


def test_shared_memory_is_named_with_its_size_and_what_is_free():
    shortage = exhausted.of_error(OSError(errno.ENOSPC, "No space left on device", "/dev/shm/sem.x"))

    assert shortage.resource == "shared memory" and shortage.is_refused
    assert "MiB of them free" in shortage.limit and "--shm-size" in shortage.fix


@pytest.mark.parametrize("error", [ValueError("boom"), OSError(errno.ENOSPC, "No space left on device", "/data/x")])
def test_other_errors_are_left_alone(error):
    assert exhausted.of_error(error) is None and exhausted.as_users_mistake(error) is None


def test_want_of_memory_is_no_mistake_in_the_settings():
    """Another start may go better, or with the next batch."""
    assert exhausted.as_users_mistake(MemoryError()) is None


def test_open_files_are_raised_to_the_hard_limit_but_for_a_few():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
        exhausted.raise_open_files(reserve=4)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(before[1], 1 << 20) - 4, before[1])
        exhausted.open_reserve()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(before[1], 1 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- how a process ended ---


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGSEGV, "a fault in native code"),
        (signal.SIGBUS, "shared memory is exhausted"),
        (signal.SIGILL, "an instruction that this CPU lacks"),
        (signal.SIGABRT, "a library gave up"),
        (99, "killed by signal 99"),
    ],
)
def test_a_signal_is_told_in_words(number, said):
    assert said in endings.in_words(-number, [])[0]


def test_what_aborted_for_want_of_memory_says_so():
    lines = ["terminate called after throwing an instance of 'std::bad_alloc'", "  what():  std::bad_alloc"]

    said, lacked = endings.in_words(-signal.SIGABRT, lines)

    assert said.startswith("out of memory") and "killed by SIGABRT\n  Lower train.micro_batch" in said
    assert lacked == "memory"


def test_a_crash_under_a_limit_on_address_space_is_perhaps_its_doing(address_space):
    assert "perhaps out of memory: address space limited" in endings.in_words(-signal.SIGSEGV, [])[0]


def test_a_kill_is_the_kernels_only_where_that_is_known():
    judged = Judgement(verdict="yes", limit="cgroup limit 512 MiB")

    said, lacked = endings.in_words(-signal.SIGKILL, ["epoch 3"], judged)

    assert said.startswith("out of memory: killed by the kernel (cgroup limit 512 MiB)\n  Lower train.micro_batch")
    assert lacked == "memory"
    assert endings.in_words(-signal.SIGKILL, [], Judgement(verdict="no"))[1] is None
