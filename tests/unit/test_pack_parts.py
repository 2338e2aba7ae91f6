"""`distdl data pack --part I/N`: parts that many machines pack hold together what one pack holds."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from distdl.data.corpus.dataset import Dataset
from distdl.data.inspect import verify
from distdl.data.pack import pack
from distdl.data.packing import parts
from distdl.data.packing.parts import Part
from distdl.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0)
    for label, n in (("ant", 11), ("bee", 6)):
        for i in range(n):
            path = tmp_path / "images" / ("val" if i == 0 else "train") / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), noise.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return tmp_path / "images"


def packed(images: Path, dst: Path, part: str | None = None) -> list[str]:
    said: list[str] = []
    pack("imagefolder", images, dst, say=said.append, shard_samples=3, part=Part.parse(part) if part else None)
    return said


def samples(folder: Path) -> list[tuple]:
    dataset = Dataset.open(folder)
    places = [(shard, row) for shard, size in enumerate(dataset.sizes) for row in range(size)]
    found = [dataset.read(shard, row) for shard, row in places]
    return [(each.key, sorted(each.components.items())) for each in found]


@pytest.mark.parametrize("order", [[1, 2, 3], [3, 1, 2]])
def test_parts_hold_what_one_pack_holds_in_its_order(tmp_path, images, order):
    packed(images, tmp_path / "whole")
    for i in order:
        assert not (tmp_path / "joined").exists()
        said = packed(images, tmp_path / "joined", f"{i}/3")

    assert said[-1] == f"joined 3 parts: {tmp_path / 'joined' / 'val'}, 2 samples in 2 shards"
    for split in ("train", "val"):
        assert samples(tmp_path / "joined" / split) == samples(tmp_path / "whole" / split)
        assert verify(tmp_path / "joined" / split).ok
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "joined", "whole"]


def test_a_part_that_is_there_is_not_packed_again_and_a_whole_that_is_there_is_kept(tmp_path, images):
    packed(images, tmp_path / "joined", "1/2")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "joined.parts").rglob("*.tar")}
    assert packed(images, tmp_path / "joined", "1/2") == [f"{tmp_path}/joined.parts/1-of-2 is there already"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "joined.parts").rglob("*.tar")} == before
    packed(images, tmp_path / "joined", "2/2")
    with pytest.raises(UserError, match="this exists already"):
        packed(images, tmp_path / "joined", "2/2")


@pytest.mark.parametrize("n_moves", range(0, 16, 3))
def test_joining_goes_on_where_it_was_killed(tmp_path, images, monkeypatch, n_moves):
    packed(images, tmp_path / "whole")
    packed(images, tmp_path / "joined", "1/2")
    rename, count = Path.rename, [0]

    def dies(self, target):
        count[0] += 1
        if count[0] > n_moves and ".joining" in str(self):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        packed(images, tmp_path / "joined", "2/2")
        monkeypatch.setattr(Path, "rename", rename)
        parts.join(tmp_path / "joined", 2)  # the kill came before there was anything to join
        raise KeyboardInterrupt
    monkeypatch.setattr(Path, "rename", rename)
    if not (tmp_path / "joined").exists():
        packed(images, tmp_path / "joined", "2/2")
    assert samples(tmp_path / "joined" / "train") == samples(tmp_path / "whole" / "train")
    assert verify(tmp_path / "joined" / "train").ok


def test_while_another_process_joins_nobody_else_does(tmp_path, images):
    packed(images, tmp_path / "joined", "1/2")
    shutil.copytree(tmp_path / "joined.parts", tmp_path / ".joined.joining")
    with parts._locked_folder(tmp_path / ".joined.joining") as is_mine:
        assert is_mine
        assert parts.join(tmp_path / "joined", 2) is None


def test_parts_of_different_corpora_are_not_joined(tmp_path, images):
    packed(images, tmp_path / "joined", "1/2")
    (images / "train" / "cat").mkdir()
    shutil.copy(images / "train" / "ant" / "1.png", images / "train" / "cat" / "1.png")
    with pytest.raises(UserError, match="1-of-2 and 2-of-2 are not of one corpus"):
        packed(images, tmp_path / "joined", "2/2")


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/5"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(UserError, match="is not a part"):
        Part.parse(text)


def test_a_source_that_is_read_through_has_no_parts():
    with pytest.raises(UserError, match="it has no parts"):
        Part(1, 2).of("train", iter(()))
