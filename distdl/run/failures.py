"""Why a run failed: one record per failed worker in failures/, and which of them was the first cause.

When one worker fails, the others soon fail too because their peer is gone. Such an echo has the kind "peer_lost" and is
never the cause while there is any other record. A worker writes its own record; for one that could not (a signal, a
hang, an end in the middle of an import) the supervisor writes what it can tell from outside.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distdl.errors import EXIT_BUG, EXIT_DONE, EXIT_USER_ERROR, PeerLost, ProcessLost, UserError
from distdl.run import endings, exhausted
from distdl.run.exhausted import Resource, Shortage
from distdl.run.folder import RunFolder, find, write_json
from distdl.run.oom import Judgement

Kind = Literal["user", "bug", "process_lost", "peer_lost", "signal", "hang", "link", "mismatched"]

_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRecord:
    time: float  # seconds since 1970
    rank: int
    host: str
    step: int | None
    kind: Kind
    message: str
    traceback: str  # of a worker that wrote no record: the last lines that it printed
    exit_code: int  # of the process; negative: the signal that ended it
    attempt: int
    resource: Resource | None = None  # what had run out, where that is the reason


def write(folder: RunFolder, rank: int, step: int | None, error: BaseException, attempt: int) -> FailureRecord:
    """Records that worker `rank` failed with `error`. Never raises: on a full disk the record is only returned."""
    exhausted.open_reserve()
    kind, shortage = _kind_of(error), exhausted.of_error(error)
    if kind == "peer_lost" and shortage:
        kind = "bug"  # a collective that found no memory for its own part
    record = FailureRecord(
        time=time.time(),
        rank=rank,
        host=socket.gethostname(),
        step=step,
        kind=kind,
        message=_message_of(error, shortage),
        traceback="".join(traceback.format_exception(error)),
        exit_code=EXIT_USER_ERROR if kind == "user" else EXIT_BUG,
        attempt=attempt,
        resource=shortage.resource if shortage else None,
    )
    save(folder, record)
    return record


def describe_end(
    *,
    rank: int,
    exit_code: int,
    killed: bool,
    last_lines: Sequence[str],
    step: int | None,
    attempt: int,
    judged: Judgement | None = None,
) -> FailureRecord:
    """What can be told from outside about a process that left no record. `killed`: by the supervisor; `judged`: whether
    it was the kernel that ended it."""
    message, resource = endings.in_words(exit_code, last_lines, judged)
    kind: Kind = "signal" if exit_code < 0 else "bug"
    if killed:
        kind, message, resource = "peer_lost", "was still running after the failure of a peer, and was killed", None
    elif exit_code == EXIT_USER_ERROR:
        kind, message = "user", "\n".join(last_lines) or message
    elif resource == "file descriptors":
        kind = "user"
    return FailureRecord(
        time=time.time(),
        rank=rank,
        host=socket.gethostname(),
        step=step,
        kind=kind,
        message=message,
        traceback="\n".join(last_lines),
        exit_code=exit_code,
        attempt=attempt,
        resource=resource,
    )


def from_outside(
    *, rank: int, kind: Kind, message: str, stacks: str, step: int | None, attempt: int, host: str, at: float = 0.0
) -> FailureRecord:
    """Of a worker that did not fail by itself, but was found to hang, to wait for one, or to call something else.

    `at`: when, in seconds since 1970 (0: now). `stacks`: of its threads, or what else it left.
    """
    return FailureRecord(
        time=at or time.time(),
        rank=rank,
        host=host,
        step=step,
        kind=kind,
        message=message,
        traceback=stacks,
        exit_code=-signal.SIGKILL,
        attempt=attempt,
    )


def save(folder: RunFolder, record: FailureRecord) -> None:
    """Writes the record if the disk lets it: the failure that it tells of matters more."""
    with contextlib.suppress(OSError):
        folder.failures.mkdir(parents=True, exist_ok=True)
        write_json(_path(folder, record.rank), dataclasses.asdict(record))


def save_all(folder: RunFolder, records: Sequence[FailureRecord], within_s: float = 2.0) -> None:
    """Gives the disk `within_s` for them. One that answers no more may be what the records tell of."""

    def save_each() -> None:
        for record in records:
            save(folder, record)

    saving = threading.Thread(target=save_each, name="failures", daemon=True)
    saving.start()
    saving.join(within_s)


def tell_torchrun(path: str, text: str, at: float) -> None:
    """Writes `text` where torchrun looks for what a worker has failed from (TORCHELASTIC_ERROR_FILE, if it is set).

    `at`: seconds since 1970. The earliest is the root cause to torchrun, which dates those without a file itself.
    """
    message: dict[str, Any] = {"message": text, "extraInfo": {"py_callstack": text, "timestamp": str(int(at))}}
    if path:
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": message}))


def clear(folder: RunFolder) -> None:
    """Sets the records of earlier attempts and launches aside, into failures/earlier/."""
    earlier = folder.failures / "earlier"
    for path in folder.failures.glob("*.json"):
        try:
            earlier.mkdir(exist_ok=True)
            path.rename(earlier / f"{path.stat().st_mtime_ns}-{path.name}")
        except OSError:
            path.unlink(missing_ok=True)  # on a full disk: better no old record than one taken for new


def why(arguments: argparse.Namespace) -> int:
    """`distdl why RUN`. Raises UserError without such a run."""
    told = last_told(find(arguments.run))
    if told or not arguments.quiet:
        print(told or f"no failure of {arguments.run} is on record")
    return EXIT_DONE


def last_told(folder: RunFolder) -> str:
    """Why the last launch failed, in the words of `format_cause`; "" if no worker of it did."""
    records = [record for path in folder.failures.glob("*.json") if (record := _read(path))]
    newest = read_all(folder, max((record.attempt for record in records), default=0))
    cause = first_cause(newest)
    return format_cause(cause, [record for record in newest if record is not cause]) if cause else ""


def read_all(folder: RunFolder, attempt: int) -> list[FailureRecord]:
    """The readable records of this attempt, by rank."""
    records = [record for path in folder.failures.glob("*.json") if (record := _read(path))]
    return sorted((record for record in records if record.attempt == attempt), key=lambda record: record.rank)


def first_cause(records: Sequence[FailureRecord]) -> FailureRecord | None:
    """The earliest record that isn't an echo; if all are, the earliest; None of none."""
    return min(records, key=lambda record: (record.kind == "peer_lost", record.time), default=None)


def format_cause(cause: FailureRecord, others: Sequence[FailureRecord]) -> str:
    """What the screen ends with: other trouble, a line each, then who failed and why. The reason is its last line."""
    lines = []
    echoes = [other for other in others if other.kind == "peer_lost"]
    alike = [other for other in others if other not in echoes and other.message == cause.message]
    for other in others:
        if other not in echoes and other not in alike:
            lines.append(f"{_who(other)} failed as well: {_first_line(other.message)}")
        elif cause.kind == "peer_lost" and other.exit_code < 0:
            lines.append(f"{_who(other)} {other.message}: it may be the one that hung")
    if cause.kind == "peer_lost":
        lines.append(f"{headline(cause)}:")
    else:
        lines.append(headline(cause) + _collapsed(echoes, "lost their peer", "lost its peer", " because of it"))
        lines[-1] += _collapsed(alike, "failed alike", "failed alike", "") + ":"
    lines.append(_reason(cause))
    return "\n".join(lines)


def headline(record: FailureRecord) -> str:
    """`rank 1 on node-a failed at step 412`"""
    if record.step is None:
        return f"{_who(record)} failed"
    # A record from outside knows only the last step that was taken, or logged.
    verb = "hung" if record.kind in ("hang", "link") else "failed"
    return f"{_who(record)} {verb} {'after' if record.exit_code < 0 else 'at'} step {record.step}"


def last_logged_step(folder: RunFolder) -> int | None:
    """The step of the last whole row of metrics.jsonl, read from its end; None without one."""
    try:
        with folder.metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            rows = file.read().splitlines()
    except OSError:
        return None
    for row in reversed(rows):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return int(json.loads(row)["step"])
    return None


def _path(folder: RunFolder, rank: int) -> Path:
    return folder.failures / f"rank-{rank}.json"


def _read(path: Path) -> FailureRecord | None:
    try:
        return FailureRecord(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _kind_of(error: BaseException) -> Kind:
    if isinstance(error, UserError | ProcessLost):
        return "user" if isinstance(error, UserError) else "process_lost"
    return "peer_lost" if any(isinstance(each, PeerLost) for each in _chain(error)) else "bug"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on: clean-up after a lost peer may fail with another error."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _message_of(error: BaseException, shortage: Shortage | None) -> str:
    try:
        text = str(error)
    except Exception as problem:  # a __str__ with a bug in it must not hide the failure
        text = f"(its text could not be formed: {type(problem).__name__})"
    if isinstance(error, UserError | ProcessLost):
        return text
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{shortage}: {message}\n  {shortage.fix}" if shortage else message


def _reason(record: FailureRecord) -> str:
    body, message = record.traceback.rstrip(), record.message.rstrip()
    if record.kind in ("user", "process_lost", "hang", "link", "mismatched") or not body:
        return message
    return body if body.endswith(message) else f"{body}\n{message}"


def _who(record: FailureRecord) -> str:
    return f"rank {record.rank} on {record.host}"


def _collapsed(records: Sequence[FailureRecord], several: str, one: str, why: str) -> str:
    if not records:
        return ""
    return f"; {len(records)} other workers {several}{why}" if len(records) > 1 else f"; 1 other worker {one}{why}"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
