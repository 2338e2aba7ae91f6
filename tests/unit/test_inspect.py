"""verify finds and names any damage; show says what a corpus holds."""

import dataclasses
import io
import os
import random
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import settings

from distdl.data.corpus import descriptor
from distdl.data.corpus.shards import RawSample, index_folder, write_shards
from distdl.data.inspect import Problem, verify
from distdl.data.show import show
from distdl.errors import UserError

CLASSES = ["ant", "bee", "fly"]


def png(seed: int, height: int = 6, width: int = 8) -> bytes:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two shards with five samples each, sizes 6x8 to 6x17."""
    samples: list[RawSample] = [{"__key__": f"s{i}", "png": png(i, width=8 + i), "cls": i % 3} for i in range(10)]
    write_shards(samples, tmp_path / "corpus", classes=CLASSES, kind="test", shard_samples=5)
    return tmp_path / "corpus"


def write_one(folder: Path, components: dict[str, bytes | int], classes: list[str] | None = CLASSES) -> Path:
    samples: list[RawSample] = [{"__key__": "good", "png": png(0), "cls": 0}, {"__key__": "odd", **components}]
    write_shards(samples, folder, classes=classes, kind="test")
    return folder


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


# --- verify ---


def test_a_sound_corpus_has_no_problem(corpus: Path) -> None:
    report = verify(corpus)

    assert report.ok and report.problems == [] and report.notes == []
    assert (report.n_shards, report.n_samples) == (2, 10)
    assert report.n_bytes == sum(tar.stat().st_size for tar in corpus.glob("*.tar"))
    assert "no problem found (10 samples in 2 shards" in str(report)


@pytest.mark.parametrize("which", ["000000.tar", "*.ddx", "dataset.json"])
def test_any_flipped_bit_is_found_and_its_file_named(corpus: Path, which: str) -> None:
    draws = random.Random(0)
    files = sorted(corpus.glob(which))
    for i in range(2 * settings().max_examples):
        path = files[i % len(files)]
        bit = draws.randrange(8 * path.stat().st_size)
        flip(path, bit)

        report = verify(corpus)

        assert any(problem.shard == path.name for problem in report.problems), (path.name, bit)
        flip(path, bit)
    assert verify(corpus).ok


def test_damaged_data_is_named_by_shard_key_and_component(corpus: Path) -> None:
    tar = corpus / "000001.tar"
    flip(tar, 8 * (tar.read_bytes().index(png(7, width=15)) + 50))

    report = verify(corpus)

    where = [(problem.shard, problem.key, problem.component) for problem in report.problems]
    assert where == [("000001.tar", "", ""), ("000001.tar", "s7", "png")]
    assert str(report.problems[1]).startswith("000001.tar: sample 's7' component 'png' its checksum does not match")
    line = '{"shard": "000001.tar", "key": "s7"}'
    again = f"distdl data index {corpus}"
    assert str(report).splitlines()[-2:] == [
        f"Copy 000001.tar again, or if that was changed on purpose: `{again}`.",
        f"To go without samples: `{again} --exclude FILE.jsonl`, with a line {line} for each.",
    ]
    (corpus / "FILE.jsonl").write_text(line)
    index_folder(corpus, say=lambda line: None, excluded_by=[corpus / "FILE.jsonl"])
    assert verify(corpus).ok


def test_what_a_cut_off_tar_has_lost_is_told_in_one_line(corpus: Path) -> None:
    tar = corpus / "000000.tar"
    size = tar.stat().st_size
    os.truncate(tar, 2048 + 600)  # in the image of the second sample

    report = verify(corpus)

    again = f"distdl data index {corpus}"
    assert list(map(str, report.problems[1:])) == [
        f"000000.tar: the file has 2648 bytes; when it was indexed it had {size}",
        "000000.tar: 4 of its 5 samples are lost, for it is cut off: 's1' and what follows",
    ]
    assert str(report).splitlines()[-2:] == [
        f"Copy 000000.tar again, or if that was changed on purpose: `{again}`.",
        f"To go without a shard: move it out of the folder, then `{again}`.",
    ]
    tar.rename(corpus.parent / tar.name)
    index_folder(corpus, say=lambda line: None)
    assert verify(corpus).ok


def test_files_that_are_missing_are_named(corpus: Path) -> None:
    (corpus / "000000.tar.ddx").unlink()
    (corpus / "000001.tar").unlink()

    problems = [str(problem) for problem in verify(corpus).problems]

    assert problems == [
        "dataset.json: it lists shards that are missing: 000001.tar",
        "000000.tar: its index 000000.tar.ddx is missing",
    ]
    again = f"Write the indexes and dataset.json again: `distdl data index {corpus}`."
    assert str(verify(corpus)).endswith(again)


def test_counts_and_md5s_that_dataset_json_has_wrong_are_found(corpus: Path) -> None:
    listed = descriptor.read(corpus / "dataset.json")
    assert listed is not None
    first, second = listed.shards
    wrong = [dataclasses.replace(first, md5="0" * 32), dataclasses.replace(second, n_samples=4)]
    descriptor.write(dataclasses.replace(listed, shards=wrong), corpus)

    problems = [str(problem) for problem in verify(corpus).problems]

    assert len(problems) == 2
    assert problems[0].startswith("000000.tar: its md5, by which wids knows it, is ")
    assert problems[1] == "000001.tar.ddx: it has 5 samples; dataset.json has 4"


def test_an_index_of_another_shard_is_found(corpus: Path) -> None:
    shutil.copy(corpus / "000000.tar.ddx", corpus / "000001.tar.ddx")

    report = verify(corpus)

    assert any(
        problem.shard == "000001.tar" and "is not what was indexed" in problem.reason for problem in report.problems
    )


@pytest.mark.parametrize(
    ("components", "component", "reason"),
    [
        ({"png": png(1)[:-30], "cls": 0}, "png", "truncated PNG"),
        ({"jpg": b"no image", "cls": 0}, "jpg", "damaged, or not a known image format"),
        ({"png": b"", "cls": 0}, "png", "no data"),
        ({"png": png(1), "cls": 3}, "cls", "is the label 3, but there are 3 classes"),
        ({"png": png(1), "cls": -1}, "cls", "is the label -1, but there are 3 classes"),
        ({"png": png(1), "cls": b"bee"}, "cls", "is not a whole number: b'bee'"),
        ({"png": png(1), "cls": b"9" * 5000}, "cls", f"is not a whole number: {b'9' * 20!r}"),
        ({"png": png(1)}, "cls", "is missing; other samples have it"),
        ({"cls": 0}, "", "has no image; other samples have one"),
    ],
)
def test_what_was_packed_wrong_is_found(
    tmp_path: Path, components: dict[str, bytes | int], component: str, reason: str
) -> None:
    folder = write_one(tmp_path / "corpus", components)

    expected = Problem(shard="000000.tar", key="odd", component=component, reason=reason, remedy="exclude")
    assert verify(folder).problems == [expected]


@pytest.mark.parametrize("label, ok", [(1000, True), ([3, 17], True), (-0.5, True), ("bee", False), ("nan", False)])
def test_without_a_list_of_classes_labels_are_numbers(tmp_path: Path, label: object, ok: bool) -> None:
    assert verify(write_one(tmp_path / "corpus", {"png": png(1), "cls": label}, classes=None)).ok == ok


def test_plain_tars_are_checked_as_far_as_can_be(corpus: Path) -> None:
    for path in [*corpus.glob("*.ddx"), corpus / "dataset.json"]:
        path.unlink()

    report = verify(corpus)

    assert report.ok and report.n_samples == 10
    assert "000000.tar has no index, so its data can't be compared with a checksum" in report.notes
    assert list(corpus.glob("*.ddx")) == []


def test_indexes_elsewhere_are_found(corpus: Path, tmp_path: Path) -> None:
    for path in [*corpus.glob("*.ddx"), corpus / "dataset.json"]:
        path.unlink()
    index_folder(corpus, tmp_path / "elsewhere", say=lambda line: None)

    report = verify(corpus, tmp_path / "elsewhere")

    assert report.ok and report.notes == []


def test_a_long_report_is_cut(tmp_path: Path) -> None:
    samples = ({"__key__": f"{i}", "cls": "x"} for i in range(150))
    write_shards(samples, tmp_path / "corpus", classes=None, kind="test")

    lines = str(verify(tmp_path / "corpus")).splitlines()

    assert lines[-3] == "... and 50 more problems"
    assert "150 problems" in lines[-2]


# --- show ---


def test_show_says_what_a_corpus_holds(corpus: Path) -> None:
    lines = show(corpus).splitlines()

    n_bytes = sum(tar.stat().st_size for tar in corpus.glob("*.tar"))
    assert lines[0] == f"{corpus}: 10 samples in 2 shards, {n_bytes / 1e6:,.1f} MB"
    assert "components  cls (10), png (10)" in lines
    assert "images      height 6/6/6, width 8/12/17 (min/median/max)" in lines
    assert "classes     3; fewest samples: bee (3), most: ant (4)" in lines
    assert [line.split() for line in lines if line.startswith("  ")] == [["ant", "4"], ["bee", "3"], ["fly", "3"]]
    assert lines[-1] == "first keys  s0, s1, s2"


def test_show_counts_classes_without_samples_and_labels_without_names(tmp_path: Path) -> None:
    samples: list[RawSample] = [{"__key__": "a", "cls": 0}, {"__key__": "b", "cls": 7}]
    write_shards(samples, tmp_path / "corpus", classes=["ant", "bee"], kind="test")

    lines = show(tmp_path / "corpus").splitlines()

    assert [line.split() for line in lines if line.startswith("  ")] == [["ant", "1"], ["7", "1"], ["bee", "0"]]


def test_show_needs_no_index_and_writes_none(corpus: Path) -> None:
    for path in [*corpus.glob("*.ddx"), corpus / "dataset.json"]:
        path.unlink()

    assert "10 samples" in show(corpus)
    assert list(corpus.glob("*.ddx")) == []


def test_the_contact_sheet_shows_the_images(corpus: Path, tmp_path: Path) -> None:
    show(corpus, sheet=tmp_path / "sheet.png")

    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    assert sheet.shape == (2 * 128, 8 * 112, 3)  # ten images, eight a row, each with a caption
    assert sheet[:112, :112].std() > 20  # noise in the first cell
    assert (sheet[128:, 2 * 112 :] == 255).all()  # nothing after the tenth


def test_a_corpus_without_images_has_no_sheet(tmp_path: Path) -> None:
    write_shards([{"__key__": "a", "cls": 0}], tmp_path / "corpus", classes=None, kind="test")

    with pytest.raises(UserError, match="no image that can be shown"):
        show(tmp_path / "corpus", sheet=tmp_path / "sheet.png")


# --- sounds ---


def write_sounds(folder: Path, n: int, extra: dict[str, bytes] | None = None) -> Path:
    """Sound i lasts i + 1 quarters of a second, at 8 kHz."""
    soundfile = pytest.importorskip("soundfile")
    samples: list[RawSample] = []
    for i in range(n):
        file = io.BytesIO()
        soundfile.write(file, np.zeros(2000 * (i + 1), np.int16), 8000, format="FLAC")
        samples.append({"__key__": f"s{i}", "flac": file.getvalue(), "txt": "nothing is said"})
    write_shards([*samples, *([{"__key__": "odd", **extra}] if extra else [])], folder, classes=None, kind="test")
    return folder


def test_sounds_are_decoded(tmp_path: Path) -> None:
    sound = write_sounds(tmp_path / "sound", 3)
    damaged = write_sounds(tmp_path / "damaged", 3, {"flac": b"fLaC", "txt": b""})
    silent = write_sounds(tmp_path / "silent", 3, {"txt": b"where is it?"})

    assert verify(sound).problems == []
    (problem,) = verify(damaged).problems
    assert (problem.key, problem.component) == ("odd", "flac") and "not a sound that can be decoded" in problem.reason
    assert [each.reason for each in verify(silent).problems] == ["has no sound; other samples have one"]


def test_show_counts_hours_and_says_where_it_did_not_look_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_sounds(tmp_path / "sound", 8, {"flac": b"fLaC"})

    text = show(corpus)

    assert "sounds      0.00 hours; 0.25/1.25/2.00 s (min/median/max); 8000 Hz" in text
    assert "unreadable  1 sounds" in text and "images" not in text
    (corpus / "dataset.json").unlink()  # which has the lengths of all
    monkeypatch.setattr("distdl.data.some_samples.MOST", 2)
    assert "about 0.0 hours, from 1 sounds" in show(corpus)
