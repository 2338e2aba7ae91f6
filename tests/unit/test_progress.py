"""The bar of long commands: on a terminal only, out of the way of what is printed."""

import os
import pty
import subprocess
import sys

from distdl.track.progress import progress

COUNT = """
from distdl.track.progress import progress
with progress("packing train", 3) as advance:
    for n in range(3):
        print("line", n, flush=True)
        advance()
"""

FAIL = """
import contextlib
from distdl.track.progress import progress
with contextlib.suppress(ZeroDivisionError), progress("packing train", 3):
    1 / 0
"""


def on_a_terminal(source):
    """What a program writes to a terminal as its stderr; and its stdout, which goes to a pipe."""
    master, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.run(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=terminal, env=environment, text=True, check=True
    )
    os.close(terminal)
    written = b""
    while chunk := _read(master):
        written += chunk
    os.close(master)
    return written.decode(), process.stdout


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed, and all was read
        return b""


def test_a_terminal_shows_the_description_and_the_count():
    drawn, _ = on_a_terminal(COUNT)

    assert "packing train" in drawn
    assert "/3" in drawn


def test_what_is_printed_meanwhile_stays_in_the_pipe_it_was_meant_for():
    drawn, piped = on_a_terminal(COUNT)

    assert piped == "line 0\nline 1\nline 2\n"
    assert "line" not in drawn


def test_the_bar_is_gone_and_the_cursor_back_after_an_error():
    drawn, _ = on_a_terminal(FAIL)

    show_cursor, erase_line = "\x1b[?25h", "\x1b[2K"
    assert drawn.rindex(show_cursor) > drawn.rindex("packing")
    assert drawn.rindex(erase_line) > drawn.rindex("packing")


def test_nothing_is_written_where_there_is_no_terminal(capfd):
    with progress("packing train", 3) as advance:
        advance()
        advance(2)

    assert capfd.readouterr() == ("", "")


def test_without_a_terminal_rich_is_not_imported():
    source = COUNT + "import sys\nsys.exit('rich' in sys.modules)\n"

    assert subprocess.run([sys.executable, "-c", source], capture_output=True).returncode == 0
