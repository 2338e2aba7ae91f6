"""A Ctrl-C while the command line is still being imported."""

import subprocess
import sys

import pytest

INTERRUPTED_WHILE_IMPORTING = """
import os, _signal as signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise RuntimeError("half imported") if sys.argv[2] == "another error" else KeyboardInterrupt
            sys.exit("it was not interrupted")

from distdl.__main__ import main
sys.meta_path.insert(0, Interrupting())
sys.exit(main())
"""


@pytest.mark.parametrize(
    "module, raised",
    [("signal", "itself"), ("distdl.cli", "itself"), ("argparse", "itself"), ("argparse", "another error")],
)
def test_a_ctrl_c_while_it_imports_ends_it_quietly(module, raised):
    command = [sys.executable, "-c", INTERRUPTED_WHILE_IMPORTING, module, raised]

    ended = subprocess.run(command, capture_output=True, text=True)

    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")
