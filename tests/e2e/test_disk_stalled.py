"""Fault: the disk of the run folders answers no more, as one of a file server does that hangs.

A file system of its own is frozen: whoever writes to it waits, and not even SIGKILL ends it before it answers again.
"""

import re
import subprocess
import time

import pytest
from hanging import last_words

pytestmark = [pytest.mark.timeout(180), pytest.mark.needs("root")]


def command(*words):
    return subprocess.run([*map(str, words)], capture_output=True, text=True)


@pytest.fixture
def runs(place):
    """The folder of the runs, on the file system that a test freezes."""
    image, folder = place.path / "image", place.path / "runs"
    image.touch()
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(100 << 20)
    for step in (("mkfs.ext4", "-q", image), ("mount", "-o", "loop", image, folder)):
        if (done := command(*step)).returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    command("fsfreeze", "--unfreeze", folder)
    command("umount", "--lazy", folder)  # once nobody uses it
    assert place.gone_within(10)


def test_a_disk_that_answers_no_more_is_told_and_the_run_ends(place, runs):
    config = place.config(dist__stall_s=3, train__steps=100_000, train__eval_every=None, checkpoint__every=100)
    process = place.start("train", config, "--nproc", 2)
    until = time.monotonic() + 60
    while not ((runs / "run/metrics.jsonl").exists() and len(place.rows("run")) >= 5):
        assert time.monotonic() < until
        time.sleep(0.1)

    assert command("fsfreeze", "--freeze", runs).returncode == 0
    frozen = time.monotonic()
    lines = iter(process.stdout.readline, "")
    output = ""
    while "If it may take so long, raise dist.stall_s." not in output:
        output += next(lines)
    seconds = time.monotonic() - frozen
    command("fsfreeze", "--unfreeze", runs)  # a process that writes there can't end before
    rest, _ = process.communicate(timeout=30)

    words = last_words(output + rest)
    assert process.returncode == 1 and seconds < 60, output  # 3 to find it, 5 to try to kill
    assert re.search(r"rank 0 on \S+ hung after step \d+", words), output
    assert re.search(r"rank 0 on \S+ held up by a disk or a file server for .*, in its metrics", words), output
    assert "a worker can't be killed and might still write" in output
