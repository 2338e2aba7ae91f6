"""Packing a corpus: each kind gives the right images, labels and splits, and bad sources are answered, not packed."""

import gzip
import itertools
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset

from distdl.data.corpus.dataset import Dataset, Sample
from distdl.data.inspect import verify
from distdl.data.pack import pack
from distdl.data.pictures.image import decode_image
from distdl.errors import UserError


def silent(line: str) -> None:
    pass


def read_all(folder: Path) -> list[Sample]:
    with Dataset.open(folder) as dataset:
        return [dataset.read(*dataset.locate(i)) for i in range(dataset.n_samples)]


def label_of(sample: Sample) -> int:
    return int(sample.components["cls"])


# --- digits ---


def test_digits_are_split_by_class_and_hold_the_right_pixels(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    pack("digits", None, tmp_path / "digits", say=silent)

    train, test = read_all(tmp_path / "digits" / "train"), read_all(tmp_path / "digits" / "test")
    bunch = load_digits()
    assert sorted(sample.key for sample in train + test) == [f"{i:04d}" for i in range(1797)]
    for sample in test:
        row = int(sample.key)
        image = decode_image(sample.components["png"], "png")
        assert label_of(sample) == bunch.target[row]
        assert (image[:, :, 0] == np.rint(bunch.images[row] * 255 / 16)).all()
    per_class = Counter(map(int, bunch.target))
    assert Counter(map(label_of, test)) == {label: n // 5 for label, n in per_class.items()}


def test_digits_without_scikit_learn_say_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)

    with pytest.raises(UserError, match=r"scikit-learn(.|\n)*pip install"):
        pack("digits", None, tmp_path / "digits", say=silent)

    assert list(tmp_path.iterdir()) == []


# --- idx ---


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist_like(tmp_path: Path) -> Path:
    """Four idx files: the training pair compressed, the test pair not, 12 and 5 images of 6x7 pixels."""
    folder = tmp_path / "idx"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for prefix, n, compressed in (("train", 12, True), ("t10k", 5, False)):
        for name, array in (
            ("images-idx3-ubyte", draws.integers(0, 256, (n, 6, 7), dtype=np.uint8)),
            ("labels-idx1-ubyte", np.arange(n, dtype=np.uint8) % 3),
        ):
            content = idx(array)
            path = folder / f"{prefix}-{name}{'.gz' if compressed else ''}"
            path.write_bytes(gzip.compress(content) if compressed else content)
    return folder


def test_idx_files_become_png_and_label(mnist_like: Path, tmp_path: Path) -> None:
    pack("idx", mnist_like, tmp_path / "out", say=silent)

    train, test = read_all(tmp_path / "out" / "train"), read_all(tmp_path / "out" / "test")
    assert [label_of(sample) for sample in train] == [i % 3 for i in range(12)]
    assert [sample.key for sample in test] == list("01234")
    pixels = b"".join(decode_image(sample.components["png"], "png").tobytes() for sample in test)
    assert pixels == (mnist_like / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert Dataset.open(tmp_path / "out" / "train").classes == ["0", "1", "2"]


def test_classes_can_be_named(mnist_like: Path, tmp_path: Path) -> None:
    pack("idx", mnist_like, tmp_path / "out", say=silent, classes="shirt,shoe,bag")

    assert Dataset.open(tmp_path / "out" / "test").classes == ["shirt", "shoe", "bag"]
    with pytest.raises(UserError, match="2 names for 3 classes"):
        pack("idx", mnist_like, tmp_path / "other", say=silent, classes="shirt,shoe")


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (IMAGES, None, r"no t10k-images-idx3-ubyte\.gz \(nor t10k-images-idx3-ubyte\) here; there is: t10k-labels"),
        (IMAGES, b"<html>not found</html>", r"not an idx file(.|\n)*web page"),
        (IMAGES, b"", "it begins with nothing"),
        (IMAGES, idx(np.zeros((5, 6, 7)))[:-1], "promises 5 x 6 x 7 values, but 209 follow"),
        (IMAGES, idx(np.zeros((5, 6, 7))) + b"x", "promises 5 x 6 x 7 values, but 211 follow"),
        (IMAGES, b"\0\0\x08\x03" + b"\xff" * 12, "promises 4294967295 x 4294967295 x 4294967295 values, but 0 follow"),
        (IMAGES, idx(np.zeros((5, 42))), "not an idx file of bytes in 3 dimensions"),
        (LABELS, idx(np.zeros(4)), "5 images in t10k-images-idx3-ubyte, but 4 labels in t10k-labels-idx1-ubyte"),
        (f"{LABELS}.gz", gzip.compress(idx(np.zeros(5)), mtime=0)[:-9], "this gzip file is cut off or damaged"),
        (f"{LABELS}.gz", b"plain", "this gzip file is cut off or damaged"),
    ],
)
def test_a_bad_idx_source_is_answered_and_nothing_written(
    mnist_like: Path, tmp_path: Path, name: str, content: bytes | None, expected: str
) -> None:
    (mnist_like / name.removesuffix(".gz")).unlink()
    if content is not None:
        (mnist_like / name).write_bytes(content)

    with pytest.raises(UserError, match=expected):
        pack("idx", mnist_like, tmp_path / "out", say=silent)

    assert not (tmp_path / "out").exists()


# --- imagefolder ---


def write_images(folder: Path, names: list[str]) -> Path:
    """An image of 4x5 pixels for each name, each of them different."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.full((4, 5, 3), 10 * i % 256, np.uint8)
        path.write_bytes(cv2.imencode(path.suffix.lower(), image)[1].tobytes())
    return folder


def test_splits_are_packed_as_found_with_one_list_of_classes(tmp_path: Path) -> None:
    src = write_images(tmp_path / "src", ["train/dog/1.jpg", "train/cat/1.PNG", "val/cat/2.bmp", "val/bee/3.jpeg"])
    said: list[str] = []

    pack("imagefolder", src, tmp_path / "out", say=said.append)

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train", "val"]
    for split in ("train", "val"):
        assert Dataset.open(tmp_path / "out" / split).classes == ["bee", "cat", "dog"]
    train = {sample.key: sample.components for sample in read_all(tmp_path / "out" / "train")}
    assert train == {
        "cat/1": {"cls": b"1", "png": (src / "train/cat/1.PNG").read_bytes()},
        "dog/1": {"cls": b"2", "jpg": (src / "train/dog/1.jpg").read_bytes()},
    }
    assert {sample.key: label_of(sample) for sample in read_all(tmp_path / "out" / "val")} == {"cat/2": 1, "bee/3": 0}
    assert "train: has no images of 1 of the classes: bee" in said
    assert "val: has no images of 1 of the classes: dog" in said
    assert said[-1].startswith("packed 4 samples, 3 classes, ")


def test_the_order_mixes_the_classes_and_is_always_the_same(tmp_path: Path) -> None:
    src = write_images(tmp_path / "src", [f"{name}/{i}.png" for name in ("ant", "bee") for i in range(30)])

    for out in ("one", "two"):
        pack("imagefolder", src, tmp_path / out, say=silent, shard_samples=25)

    one, two = ({p.name: p.read_bytes() for p in (tmp_path / out / "train").iterdir()} for out in ("one", "two"))
    assert one == two
    labels = [label_of(sample) for sample in read_all(tmp_path / "one" / "train")]
    changes = sum(a != b for a, b in itertools.pairwise(labels))
    assert Counter(labels) == {0: 30, 1: 30}
    assert 20 <= changes <= 40  # 29.5 +- 3.9 in a random order; sorted by class it would be 1


def test_a_holdout_takes_its_share_of_every_class(tmp_path: Path) -> None:
    src = write_images(tmp_path / "src", [f"{name}/{i}.png" for name in ("ant", "bee") for i in range(10)])

    pack("imagefolder", src, tmp_path / "out", say=silent, holdout=0.2)

    train, test = read_all(tmp_path / "out" / "train"), read_all(tmp_path / "out" / "test")
    assert Counter(map(label_of, test)) == {0: 2, 1: 2}
    assert len({sample.key for sample in train + test}) == 20


def test_files_of_one_group_are_held_out_together(tmp_path: Path) -> None:
    """Five tracks of four frames a class: one track of each is a fifth."""
    frames = [f"{name}/{track}_{frame}.png" for name in ("stop", "go") for track in range(5) for frame in range(4)]
    src = write_images(tmp_path / "src", frames)

    pack("imagefolder", src, tmp_path / "out", say=silent, holdout=0.2, group=r"^(\d+)_")

    train, test = ({s.key.rpartition("_")[0] for s in read_all(tmp_path / "out" / each)} for each in ("train", "test"))
    assert (len(train), len(test), train & test) == (8, 2, set())


@pytest.mark.parametrize(
    ("group", "holdout", "says"), [("(", 0.2, "no regular expression"), ("a", 0.0, "nothing is held")]
)
def test_a_group_that_can_not_be_is_refused(tmp_path: Path, group: str, holdout: float, says: str) -> None:
    with pytest.raises(UserError, match=says):
        pack("imagefolder", tmp_path, tmp_path / "out", say=silent, holdout=holdout, group=group)


def test_a_holdout_of_a_corpus_with_splits_is_refused(tmp_path: Path) -> None:
    src = write_images(tmp_path / "src", ["train/a/1.png", "test/a/2.png"])

    with pytest.raises(UserError, match="the source has its own splits: train, test"):
        pack("imagefolder", src, tmp_path / "out", say=silent, holdout=0.2)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    src = write_images(tmp_path / "src", ["bus/1.png", "train/1.png", "tram/1.png"])

    pack("imagefolder", src, tmp_path / "out", say=silent)

    assert Dataset.open(tmp_path / "out" / "train").classes == ["bus", "train", "tram"]


def test_names_with_dots_and_equal_stems_stay_apart_and_folders_nest(tmp_path: Path) -> None:
    names = ["a/v1.2.png", "a/v1_2.png", "a/v1.3.png", "a/x.png", "a/x.jpg", "a/deep/er/x.png"]
    src = write_images(tmp_path / "src", names)

    pack("imagefolder", src, tmp_path / "out", say=silent)

    packed = read_all(tmp_path / "out" / "train")
    assert len({sample.key for sample in packed}) == 6
    assert "a/deep/er/x" in {sample.key for sample in packed}
    contents = sorted(sample.components.get("png", sample.components.get("jpg", b"")) for sample in packed)
    assert contents == sorted((src / name).read_bytes() for name in names)


def test_other_files_are_left_out_and_counted_by_their_kind(tmp_path: Path) -> None:
    src = write_images(tmp_path / "src", ["a/1.png"])
    (src / "README.txt").touch()
    (src / "a" / "Thumbs.db").touch()
    for name in ("1.gif", "2.GIF", "b/3.tif"):
        (src / "a" / name).parent.mkdir(exist_ok=True)
        (src / "a" / name).touch()
    (src / "a" / ".hidden.png").touch()
    (src / ".git").mkdir()
    said: list[str] = []

    pack("imagefolder", src, tmp_path / "out", say=said.append)

    assert (
        "train: left out 6 files that can't be packed: 2 .gif (such as a/1.gif), 1 .db (a/Thumbs.db), "
        "1 .png (a/.hidden.png), 1 .tif (a/b/3.tif), 1 .txt (README.txt)" in said
    )
    assert Dataset.open(tmp_path / "out" / "train").classes == ["a"]


def test_a_source_with_images_of_other_kinds_alone_says_which(tmp_path: Path) -> None:
    (tmp_path / "src" / "a").mkdir(parents=True)
    (tmp_path / "src" / "a" / "1.heic").touch()

    with pytest.raises(UserError, match=r"no images here .*; 1 file that can't be packed: 1 \.heic \(a/1\.heic\)"):
        pack("imagefolder", tmp_path / "src", tmp_path / "out", say=silent)


@pytest.mark.parametrize("src", ["nowhere", "empty", None])
def test_a_source_without_images_says_what_is_expected(tmp_path: Path, src: str | None) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(UserError, match=r"(this is not a folder|no images here)(.|\n)*Expected: "):
        pack("imagefolder", tmp_path / src if src else None, tmp_path / "out", say=silent)


# --- all kinds ---


def test_what_is_packed_verifies_and_webdataset_reads_it(mnist_like: Path, tmp_path: Path) -> None:
    pack("idx", mnist_like, tmp_path / "out", say=silent)

    assert verify(tmp_path / "out" / "train").ok
    url = str(tmp_path / "out" / "train" / "000000.tar")
    rows = list(webdataset.WebDataset(url, shardshuffle=False).decode())
    assert [row["cls"] for row in rows] == [i % 3 for i in range(12)]


def test_an_existing_destination_is_refused_before_the_source_is_read(tmp_path: Path) -> None:
    (tmp_path / "out" / "train").mkdir(parents=True)

    with pytest.raises(UserError, match="out: this exists already"):
        pack("idx", tmp_path / "nowhere", tmp_path / "out", say=silent)


def test_unknown_kinds_and_options_are_answered_with_suggestions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean imagefolder"):
        pack("imagefolders", tmp_path, tmp_path / "out", say=silent)
    with pytest.raises(UserError, match=r"takes no argument 'holdouts' - did you mean holdout\?"):
        pack("imagefolder", tmp_path, tmp_path / "out", say=silent, holdouts=0.1)


# --- table ---


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A folder of four images, for tables to be put beside."""
    return write_images(tmp_path / "src", ["x/a.png", "x/b.png", "x/c.jpg", "d.png"])


def packed_labels(folder: Path) -> dict[str, bytes]:
    return {sample.key: sample.components["cls"] for sample in read_all(folder)}


@pytest.mark.parametrize(
    "table, expected",
    [
        ("path,label\nx/a.png,3\nd.png,0\n", {"x/a": b"3", "d": b"0"}),
        ("path,labels\nx/a.png,3 17\nd.png,\n", {"x/a": b"3 17", "d": b""}),
        ('file,tags\nx/a.png,"[3, 17]"\n\n./d.png,2\n', {"x/a": b"[3, 17]", "d": b"2"}),
        ("path,x,y\r\nx/a.png,0.5,-1e3\r\nx/c.jpg,2,3\r\n", {"x/a": b"0.5 -1e3", "x/c": b"2 3"}),
    ],
)
def test_a_table_gives_numbers_as_labels(tables: Path, tmp_path: Path, table: str, expected: dict[str, bytes]) -> None:
    (tables / "all.csv").write_text(table, newline="")

    pack("table", tables / "all.csv", tmp_path / "out", say=silent)

    assert packed_labels(tmp_path / "out" / "train") == expected
    assert Dataset.open(tmp_path / "out" / "train").classes is None
    assert verify(tmp_path / "out" / "train").ok


def test_class_names_become_numbers_over_all_splits(tables: Path, tmp_path: Path) -> None:
    (tables / "train.csv").write_text("path,breed\nx/a.png,cocker spaniel\nx/b.png,beagle\n")
    (tables / "val.csv").write_text("path,breed\nd.png,whippet\n")

    pack("table", tables, tmp_path / "out", say=silent)

    assert packed_labels(tmp_path / "out" / "train") == {"x/a": b"1", "x/b": b"0"}
    assert packed_labels(tmp_path / "out" / "val") == {"d": b"2"}
    assert Dataset.open(tmp_path / "out" / "val").classes == ["beagle", "cocker spaniel", "whippet"]


def test_a_share_of_a_tables_rows_is_held_out(tables: Path, tmp_path: Path) -> None:
    (tables / "all.csv").write_text("path,label\nx/a.png,1\nx/b.png,2\nx/c.jpg,3\nd.png,4\n")

    pack("table", tables / "all.csv", tmp_path / "out", say=silent, holdout=0.25)

    train, test = packed_labels(tmp_path / "out" / "train"), packed_labels(tmp_path / "out" / "test")
    assert (len(train), len(test)) == (3, 1)
    assert sorted({**train, **test}.values()) == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize(
    "table, expected",
    [
        ("x/a.png,1\nd.png,2\n", "its first line is an image, not a head"),
        ("path,label\nx/z.png,1\n", r"all.csv:2: there is no image 'x/z.png'"),
        ("path,label\nd.png\n", r"all.csv:2: 1 columns; the head has 2"),
        ("path,x,y\nd.png,0.5,left\n", r"all.csv:2: '0.5 left' is not made of numbers"),
        ("path,label\nd.png,cat\nx/a.png,\n", "class names and empty labels"),
        ("path,label\n", "there are no images in it"),
        ("", "there are no images in it"),
    ],
)
def test_a_bad_table_is_answered_with_its_line(tables: Path, tmp_path: Path, table: str, expected: str) -> None:
    (tables / "all.csv").write_text(table)

    with pytest.raises(UserError, match=expected):
        pack("table", tables / "all.csv", tmp_path / "out", say=silent)

    assert not (tmp_path / "out").exists()


def test_a_folder_without_tables_is_answered(tables: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no table(.|\n)*train.csv"):
        pack("table", tables, tmp_path / "out", say=silent)
