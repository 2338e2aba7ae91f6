"""How the output of a worker is passed on: to the screen as it comes, to the log as it was left."""

import os
from pathlib import Path

import pytest

from distdl.launch import output
from distdl.launch.output import Output, Screen, last_state


@pytest.mark.parametrize(
    ("line", "state"),
    [
        (b"epoch done", b"epoch done"),
        (b"step 1\rstep 2", b"step 2"),
        (b"\rstep 1\rstep 2\r", b"step 2"),  # the cursor went back, and nothing was written over it
        (b"windows line\r", b"windows line"),
        (b"step 1\r\x1b[Kepoch done", b"epoch done"),
        (b"\r\x1b[2K", b""),
        (b"", b""),
    ],
)
def test_the_log_has_what_a_redrawn_line_showed_last(line, state):
    assert last_state(line) == state


def log_of(pieces: list[bytes], log: Path) -> bytes:
    reader, writer = os.pipe()
    passed_on = Output(os.fdopen(reader, "rb", buffering=0), log, screen=None)
    for piece in pieces:
        os.write(writer, piece)
        passed_on.pump()
    os.close(writer)
    passed_on.close()
    return log.read_bytes()


def test_lines_are_the_same_however_the_pipe_cuts_them(tmp_path):
    text = b"hello\nstep 1\rstep 2\rstep 3\nlast words"

    for size in (1, 2, 5, 100):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert log_of(pieces, tmp_path / f"{size}.log") == b"hello\nstep 3\nlast words\n"


def test_a_line_without_an_end_does_not_pile_up_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "_LONGEST_LINE_BYTES", 10)

    assert log_of([b"x" * 8, b"x" * 8, b"y"], tmp_path / "log") == b"x" * 16 + b"\ny\n"


def test_the_last_lines_are_kept_for_a_report(tmp_path):
    reader, writer = os.pipe()
    passed_on = Output(os.fdopen(reader, "rb", buffering=0), None, screen=None)
    os.write(writer, b"".join(b"line %d\n" % number for number in range(50)))
    passed_on.close()  # with the pipe still open on the other side
    os.close(writer)

    assert list(passed_on.last_lines) == [f"line {number}" for number in range(30, 50)]


def test_the_supervisor_speaks_below_a_live_line(tmp_path):
    with (tmp_path / "terminal").open("w+b") as terminal:
        screen = Screen(stdout=terminal.fileno(), stderr=terminal.fileno())
        screen.show(b"\rstep 1")
        screen.say("stopping")
        screen.say("stopped")

    assert (tmp_path / "terminal").read_bytes() == b"\rstep 1\nstopping\nstopped\n"


def test_a_closed_screen_does_not_stop_anything():
    reader, writer = os.pipe()
    os.close(reader)

    Screen(stdout=writer, stderr=writer).show(b"nobody reads this")

    os.close(writer)


def test_a_log_gets_every_line_of_a_worker_that_prints_faster_than_the_disk_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "_MOST_LINES_WAITING", 3)
    lines = b"".join(b"line %d\n" % number for number in range(5000))

    assert log_of([lines], tmp_path / "log") == lines


def test_a_log_that_takes_nothing_more_holds_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "CLOSE_S", 0.1)
    monkeypatch.setattr(output, "STUCK_S", 0.1)
    monkeypatch.setattr(output, "_MOST_LINES_WAITING", 100)
    log = tmp_path / "log"
    os.mkfifo(log)
    nobody_reads = os.open(log, os.O_RDWR)
    reader, writer = os.pipe()
    passed_on = Output(os.fdopen(reader, "rb", buffering=0), log, screen=None)

    for number in range(1000):
        os.write(writer, b"%03d" % number + b"x" * 996 + b"\n")
        passed_on.pump()
    os.close(writer)
    passed_on.close()

    assert passed_on.last_lines[-1].startswith("999")
    os.close(nobody_reads)
