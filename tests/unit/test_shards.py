"""Writing shards: webdataset reads them, the bytes follow from the samples alone, and no half folder appears."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import webdataset
import xxhash

from distdl.data.corpus import descriptor, index
from distdl.data.corpus.dataset import Dataset
from distdl.data.corpus.shards import RawSample, index_folder, new_folder, write_shards
from distdl.errors import UserError


def samples(n: int) -> list[RawSample]:
    return [{"__key__": f"c/{i:03d}", "png": b"p" * (1 + 37 * i), "cls": i % 3, "txt": "é"} for i in range(n)]


def silent(line: str) -> None:
    pass


def test_webdataset_reads_what_was_written(tmp_path: Path) -> None:
    write_shards(samples(10), tmp_path / "out", classes=["a", "b", "c"], kind="test", shard_samples=4)

    urls = [str(tmp_path / "out" / f"00000{i}.tar") for i in range(3)]
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode())

    assert [(row["__key__"], row["png"], row["cls"], row["txt"]) for row in read] == [
        (row["__key__"], row["png"], row["cls"], row["txt"]) for row in samples(10)
    ]


def test_the_folder_opens_as_a_dataset(tmp_path: Path) -> None:
    write_shards(samples(10), tmp_path / "out", classes=["a", "b", "c"], kind="test", shard_samples=4)

    with Dataset.open(tmp_path / "out") as dataset:
        assert dataset.sizes.tolist() == [4, 4, 2]
        assert dataset.classes == ["a", "b", "c"]
        assert dataset.read(2, 1).components == {"cls": b"0", "png": b"p" * 334, "txt": "é".encode()}


def test_dataset_json_is_a_wids_index_with_our_fields(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_shards(samples(10), folder, classes=["a", "b", "c"], kind="test", shard_samples=4)

    listing = json.loads((folder / "dataset.json").read_text())

    # what wids asserts of its input
    assert (listing["__kind__"], listing["wids_version"], listing["name"]) == ("wids-shard-index-v1", 1, "out")
    assert [shard["nsamples"] for shard in listing["shardlist"]] == [4, 4, 2]
    for shard in listing["shardlist"]:
        tar = folder / shard["url"]
        assert shard["filesize"] == tar.stat().st_size
        assert shard["md5sum"] == subprocess.check_output(["md5sum", tar]).split()[0].decode()
        assert shard["xxh3"] == xxhash.xxh3_128_hexdigest(tar.read_bytes())
        assert (folder / shard["index"]).exists()
    assert listing["classes"] == ["a", "b", "c"]
    assert listing["kind"] == "test"
    assert listing["created_by"].startswith("distdl ")


def test_a_flipped_bit_anywhere_in_dataset_json_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_shards(samples(2), folder, classes=["é", "b"], kind="test")
    content = (folder / "dataset.json").read_bytes()

    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8

        with pytest.raises(UserError, match=r"dataset\.json: it"):
            descriptor.parse(bytes(damaged), "dataset.json", "FOLDER")


def test_packing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one/out", "two/out"):
        write_shards(samples(10), tmp_path / name, classes=None, kind="test", shard_samples=4)

    one, two = ({path.name: path.read_bytes() for path in (tmp_path / n / "out").iterdir()} for n in ("one", "two"))
    assert one.keys() == {"dataset.json"} | {f"00000{i}.tar{end}" for i in range(3) for end in ("", ".ddx")}
    assert one == two


@pytest.mark.parametrize("shard_bytes", [1, 15_000, 20_480, 100_000])
def test_a_shard_is_at_most_as_large_as_asked(tmp_path: Path, shard_bytes: int) -> None:
    written = write_shards(samples(40), tmp_path / "out", classes=None, kind="test", shard_bytes=shard_bytes)

    assert sum(shard.n_samples for shard in written.shards) == 40
    for shard in written.shards:
        assert shard.n_samples == 1 or shard.size_bytes <= shard_bytes


def test_a_percent_sign_and_a_colon_in_the_path_are_no_pattern(tmp_path: Path) -> None:
    write_shards(samples(2), tmp_path / "100% d:ata", classes=None, kind="test")

    assert Dataset.open(tmp_path / "100% d:ata").n_samples == 2


def test_long_and_foreign_keys_are_kept(tmp_path: Path) -> None:
    keys = ["x" * 300, "中文/例え", "a.b/c"]

    write_shards(({"__key__": key, "txt": "t"} for key in keys), tmp_path / "out", classes=None, kind="test")

    with Dataset.open(tmp_path / "out") as dataset:
        assert [dataset.read(0, row).key for row in range(3)] == keys


@pytest.mark.parametrize("key", ["a.b", "a/", "", "__info__", "__info__/1"])
def test_a_key_that_readers_would_misread_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match="can't be a sample's key"):
        write_shards([{"__key__": key, "txt": "t"}], tmp_path / "out", classes=None, kind="test")


def test_an_existing_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()

    with pytest.raises(UserError, match=r"out: this exists already(.|\n)*another name"):
        write_shards(samples(2), tmp_path / "out", classes=None, kind="test")

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]


def test_no_samples_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no samples to pack"):
        write_shards([], tmp_path / "out", classes=None, kind="test")

    assert list(tmp_path.iterdir()) == []


def test_a_failure_half_way_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> object:
        yield from samples(5)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        write_shards(failing(), tmp_path / "out", classes=None, kind="test", shard_samples=2)  # type: ignore[arg-type]

    assert list(tmp_path.iterdir()) == []


KILLED_WHILE_FILLING = """
import sys, time
from pathlib import Path
from distdl.data.corpus.shards import new_folder
with new_folder(Path(sys.argv[1])) as unfinished:
    (unfinished / "half").touch()
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_no_folder_and_the_next_one_succeeds(tmp_path: Path) -> None:
    out = tmp_path / "out"
    writer = subprocess.Popen([sys.executable, "-c", KILLED_WHILE_FILLING, str(out)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == b"ready\n"
        with pytest.raises(UserError, match="another process is writing this"), new_folder(out):
            pass
        os.kill(writer.pid, signal.SIGKILL)
    finally:
        writer.kill()
        writer.communicate()
    assert not out.exists()

    write_shards(samples(2), out, classes=None, kind="test")

    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (out / "half").exists()


# --- distdl data index ---


def test_indexing_plain_tars_writes_indexes_and_dataset_json(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_shards(samples(10), folder, classes=["a", "b", "c"], kind="test", shard_samples=4)
    identity = Dataset.open(folder).identity
    for path in [*folder.glob("*.ddx"), folder / "dataset.json"]:
        path.unlink()
    said: list[str] = []

    assert index_folder(folder, say=said.append) == 0

    assert "10 samples in 3 shards" in said[-1]
    with Dataset.open(folder) as dataset:
        assert dataset.identity == identity
        assert dataset.classes is None


def test_indexing_again_keeps_the_names_of_the_classes(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_shards(samples(10), folder, classes=["a", "b", "c"], kind="test", shard_samples=4)
    (folder / "000002.tar").unlink()

    index_folder(folder, say=silent)

    with Dataset.open(folder) as dataset:
        assert dataset.sizes.tolist() == [4, 4]
        assert dataset.classes == ["a", "b", "c"]


def test_indexing_elsewhere_touches_nothing_here(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    write_shards(samples(4), folder, classes=["a", "b", "c"], kind="test")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    time.sleep(0.01)

    index_folder(folder, elsewhere, say=silent)

    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before
    listing = json.loads((elsewhere / "dataset.json").read_text())
    assert listing["shardlist"][0]["url"] == str(folder / "000000.tar")
    with Dataset.open(folder, index_folder=elsewhere) as dataset:
        assert dataset.classes == ["a", "b", "c"]
        assert dataset.read(0, 3).key == "c/003"


def test_indexing_one_tar_writes_its_index_only(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_shards(samples(4), folder, classes=None, kind="test", shard_samples=2)
    for path in [*folder.glob("*.ddx"), folder / "dataset.json"]:
        path.unlink()

    index_folder(folder / "000001.tar", say=silent)

    assert sorted(path.name for path in folder.iterdir()) == ["000000.tar", "000001.tar", "000001.tar.ddx"]
    assert index.read(folder / "000001.tar.ddx").n_samples == 2


def test_the_modules_of_a_corpus_do_not_import_torch() -> None:
    modules = "from distdl.data.corpus import dataset, shards; from distdl.data import pack, inspect"
    code = f"import sys; {modules}; assert 'torch' not in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True)
