"""The index of a shard: which sample lies where, for any tar that webdataset reads; damage is refused and named."""

import bz2
import gzip
import io
import lzma
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
import webdataset
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from distdl.data.corpus import index
from distdl.errors import UserError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
BLOCK = 512
NAME_AT, SIZE_AT, CHECKSUM_AT = slice(0, 100), slice(124, 136), slice(148, 156)


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], tar_format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples_of(shard_index: index.ShardIndex, tar: Path) -> list[dict[str, object]]:
    """What the index says that the tar holds, read by offset."""
    content = tar.read_bytes()
    samples = []
    for row in range(shard_index.n_samples):
        sample: dict[str, object] = {"__key__": shard_index.key(row)}
        for extension, component in shard_index.components(row).items():
            data = content[component.offset : component.offset + component.size]
            assert xxhash.xxh3_64_intdigest(data) == component.xxh3
            sample[extension] = data
        samples.append(sample)
    return samples


def samples_by_webdataset(tar: Path) -> list[dict[str, object]]:
    reader = webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False)
    added = ("__url__", "__local_path__")
    return [{name: value for name, value in sample.items() if name not in added} for sample in reader]


letters = st.text("abcXYZé_- 7", min_size=1, max_size=12)
folders = st.sampled_from(["", "d/", "a.b/c/", "long/" * 40])
stems = st.builds(lambda folder, base, repeat: folder + base * repeat, folders, letters, st.sampled_from([1, 1, 30]))
extensions = st.sampled_from(["jpg", "JPG2", "cls", "seg.png", "json", "tar.gz"])
datas = st.binary(max_size=1500)


@st.composite
def archives(draw: st.DrawFn) -> list[tuple[str, bytes]]:
    """Samples one after another, with files in between that belong to none."""
    files = []
    for stem in draw(st.lists(stems, max_size=6, unique=True)):
        for extension in draw(st.lists(extensions, min_size=1, max_size=3, unique_by=str.lower)):
            files.append((f"{stem}.{extension}", draw(datas)))
        if draw(st.booleans()):
            files.append(
                (draw(st.sampled_from(["README", ".hidden", "d/noext", "__meta__", "__x__/1.txt"])), draw(datas))
            )
    return files


@given(files=archives(), tar_format=st.sampled_from(list(FORMATS)))
def test_the_index_of_any_tar_finds_what_webdataset_finds(files: list[tuple[str, bytes]], tar_format: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder, "000000.tar")
        try:
            write_tar(tar, files, FORMATS[tar_format])
        except ValueError:
            return  # ustar has no room for so long a name
        built = index.build(tar)
        index.write(built, Path(folder, "000000.tar.ddx"))

        read = index.read(Path(folder, "000000.tar.ddx"))

        assert samples_of(read, tar) == samples_by_webdataset(tar)
        assert read.tar_size == tar.stat().st_size
        assert read.tar_xxh3 == xxhash.xxh3_128_hexdigest(tar.read_bytes())
        assert bytes(read.buffer) == bytes(built.buffer)


def test_hidden_files_that_macos_adds_are_no_samples(tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "a.tar", [("d/._1.jpg", b"x"), ("d/1.jpg", b"y"), ("d/._2.jpg", b"x"), ("d/2.jpg", b"z")]
    )

    built = index.build(tar)

    assert samples_of(built, tar) == [{"__key__": "d/1", "jpg": b"y"}, {"__key__": "d/2", "jpg": b"z"}]


@pytest.mark.parametrize("tar_format", ["ustar", "gnu", "posix", "v7"])
def test_a_tar_made_by_the_tar_command_is_indexed(tmp_path: Path, tar_format: str) -> None:
    folder = tmp_path / "src" / "class one"
    folder.mkdir(parents=True)
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(b"j" * 600 * i)
        (folder / f"{i}.cls").write_bytes(b"%d" % i)
    tar = tmp_path / "000000.tar"
    command = ["tar", f"--format={tar_format}", "--sort=name", "-cf", str(tar), "-C", str(tmp_path / "src"), "."]
    subprocess.run(command, check=True)

    built = index.build(tar)

    assert [built.key(row) for row in range(3)] == ["./class one/0", "./class one/1", "./class one/2"]
    assert samples_of(built, tar) == samples_by_webdataset(tar)


def test_a_size_in_base_256_is_read(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("1.txt", b"abc"), ("2.txt", b"de")])
    content = bytearray(tar.read_bytes())
    content[SIZE_AT] = b"\x80" + (3).to_bytes(11, "big")
    set_checksum(content)
    tar.write_bytes(content)

    built = index.build(tar)

    assert [sample["txt"] for sample in samples_of(built, tar)] == [b"abc", b"de"]


def test_links_and_devices_are_left_out_and_named(tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    with tarfile.open(tar, "w") as archive:
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("6.txt"))

    built = index.build(tar)

    assert built.ignored == ("0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    assert [built.key(row) for row in range(built.n_samples)] == ["6"]


@pytest.mark.parametrize("name", ["/etc/1.txt", "../1.txt", "a/../../1.txt"])
def test_a_name_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    tar = write_tar(tmp_path / "a.tar", [(name, b"x")])

    with pytest.raises(UserError, match=r"a\.tar: member '.*1\.txt' points outside"):
        index.build(tar)


def test_a_key_that_comes_back_later_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("1.jpg", b"x"), ("2.jpg", b"x"), ("1.cls", b"0")])

    with pytest.raises(UserError, match=r"a\.tar: the key '1' comes twice(.|\n)*--sort=name"):
        index.build(tar)


def test_a_component_that_comes_twice_in_a_sample_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("1.jpg", b"x"), ("1.JPG", b"y")])

    with pytest.raises(UserError, match=r"a\.tar: sample '1' has the component 'jpg' twice"):
        index.build(tar)


@pytest.mark.parametrize("keep", [1, 511, 512, 700, 1024, 1300, 2048, 2100])
def test_a_tar_cut_off_anywhere_is_refused(tmp_path: Path, keep: int) -> None:
    # members end at 1024 and 2048; what follows is the end-of-archive mark
    tar = write_tar(tmp_path / "a.tar", [("1.jpg", b"x" * 300), ("1.cls", b"0")])
    tar.write_bytes(tar.read_bytes()[:keep])

    with pytest.raises(UserError, match=r"a\.tar: this (tar is cut off|file is not a tar)"):
        index.build(tar)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 5000, b"<html>" * 1000])
def test_what_is_not_a_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)

    with pytest.raises(UserError, match=r"a\.tar: this file is (empty, )?not a tar"):
        index.build(tmp_path / "a.tar")


@pytest.mark.parametrize("compression", [gzip, bz2, lzma])
def test_a_compressed_tar_is_refused_with_the_way_out(tmp_path: Path, compression: ModuleType) -> None:
    tar = write_tar(tmp_path / "a.tar", [("1.txt", b"x")])
    tar.write_bytes(compression.compress(tar.read_bytes()))

    with pytest.raises(UserError, match=r"a\.tar: this tar is compressed(.|\n)*Decompress"):
        index.build(tmp_path / "a.tar")


def test_tars_joined_by_cat_are_refused_as_no_reader_sees_the_second(tmp_path: Path) -> None:
    first, second = (write_tar(tmp_path / name, [(f"{name}.txt", b"x")]).read_bytes() for name in ("a.tar", "b.tar"))
    (tmp_path / "a.tar").write_bytes(first + second)

    with pytest.raises(UserError, match="data after the end of the archive"):
        index.build(tmp_path / "a.tar")


def test_an_absurd_size_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("1.txt", b"abc")])
    content = bytearray(tar.read_bytes())
    content[SIZE_AT] = b"\x80" + (1 << 62).to_bytes(11, "big")
    set_checksum(content)
    tar.write_bytes(content)

    with pytest.raises(UserError, match=r"cut off inside '1\.txt'"):
        index.build(tar)


def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("1.txt", b"abc")])
    content = bytearray(tar.read_bytes())
    content[SIZE_AT] = b"\xff" * 12
    set_checksum(content)
    tar.write_bytes(content)

    with pytest.raises(UserError, match=r"a\.tar: this tar is damaged"):
        index.build(tar)


def set_checksum(content: bytearray) -> None:
    content[CHECKSUM_AT] = b" " * 8
    content[CHECKSUM_AT] = b"%06o\0 " % sum(content[:BLOCK])


# --- the index file ---


def small_index(folder: Path) -> bytes:
    tar = write_tar(folder / "a.tar", [("1.jpg", b"x" * 10), ("1.cls", b"0"), ("2.jpg", b"y"), ("2.cls", b"1")])
    return bytes(index.build(tar).buffer)


def test_a_flipped_bit_in_any_byte_of_an_index_is_noticed(tmp_path: Path) -> None:
    content = small_index(tmp_path)
    for byte in range(len(content)):
        damaged = bytearray(content)
        damaged[byte] ^= 1 << byte % 8

        with pytest.raises(UserError, match=r"a\.tar\.ddx: this index can't be used"):
            index.ShardIndex(bytes(damaged), "a.tar.ddx")


def test_every_cut_off_index_is_noticed(tmp_path: Path) -> None:
    content = small_index(tmp_path)
    path = tmp_path / "a.tar.ddx"
    for keep in range(0, len(content), 7):
        path.write_bytes(content[:keep])

        with pytest.raises(UserError, match="this index can't be used"):
            index.read(path)


@pytest.mark.parametrize("word", range(26))
def test_an_index_made_up_with_a_valid_checksum_leads_nowhere_outside_the_tar(tmp_path: Path, word: int) -> None:
    """Counts, offsets, sizes and text ends, each set to an absurd value."""
    content = bytearray(small_index(tmp_path))
    counts = 16 + 8 * word  # after the magic and the size of the tar
    columns = index._HEADER.size + 8 * (word - 5)
    at = counts if word < 5 else columns
    content[at : at + 8] = (2**64 - 100).to_bytes(8, "little")
    content[index._OWN_CHECKSUM] = index._checksum(memoryview(content))
    path = tmp_path / "a.tar.ddx"
    path.write_bytes(content)
    is_checksum_of_data = 5 + 8 <= word < 5 + 12  # any value is a checksum; reading finds that it is wrong

    if is_checksum_of_data:
        index.read(path)
    else:
        with pytest.raises(UserError, match="this index can't be used"):
            index.read(path)


def test_an_index_of_a_later_version_says_so(tmp_path: Path) -> None:
    content = bytearray(small_index(tmp_path))
    content[7] = 2
    (tmp_path / "a.tar.ddx").write_bytes(content)

    with pytest.raises(UserError, match="version 2 is unknown; this distdl reads version 1"):
        index.read(tmp_path / "a.tar.ddx")


def test_a_row_that_is_not_there_raises_index_error(tmp_path: Path) -> None:
    small = index.ShardIndex(small_index(tmp_path), "small")

    for row in (-1, 2):
        with pytest.raises(IndexError):
            small.key(row)
        with pytest.raises(IndexError):
            small.components(row)
