"""A corpus opened from what is on disk: any sample's bytes by shard and row, and what is said when that fails."""

import io
import os
import pickle
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distdl.data.corpus import dataset as dataset_module
from distdl.data.corpus.dataset import CorruptSample, Dataset
from distdl.data.corpus.shards import RawSample, index_folder, write_shards
from distdl.errors import UserError


def write_plain_tars(folder: Path, sizes: list[int]) -> Path:
    """Tars as anyone writes them, without index or dataset.json; sample i of a shard holds i bytes and the label i."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        with tarfile.open(folder / f"{number:06d}.tar", "w") as tar:
            for i in range(size):
                for name, data in ((f"{number}-{i}.bin", b"%d" % number * i), (f"{number}-{i}.cls", b"%d" % i)):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return folder


def pack(folder: Path, n_samples: int = 10, shard_samples: int = 4) -> Path:
    samples: list[RawSample] = [
        {"__key__": f"{i:03d}", "bin": b"x" * (100 + i), "cls": i % 2} for i in range(n_samples)
    ]
    write_shards(samples, folder, classes=["no", "yes"], kind="test", shard_samples=shard_samples)
    return folder


def damage(path: Path, needle: bytes) -> None:
    """Flips a bit of the first byte of `needle` in a file, which keeps its size."""
    content = bytearray(path.read_bytes())
    content[content.index(needle)] ^= 1
    path.write_bytes(content)


def n_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    """Two plain tars on a file system that can't be written, for root neither."""
    source, mounted = write_plain_tars(tmp_path / "writable", [2, 1]), tmp_path / "mounted"
    mounted.mkdir()
    commands = (["mount", "--bind", str(source), str(mounted)], ["mount", "-o", "remount,ro,bind", str(mounted)])
    for command in commands:
        if subprocess.run(command, capture_output=True).returncode != 0:
            subprocess.run(["umount", mounted], capture_output=True)
            pytest.skip("no permission to mount")
    yield mounted
    subprocess.run(["umount", mounted], check=True)


# --- reading ---


def test_plain_tars_need_no_preparation_and_get_their_indexes(tmp_path: Path) -> None:
    folder = write_plain_tars(tmp_path / "plain", [3, 0, 2])

    with Dataset.open(folder) as dataset:
        assert dataset.sizes.tolist() == [3, 0, 2]
        assert dataset.n_samples == 5
        assert dataset.classes is None
        assert dataset.shard_names == ["000000.tar", "000001.tar", "000002.tar"]
        sample = dataset.read(2, 1)

    assert (sample.key, sample.shard, sample.components) == ("2-1", "000002.tar", {"bin": b"2", "cls": b"1"})
    assert sorted(path.name for path in folder.glob("*.ddx")) == [f"00000{i}.tar.ddx" for i in range(3)]


def test_one_tar_is_a_dataset_too(tmp_path: Path) -> None:
    folder = write_plain_tars(tmp_path / "plain", [3, 2])

    with Dataset.open(str(folder / "000001.tar")) as dataset:
        assert [dataset.read(0, row).key for row in range(dataset.n_samples)] == ["1-0", "1-1"]


def test_one_tar_of_a_packed_folder_knows_its_classes(tmp_path: Path) -> None:
    with Dataset.open(pack(tmp_path / "packed") / "000001.tar") as dataset:
        assert dataset.classes == ["no", "yes"]
        assert dataset.n_samples == 4


def test_sample_ids_count_through_the_shards(tmp_path: Path) -> None:
    with Dataset.open(write_plain_tars(tmp_path, [3, 0, 2])) as dataset:
        places = [dataset.locate(sample_id) for sample_id in range(5)]

        assert places == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]
        assert [dataset.sample_id(*place) for place in places] == list(range(5))
        for outside in (-1, 5):
            with pytest.raises(IndexError):
                dataset.locate(outside)
        with pytest.raises(IndexError):
            dataset.sample_id(1, 0)


def test_only_the_wanted_components_are_read(tmp_path: Path) -> None:
    with Dataset.open(pack(tmp_path / "packed")) as dataset:
        assert dataset.read(0, 1, only=("cls", "jpg")).components == {"cls": b"1"}
        assert dataset.extensions(0) == ("bin", "cls")


def test_indexes_are_mapped_only_when_a_shard_is_read(tmp_path: Path) -> None:
    folder = pack(tmp_path / "packed")
    (folder / "000001.tar.ddx").unlink()

    with Dataset.open(folder) as dataset:
        assert dataset.n_samples == 10
        assert dataset.read(0, 0).key == "000"
        with pytest.raises(UserError, match=r"000001\.tar\.ddx: can't read this index"):
            dataset.read(1, 0)


def test_the_identity_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    here = write_plain_tars(tmp_path / "here", [3, 2])
    there = tmp_path / "there"
    shutil.copytree(here, there)
    index_folder(there, say=lambda line: None)
    other = write_plain_tars(tmp_path / "other", [3, 2])
    damage(other / "000001.tar", b"1" + bytes(511))  # one byte of data
    renamed = tmp_path / "renamed"
    shutil.copytree(here, renamed)
    (renamed / "000000.tar").rename(renamed / "a.tar")

    identity = Dataset.open(here).identity

    assert len(identity) == 32
    assert Dataset.open(there).identity == identity
    assert Dataset.open(renamed).identity != identity
    assert Dataset.open(other).identity != identity


def test_many_threads_read_with_few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pack(tmp_path / "packed", n_samples=60, shard_samples=3)
    monkeypatch.setattr(dataset_module, "most_open_shards", lambda: 2)  # of 20, so that they are closed all the time
    most_open, before = 0, n_descriptors()
    lock = threading.Lock()

    with Dataset.open(folder) as dataset, ThreadPoolExecutor(8) as pool:

        def read(i: int) -> tuple[str, bytes]:
            nonlocal most_open
            sample = dataset.read(*dataset.locate(i * 7 % 60))
            with lock:
                most_open = max(most_open, n_descriptors() - before)
            return sample.key, sample.components["bin"]

        found = list(pool.map(read, range(1200)))

    assert found == [(f"{i * 7 % 60:03d}", b"x" * (100 + i * 7 % 60)) for i in range(1200)]
    assert most_open <= 2 * (2 + 8 + 8) + 8  # two a shard: kept, in use, being opened; and the listings themselves
    assert n_descriptors() == before


def test_a_closed_dataset_is_not_opened_again_by_reading(tmp_path: Path) -> None:
    dataset = Dataset.open(pack(tmp_path / "packed"))
    dataset.close()

    with pytest.raises(ValueError, match="closed"):
        dataset.read(0, 0)


# --- damage ---


def test_a_changed_component_is_corrupt_and_its_neighbours_are_not(tmp_path: Path) -> None:
    folder = pack(tmp_path / "packed")
    damage(folder / "000000.tar", b"x" * 101)

    with Dataset.open(folder) as dataset:
        assert dataset.read(0, 0).key == "000"
        assert dataset.read(0, 1, only=("cls",)).components == {"cls": b"1"}
        with pytest.raises(CorruptSample) as caught:
            dataset.read(0, 1)

    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.shard, error.key, error.component) == ("000000.tar", "001", "bin")
    assert "checksum" in error.reason
    assert str(error).startswith("000000.tar: sample '001', component 'bin': ")


def test_a_shard_that_is_cut_off_while_it_is_read_is_corrupt(tmp_path: Path) -> None:
    folder = pack(tmp_path / "packed")

    with Dataset.open(folder) as dataset:
        os.truncate(folder / "000000.tar", 600)
        with pytest.raises(CorruptSample, match="the shard ends after 88 of its 100 bytes"):
            dataset.read(0, 0)


# --- what a user can get wrong ---


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: can't open this folder of shards: No such file"):
        Dataset.open(tmp_path / "nowhere")


def test_a_folder_without_tars_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()

    with pytest.raises(
        UserError, match=r"no shard \(\*\.tar\) in this folder: it has photo\.jpg(.|\n)*distdl data pack"
    ):
        Dataset.open(tmp_path)


def test_the_folder_above_the_splits_points_to_them(tmp_path: Path) -> None:
    pack(tmp_path / "train")

    with pytest.raises(UserError, match=r"it has train/(.|\n)*have shards: .*/train"):
        Dataset.open(tmp_path)


def test_a_folder_of_compressed_tars_says_decompress(tmp_path: Path) -> None:
    (tmp_path / "000000.tar.gz").touch()

    with pytest.raises(UserError, match="Decompress the tars"):
        Dataset.open(tmp_path)


def test_tars_without_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no samples in it"):
        Dataset.open(write_plain_tars(tmp_path, [0, 0]))


def test_an_index_of_another_tar_is_refused_naming_both(tmp_path: Path) -> None:
    folder = write_plain_tars(tmp_path, [30])
    Dataset.open(folder).close()
    write_plain_tars(tmp_path, [3])

    with pytest.raises(UserError, match=r"000000\.tar\.ddx: .*/000000\.tar has \d+(.|\n)*distdl data index"):
        Dataset.open(folder)


def test_a_shard_that_dataset_json_names_and_is_missing_is_named(tmp_path: Path) -> None:
    folder = pack(tmp_path / "packed")
    (folder / "000001.tar").unlink()

    with pytest.raises(UserError, match=r"dataset\.json: it lists shards that are missing: 000001\.tar"):
        Dataset.open(folder)


def test_a_shard_that_dataset_json_does_not_list_is_named(tmp_path: Path) -> None:
    folder = pack(tmp_path / "packed")
    shutil.copy(folder / "000001.tar", folder / "extra.tar")

    with pytest.raises(UserError, match=r"dataset\.json: it does not list extra\.tar(.|\n)*distdl data index"):
        Dataset.open(folder)


def test_a_shard_that_has_changed_since_it_was_packed_is_named(tmp_path: Path) -> None:
    folder = pack(tmp_path / "packed")
    os.truncate(folder / "000001.tar", 5000)

    with pytest.raises(UserError, match=r"000001\.tar has 5000 bytes, but it had \d+ when it was indexed"):
        Dataset.open(folder)


def test_an_index_that_does_not_fit_dataset_json_is_refused(tmp_path: Path) -> None:
    folder = pack(tmp_path / "packed")
    shutil.copy(folder / "000000.tar.ddx", folder / "000001.tar.ddx")

    with Dataset.open(folder) as dataset, pytest.raises(UserError, match=r"different versions of .*000001\.tar"):
        dataset.read(1, 0)


def test_an_edited_dataset_json_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = pack(tmp_path / "packed")
    listing = folder / "dataset.json"
    listing.write_text(listing.read_text().replace('"yes"', '"maybe"'))

    with pytest.raises(UserError, match=r"it was edited or is damaged(.|\n)*distdl data index"):
        Dataset.open(folder)

    index_folder(folder, say=lambda line: None)  # accepts the names as they are now
    assert Dataset.open(folder).classes == ["no", "maybe"]


def test_another_program_s_dataset_json_is_left_alone(tmp_path: Path) -> None:
    folder = write_plain_tars(tmp_path, [2])
    (folder / "dataset.json").write_text('{"description": "not ours"}')

    with Dataset.open(folder) as dataset:
        assert dataset.n_samples == 2


# --- folders that can't be written ---


@pytest.mark.needs("root")
def test_a_read_only_folder_without_index_names_both_ways_out(read_only_folder: Path) -> None:
    fix = r"distdl data index .*mounted --to OTHER`, and say where: data\.train\.index: OTHER"

    with pytest.raises(UserError, match=rf"mounted: 000000\.tar has no index yet(.|\n)*{fix}"):
        Dataset.open(read_only_folder)


@pytest.mark.needs("root")
def test_a_read_only_folder_works_with_its_index_elsewhere(read_only_folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    index_folder(read_only_folder, elsewhere, say=lambda line: None)

    with Dataset.open(read_only_folder, index_folder=str(elsewhere)) as dataset:
        assert [dataset.read(*dataset.locate(i)).key for i in range(3)] == ["0-0", "0-1", "1-0"]


def test_indexes_are_built_into_the_index_folder(tmp_path: Path) -> None:
    folder, elsewhere = write_plain_tars(tmp_path / "plain", [2, 1]), tmp_path / "new" / "elsewhere"

    with Dataset.open(folder, index_folder=elsewhere) as dataset:
        assert dataset.n_samples == 3

    assert sorted(path.name for path in elsewhere.iterdir()) == ["000000.tar.ddx", "000001.tar.ddx"]
    assert sorted(path.name for path in folder.iterdir()) == ["000000.tar", "000001.tar"]


def test_a_failed_write_of_an_index_names_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_plain_tars(tmp_path, [2])

    def no_space(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distdl.data.corpus.index.write_atomic", no_space)

    with pytest.raises(UserError, match=r"can't write the index: No space left(.|\n)*--to OTHER"):
        Dataset.open(folder)


def test_nothing_is_written_when_that_is_not_wanted(tmp_path: Path) -> None:
    folder = write_plain_tars(tmp_path, [2])

    with Dataset.open(folder, write_index=False) as dataset:
        assert dataset.read(0, 1).key == "0-1"

    assert [path.name for path in folder.iterdir()] == ["000000.tar"]
