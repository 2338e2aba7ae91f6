"""A pack that is killed, runs out of space or meets an unreadable file goes on, to the bytes of an unbroken one."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from distdl.data import pack as packing
from distdl.data.corpus.shards import RawSample
from distdl.data.corpus.unfinished import resumable_folder
from distdl.data.pack import pack
from distdl.data.packing.corpus import Corpus
from distdl.errors import UserError

SHARD_BYTES = 14_000  # three or four images


def silent(line: str) -> None:
    pass


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Noise: 24 images of two classes for training, 6 for validation; two more can't be read as images."""
    draws = np.random.default_rng(0)
    for i in range(30):
        folder = tmp_path / "src" / ("train" if i < 24 else "val") / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 256, (8 + i, 30, 3), dtype=np.uint8)
        (folder / f"{i:02}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    for name in ("class0/empty.jpg", "class1/letter.png"):
        (tmp_path / "src/train" / name).write_bytes(b"" if "empty" in name else b"Dear reader,")
    return tmp_path / "src"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def unbroken(src: Path, tmp_path: Path) -> dict[str, bytes]:
    pack("imagefolder", src, tmp_path / "unbroken", say=silent, shard_bytes=SHARD_BYTES)
    found = files(tmp_path / "unbroken")
    assert sum(name.startswith("train/") and name.endswith(".tar") for name in found) >= 6
    return found


def write_times(folder: Path) -> dict[str, int]:
    return {f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns for path in sorted(folder.rglob("*.tar"))}


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_bytes_do_not_depend_on_the_number_of_threads(
    src: Path, tmp_path: Path, unbroken: dict[str, bytes], workers: int
) -> None:
    pack("imagefolder", src, tmp_path / "out", say=silent, shard_bytes=SHARD_BYTES, workers=workers)

    assert files(tmp_path / "out") == unbroken


class Meeting(Sequence[RawSample]):
    """Two samples that can only be made at the same time."""

    def __init__(self) -> None:
        self.both = threading.Barrier(2)

    def __len__(self) -> int:
        return 9

    def __getitem__(self, i: Any) -> Any:
        if i in (0, 8):
            self.both.wait(timeout=60)
        return {"__key__": f"{i}", "txt": "t"}


def test_samples_are_made_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packing.KINDS, "meeting", lambda src: Corpus(None, {"train": Meeting()}))

    pack("meeting", None, tmp_path / "out", say=silent, workers=2)

    assert (tmp_path / "out/train/000000.tar").exists()


KILLS_ITSELF = """
import os, signal, sys
from pathlib import Path
from distdl.data.corpus import unfinished
from distdl.data.pack import pack

n_left, where = int(sys.argv[3]), sys.argv[4]

def counted(function):
    def call(*arguments, **named):
        global n_left
        n_left -= 1
        if n_left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call

setattr(*{
    "before a shard is journalled": (unfinished.Progress, "add", counted(unfinished.Progress.add)),
    "while a file is synced": (unfinished.os, "fsync", counted(os.fsync)),
    "before the whole is renamed": (unfinished, "_commit", counted(unfinished._commit)),
    "after the whole is renamed": (unfinished.shutil, "rmtree", counted(unfinished.shutil.rmtree)),
}[where])
pack("imagefolder", sys.argv[1], sys.argv[2], say=lambda line: None, shard_bytes=14_000)
"""


@pytest.mark.parametrize(
    ("where", "n_calls"),
    [
        ("before a shard is journalled", 0),
        ("before a shard is journalled", 4),
        ("while a file is synced", 17),
        ("before the whole is renamed", 0),
    ],
)
def test_after_sigkill_the_same_command_goes_on_without_doing_anything_twice(
    src: Path, tmp_path: Path, unbroken: dict[str, bytes], where: str, n_calls: int
) -> None:
    out, unfinished = tmp_path / "out", tmp_path / ".out.unfinished"
    command = [sys.executable, "-c", KILLS_ITSELF, str(src), str(out), str(n_calls), where]
    killed = subprocess.run(command, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()  # what is half packed is never taken for a whole corpus
    journal = unfinished / "journal.jsonl"
    n_kept = len(journal.read_bytes().splitlines()) - 1 if journal.exists() else 0
    before = write_times(unfinished)
    time.sleep(0.01)
    said: list[str] = []

    pack("imagefolder", src, out, say=said.append, shard_bytes=SHARD_BYTES)

    assert files(out) == unbroken
    assert not unfinished.exists()
    if where == "before a shard is journalled":
        assert n_kept == n_calls
    untouched = [name for name, time_ns in write_times(out).items() if before.get(name) == time_ns]
    assert len(untouched) == n_kept
    assert any("going on" in line for line in said) == (n_kept > 0)


def test_a_kill_after_the_last_rename_leaves_a_whole_corpus(
    src: Path, tmp_path: Path, unbroken: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLS_ITSELF, str(src), str(out), "0", "after the whole is renamed"]

    assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL

    assert files(out) == unbroken
    with pytest.raises(UserError, match="this exists already"):
        pack("imagefolder", src, out, say=silent)


def break_off(src: Path, out: Path, bad: Path, **options: object) -> None:
    """Packs until it comes to the file `bad`, which is a pipe for so long."""
    content = bad.read_bytes()
    bad.unlink()
    os.mkfifo(bad)
    with pytest.raises(UserError, match="this is a pipe or a device, not an image"):
        pack("imagefolder", src, out, say=silent, shard_bytes=SHARD_BYTES, **options)  # type: ignore[arg-type]
    bad.unlink()
    bad.write_bytes(content)


@pytest.fixture
def late(src: Path) -> Path:
    """A file of the second split."""
    return sorted((src / "val").rglob("*.png"))[-1]


def test_an_unreadable_file_keeps_what_is_finished(
    src: Path, tmp_path: Path, unbroken: dict[str, bytes], late: Path
) -> None:
    break_off(src, tmp_path / "out", late)
    n_train = sum(name.startswith("train/") and name.endswith(".tar") for name in unbroken)
    before = write_times(tmp_path / ".out.unfinished/corpus/train")
    assert len(before) == n_train

    pack("imagefolder", src, tmp_path / "out", say=silent, shard_bytes=SHARD_BYTES)

    assert files(tmp_path / "out") == unbroken
    assert write_times(tmp_path / "out/train") == before


def test_a_file_that_is_gone_is_named(src: Path, tmp_path: Path, late: Path) -> None:
    late.unlink()
    late.symlink_to("nowhere")

    with pytest.raises(UserError, match=rf"{late.name}: can't read this image: No such file"):
        pack("imagefolder", src, tmp_path / "out", say=silent)


def test_images_that_are_none_are_left_out_and_named_also_after_going_on(src: Path, tmp_path: Path, late: Path) -> None:
    expected: list[str] = []
    pack("imagefolder", src, tmp_path / "unbroken", say=expected.append, shard_bytes=SHARD_BYTES)
    break_off(src, tmp_path / "out", late)
    said: list[str] = []

    pack("imagefolder", src, tmp_path / "out", say=said.append, shard_bytes=SHARD_BYTES)

    left_out = [line for line in said if line.startswith(("train: left out", "  class"))]
    assert left_out == [line for line in expected if line.startswith(("train: left out", "  class"))]
    assert left_out[0] == "train: left out 2 images that can't be read as an image:"
    assert {line.split(":")[0] for line in left_out[1:]} == {"  class0/empty.jpg", "  class1/letter.png"}


# --- what has changed in between ---


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"shard_samples": 2}, "samples of a shard: None, now 2"),
        ({"smaller": packing.Smaller(long_side=16)}, "largest image: None, now long side of at most 16 pixels"),
    ],
)
def test_other_options_are_refused_while_there_is_something_to_lose(
    src: Path, tmp_path: Path, unbroken: dict[str, bytes], late: Path, change: dict[str, object], expected: str
) -> None:
    break_off(src, tmp_path / "out", late)

    with pytest.raises(UserError, match=rf"begun otherwise(.|\n)*{expected}(.|\n)*delete that folder"):
        pack("imagefolder", src, tmp_path / "out", say=silent, **{"shard_bytes": SHARD_BYTES, **change})  # type: ignore[arg-type]

    pack("imagefolder", src, tmp_path / "out", say=silent, shard_bytes=SHARD_BYTES)  # nothing was lost by it
    assert files(tmp_path / "out") == unbroken


def test_another_source_is_refused(src: Path, tmp_path: Path, late: Path) -> None:
    break_off(src, tmp_path / "out", late)
    (src / "train/class0/00.png").rename(src / "train/class0/zz.png")

    with pytest.raises(UserError, match=r"images of train: 26 \(.*\), now 26 \("):
        pack("imagefolder", src, tmp_path / "out", say=silent, shard_bytes=SHARD_BYTES)


def test_damaged_leftovers_are_made_anew(src: Path, tmp_path: Path, unbroken: dict[str, bytes], late: Path) -> None:
    break_off(src, tmp_path / "out", late)
    train = tmp_path / ".out.unfinished/corpus/train"
    with (train / "000002.tar").open("ab") as tar:
        tar.write(b"more")
    (train / "000004.tar.ddx").unlink()
    (train / "stranger.tar").touch()
    with (tmp_path / ".out.unfinished/journal.jsonl").open("ab") as journal:
        journal.write(b'{"split": "train", "ent')  # killed while it wrote a line

    pack("imagefolder", src, tmp_path / "out", say=silent, shard_bytes=SHARD_BYTES)

    assert files(tmp_path / "out") == unbroken


def test_two_processes_can_not_pack_into_one_place(src: Path, tmp_path: Path) -> None:
    with resumable_folder(tmp_path / "out") as first:
        first.folder.mkdir()
        with pytest.raises(UserError, match="another process is writing this"):
            pack("imagefolder", src, tmp_path / "out", say=silent)
        (first.folder / "of the first").touch()

    assert list(files(tmp_path / "out")) == ["of the first"]


# --- sources that can only be read from the beginning ---


def test_a_source_without_places_goes_on_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = True

    def samples() -> Iterator[RawSample]:
        for i in range(10):
            if i == 9 and broken:
                raise UserError("the line is dead")
            yield {"__key__": f"{i}", "txt": "t", "cls": i}

    monkeypatch.setitem(packing.KINDS, "stream", lambda src: Corpus(None, {"train": samples()}))
    with pytest.raises(UserError, match="the line is dead"):
        pack("stream", None, tmp_path / "out", say=silent, shard_samples=2)
    broken = False

    pack("stream", None, tmp_path / "out", say=silent, shard_samples=2)
    pack("stream", None, tmp_path / "unbroken", say=silent, shard_samples=2)

    assert files(tmp_path / "out") == files(tmp_path / "unbroken")


# --- a full disk ---

FILLS_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=60k tmpfs "$2"
if "$0" -m distdl data pack imagefolder "$1" "$2/out" --shard-mb 0.014; then exit 9; fi
ls "$2/.out.unfinished/corpus/train" | grep -c 'tar$'
test ! -e "$2/out"
mount -o remount,size=10m "$2"
"$0" -m distdl data pack imagefolder "$1" "$2/out" --shard-mb 0.014
cp -r "$2/out" "$3"
"""


@pytest.mark.needs("root")
def test_a_full_disk_is_answered_and_with_more_space_it_goes_on(
    src: Path, tmp_path: Path, unbroken: dict[str, bytes]
) -> None:
    (tmp_path / "disk").mkdir()
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")

    command = ["unshare", "--mount", "sh", "-c", FILLS_A_SMALL_DISK, sys.executable]
    ended = subprocess.run(
        [*command, str(src), str(tmp_path / "disk"), str(tmp_path / "copy")],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "No space left on device" in ended.stderr
    assert "finished shard" in ended.stderr and "the same command goes on" in ended.stderr
    assert "going on with a pack that was not finished" in ended.stdout
    assert files(tmp_path / "copy") == unbroken
