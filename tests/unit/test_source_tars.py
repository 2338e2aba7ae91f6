"""Tars of a source are read by their headers, also inside of another tar: every offset is that of the member's data."""

import io
import tarfile
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from distdl.data.corpus import tar as tars
from distdl.data.packing.source_tars import SourceTar
from distdl.errors import UserError

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
names = st.builds(
    lambda folder, stem, end: folder + stem + end,
    st.sampled_from(["", "d/", "long/" * 25]),  # 125 bytes: more than fit into a header of its own
    st.text("abé ", min_size=1, max_size=5),
    st.sampled_from([".jpg", ".PNG", ".txt"]),
)
files = st.lists(st.tuples(names, st.binary(max_size=2000)), max_size=5, unique_by=lambda file: file[0])


def tar_of(members: list[tuple[str, bytes]], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@given(inner=st.lists(files, max_size=3), inner_format=st.sampled_from(FORMATS), outer_format=st.sampled_from(FORMATS))
def test_every_member_of_every_tar_inside_a_tar_is_found_where_it_is(
    tmp_path_factory: pytest.TempPathFactory,
    inner: list[list[tuple[str, bytes]]],
    inner_format: int,
    outer_format: int,
) -> None:
    path = tmp_path_factory.mktemp("tars") / "outer.tar"
    path.write_bytes(tar_of([(f"{i}.tar", tar_of(each, inner_format)) for i, each in enumerate(inner)], outer_format))
    content = path.read_bytes()

    outer = list(SourceTar(path).tars())

    assert [member.name for member in outer] == [f"{i}.tar" for i in range(len(inner))]
    for member, expected in zip(outer, inner, strict=True):
        found = [(each.name, content[each.offset : each.offset + each.size]) for each in tars.headers(path, member)]
        assert found == expected
        source = SourceTar(path, member)
        images = [name for name, _ in expected if not name.endswith(".txt")]
        assert [each.name for each in source.images()] == images
        assert len(source.others) == len(expected) - len(images)


def test_headers_alone_tell_what_reading_everything_tells(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of([("a.jpg", b"x" * 9000), ("long/" * 60 + "b.jpg", b""), ("c.jpg", b"y")]))

    skipped, read = list(tars.headers(path)), list(tars.members(path, xxhash.xxh3_128()))

    assert [(m.name, m.offset, m.size, m.regular) for m in skipped] == [
        (m.name, m.offset, m.size, m.regular) for m in read
    ]


@pytest.mark.parametrize("n_bytes", range(1, 6000, 497))
def test_an_inner_tar_that_is_cut_off_anywhere_is_noticed(tmp_path: Path, n_bytes: int) -> None:
    inner = tar_of([("a.jpg", b"x" * 1500), ("b.jpg", b"y" * 3000)])
    path = tmp_path / "outer.tar"
    path.write_bytes(tar_of([("n01.tar", inner[:n_bytes])]))
    (member,) = tars.headers(path)

    with pytest.raises(UserError, match=r"outer\.tar/n01\.tar: this (tar is cut off|file is not a tar)"):
        list(tars.headers(path, member))


def test_a_compressed_tar_says_how_to_unpack_it(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(600))

    with pytest.raises(UserError, match=r"compressed \(gzip\)(.|\n)*gunzip"):
        list(SourceTar(tmp_path / "a.tar").images())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_counted_and_not_handed_on(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(info)
    source = SourceTar(tmp_path / "a.tar")

    assert list(source.images()) == []
    assert len(source.others) == 1
