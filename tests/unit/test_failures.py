"""Failure records: what they hold, which of them is the cause, and how it reads."""

import dataclasses
import errno
import json
import signal
import socket
import time

import pytest

from distdl.errors import PeerLost, ProcessLost, UserError
from distdl.launch import worker
from distdl.run import exhausted, failures
from distdl.run.failures import FailureRecord
from distdl.run.folder import RunFolder, create_or_reopen


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return create_or_reopen(tmp_path / "run", resume=False)


def record(**changes) -> FailureRecord:
    fields = {"time": 100.0, "rank": 0, "host": "node-a", "step": 412, "kind": "bug", "message": "ValueError: boom"}
    fields |= {
        "traceback": "Traceback (most recent call last):\n  ...\nValueError: boom\n",
        "exit_code": 1,
        "attempt": 0,
    }
    return FailureRecord(**(fields | changes))


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def killed_by(number: int, **changes) -> FailureRecord:
    arguments = {"rank": 1, "exit_code": -number, "killed": False, "last_lines": ["epoch 3"], "step": 400, "attempt": 0}
    return failures.describe_end(**(arguments | changes))


# --- writing and reading ---


def test_a_record_is_read_back_as_it_was_written(folder):
    written = failures.write(folder, 3, 412, raised(ValueError("boom")), attempt=1)

    assert failures.read_all(folder, attempt=1) == [written]
    assert (written.rank, written.step, written.kind, written.exit_code) == (3, 412, "bug", 1)
    assert written.host == socket.gethostname()
    assert written.message == "ValueError: boom"
    assert written.traceback.startswith("Traceback") and written.traceback.endswith("ValueError: boom\n")


def test_a_users_mistake_ends_with_code_2(folder):
    written = failures.write(folder, 0, None, UserError("no such key", where="a.yaml:3", fix="Remove it."), attempt=0)

    assert (written.kind, written.exit_code) == ("user", 2)
    assert written.message == "a.yaml:3: no such key\n  Remove it."


def test_a_lost_process_is_told_like_a_mistake_but_is_none(folder):
    lost = "data worker process 7 of rank 3 was killed"

    written = failures.write(folder, 3, 12, ProcessLost(lost), attempt=0)

    assert (written.kind, written.exit_code) == ("process_lost", 1)
    assert failures.format_cause(written, []).splitlines()[1:] == [lost]


def test_what_goes_wrong_because_a_peer_is_gone_is_an_echo(folder):
    clean_up = raised(OSError("socket closed"), cause=PeerLost("lost contact"))

    assert failures.write(folder, 0, 5, PeerLost("lost contact"), attempt=0).kind == "peer_lost"
    assert failures.write(folder, 0, 5, clean_up, attempt=0).kind == "peer_lost"


def test_running_out_of_memory_is_named(folder):
    class OutOfMemoryError(RuntimeError):
        """torch's is recognised by its name."""

    for error in (MemoryError(), OutOfMemoryError("tried to allocate 20 GiB")):
        written = failures.write(folder, 0, 5, error, attempt=0)
        first, fix = written.message.splitlines()
        assert first.startswith("out of memory") and type(error).__name__ in first
        assert "train.micro_batch" in fix and written.resource == "memory"


def test_what_a_setting_of_the_machine_refuses_is_the_users_mistake(folder):
    mistake = exhausted.as_users_mistake(OSError(errno.EMFILE, "Too many open files", "/data/000.tar"))

    written = failures.write(folder, 0, 5, mistake, attempt=0)

    assert (written.kind, written.exit_code, written.resource) == ("user", 2, "file descriptors")
    assert "ulimit -n" in written.message and "/data/000.tar" in written.message


def test_a_record_without_the_newer_fields_is_read(folder):
    fields = dataclasses.asdict(record(attempt=1))
    del fields["resource"]
    (folder.failures / "rank-0.json").write_text(json.dumps(fields))

    assert failures.read_all(folder, attempt=1) == [record(attempt=1)]


def test_writing_never_raises(folder, monkeypatch):
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def disk_is_full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failures, "write_json", disk_is_full)
    written = failures.write(folder, 0, 5, Unprintable(), attempt=0)

    assert written.message.startswith("Unprintable: ")
    assert failures.read_all(folder, attempt=0) == []


def test_records_of_other_attempts_and_damaged_ones_are_passed_over(folder):
    failures.save(folder, record(rank=0, attempt=0))
    failures.save(folder, record(rank=1, attempt=1))
    (folder.failures / "rank-2.json").write_text('{"time": 1')
    (folder.failures / "rank-3.json").write_text('{"unknown": 1}')

    assert [found.rank for found in failures.read_all(folder, attempt=1)] == [1]


def test_clearing_sets_the_records_of_earlier_launches_aside(folder):
    failures.save(folder, record(rank=1, attempt=0))

    failures.clear(folder)

    assert failures.read_all(folder, attempt=0) == []
    (kept,) = (folder.failures / "earlier").iterdir()
    assert json.loads(kept.read_text())["message"] == "ValueError: boom"


def test_the_last_logged_step_is_found_behind_a_half_written_row(folder):
    assert failures.last_logged_step(folder) is None
    folder.metrics.write_text('{"kind": "train", "step": 400}\n{"kind": "train", "st')

    assert failures.last_logged_step(folder) == 400


# --- the first cause ---


def test_the_earliest_failure_is_the_cause():
    assert failures.first_cause([record(rank=0, time=2.0), record(rank=1, time=1.0)]).rank == 1


def test_an_echo_is_not_the_cause_however_early():
    echo = record(rank=0, kind="peer_lost", time=1.0)

    for kind in ("bug", "user", "signal"):
        assert failures.first_cause([echo, record(rank=1, kind=kind, time=9.0)]).rank == 1


def test_of_echoes_alone_the_earliest_is_the_cause():
    echoes = [record(rank=rank, kind="peer_lost", time=time) for rank, time in ((0, 3.0), (1, 2.0))]

    assert failures.first_cause(echoes).rank == 1
    assert failures.first_cause([]) is None


# --- what the supervisor tells of a process that left no record ---


def test_a_death_by_a_signal_is_named():
    assert killed_by(signal.SIGSEGV).kind == "signal"
    assert killed_by(signal.SIGSEGV).message.startswith("killed by SIGSEGV: a fault in native code")
    assert killed_by(signal.SIGKILL).message == "killed by SIGKILL, perhaps out of memory"
    assert killed_by(99).message == "killed by signal 99"


def test_a_worker_that_the_supervisor_killed_is_an_echo():
    assert killed_by(signal.SIGKILL, killed=True).kind == "peer_lost"


def test_an_exit_without_a_record_is_a_bug_and_code_2_a_users_mistake():
    assert killed_by(0, exit_code=1).kind == "bug"
    mistake = killed_by(0, exit_code=2, last_lines=["usage: ...", "no such option"])
    assert (mistake.kind, mistake.message) == ("user", "usage: ...\nno such option")


# --- how it reads ---


def test_a_bug_reads_as_place_then_traceback_with_its_reason_last():
    text = failures.format_cause(record(rank=1), [])

    assert text == ("rank 1 on node-a failed at step 412:\nTraceback (most recent call last):\n  ...\nValueError: boom")


def test_the_echoes_are_collapsed_into_one_line():
    echoes = [record(rank=rank, kind="peer_lost") for rank in (0, 2, 3)]

    text = failures.format_cause(record(rank=1), echoes)

    assert text.splitlines()[0] == (
        "rank 1 on node-a failed at step 412; 3 other workers lost their peer because of it:"
    )


def test_a_mistake_that_all_workers_found_is_told_once_and_without_a_traceback():
    mistakes = [record(rank=rank, kind="user", message="a.yaml:3: no such key", step=None) for rank in range(3)]

    text = failures.format_cause(mistakes[0], mistakes[1:])

    assert text == "rank 0 on node-a failed; 2 other workers failed alike:\na.yaml:3: no such key"


def test_another_failure_gets_a_line_of_its_own():
    text = failures.format_cause(record(rank=1), [record(rank=2, message="KeyError: 'x'\nmore")])

    assert text.splitlines()[0] == "rank 2 on node-a failed as well: KeyError: 'x'"


def test_torchrun_is_told_of_a_mistake_that_is_found_before_there_is_a_run(tmp_path, monkeypatch, capsys):
    told = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(told))
    monkeypatch.setenv("LOCAL_RANK", "1")

    assert worker.refuse(UserError("unknown key", where="a.yaml:3")) == 2

    assert json.loads(told.read_text())["message"]["message"] == "a.yaml:3: unknown key"
    assert not capsys.readouterr().err  # the first worker of this host says it


def test_a_death_by_a_signal_reads_as_last_output_then_the_signal():
    text = failures.format_cause(killed_by(signal.SIGKILL), [])

    assert text == (
        f"rank 1 on {socket.gethostname()} failed after step 400:\nepoch 3\nkilled by SIGKILL, perhaps out of memory"
    )


def test_a_worker_that_hung_is_pointed_at_when_all_others_only_lost_it():
    hung = killed_by(signal.SIGKILL, killed=True, rank=3)

    text = failures.format_cause(record(rank=0, kind="peer_lost"), [record(rank=1, kind="peer_lost"), hung])

    assert "rank 3" in text.splitlines()[0] and "may be the one that hung" in text.splitlines()[0]


def test_torchrun_is_told_of_an_error_with_a_time_before_those_that_follow_from_it(folder, tmp_path, monkeypatch):
    told = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(told))
    monkeypatch.delenv("DISTDL_SUPERVISOR_PID", raising=False)

    worker.report(PeerLost("an echo"), folder, rank=0)
    assert not told.exists()
    before = time.time()
    try:
        raise ValueError("boom")
    except ValueError as error:
        worker.report(error, folder, rank=1)

    message = json.loads(told.read_text())["message"]
    assert message["extraInfo"]["py_callstack"].endswith("ValueError: boom\n")
    assert int(message["extraInfo"]["timestamp"]) < before
