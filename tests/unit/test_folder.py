"""A folder of images per class, trained on as it lies: the list of files, what becomes of it, and bad files."""

import os

import cv2
import numpy as np
import pytest

from distdl.data.corpus.dataset import CorruptSample
from distdl.data.corpus.folder import FolderDataset
from distdl.errors import UserError


def image(value):
    return cv2.imencode(".png", np.full((4, 4, 3), value, np.uint8))[1].tobytes()


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Two classes, one with a folder in it; and what is no image, or hidden."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "images"
    for number, name in enumerate(["cat/b.png", "cat/a.PNG", "ant/deep/c.png", "ant/d.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image(number))
    (root / "ant" / "notes.txt").write_text("not an image")
    (root / "ant" / "._d.png").write_bytes(b"macOS")
    (root / ".git").mkdir()
    return root


def keys(dataset):
    return [dataset.key(*dataset.locate(i)) for i in range(dataset.n_samples)]


def test_files_are_sorted_by_class_and_name_and_labelled_by_class(tree):
    dataset = FolderDataset.open(tree)

    assert dataset.classes == ["ant", "cat"]
    assert keys(dataset) == ["ant/d", "ant/deep/c", "cat/a", "cat/b"]
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.sizes.tolist() == [4]
    sample = dataset.read(0, 2)
    assert sample.components == {"png": image(1), "cls": b"1"}


def test_the_list_is_kept_until_a_folder_changes(tree, monkeypatch):
    before = FolderDataset.open(tree)
    monkeypatch.setattr("distdl.data.corpus.folder._listed", lambda path: pytest.fail("it was listed again"))
    again = FolderDataset.open(tree)
    assert (keys(again), again.identity) == (keys(before), before.identity)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tree.parent / "cache"))

    (tree / "ant" / "deep" / "e.png").write_bytes(image(9))
    os.utime(tree / "ant" / "deep", ns=(0, 10**18))

    after = FolderDataset.open(tree)
    assert keys(after) == ["ant/d", "ant/deep/c", "ant/deep/e", "cat/a", "cat/b"]
    assert after.identity != before.identity


def test_a_list_that_is_damaged_is_made_anew(tree):
    FolderDataset.open(tree)
    (kept,) = (tree.parent / "cache" / "distdl" / "folders").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])

    assert FolderDataset.open(tree).n_samples == 4


def test_a_file_that_is_gone_or_has_changed_is_a_bad_sample(tree):
    dataset = FolderDataset.open(tree)
    (tree / "ant" / "d.png").unlink()
    (tree / "cat" / "b.png").write_bytes(b"")

    with pytest.raises(CorruptSample, match="No such file"):
        dataset.read(0, 0)
    with pytest.raises(CorruptSample, match=r"it has 0 bytes, \d+ when it was listed"):
        dataset.read(0, 3)


def write_images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image(0))
    return root


@pytest.mark.parametrize("split", ["val", "Validation", "test"])
def test_splits_are_not_taken_for_classes(tree, tmp_path, split):
    of_splits = write_images(tmp_path / "hym", "train/ant/1.png", "train/bee/2.png", f"{split}/ant/3.png")
    (of_splits / "annotations").mkdir()

    with pytest.raises(UserError, match=f"these are splits, not classes: .*(.|\n)*{of_splits}/train"):
        FolderDataset.open(of_splits)
    assert FolderDataset.open(of_splits / "train").classes == ["ant", "bee"]


@pytest.mark.parametrize(
    "names",
    [
        ("train/steam/1.png", "tram/2.png"),  # what drives on rails
        ("train/1.png", "test/2.png"),  # screens of two kinds
        ("train/1.png", "train/odd/2.png", "val/3.png"),
    ],
)
def test_classes_may_be_called_as_splits_are(tree, tmp_path, names):
    assert FolderDataset.open(write_images(tmp_path / "x", *names)).n_samples == len(names)


def test_a_folder_without_images_in_classes_is_refused(tree, tmp_path):
    with pytest.raises(UserError, match="no images here"):
        FolderDataset.open(tree / "cat")
    with pytest.raises(UserError, match="can't list this folder: No such file"):
        FolderDataset.open(tmp_path / "nowhere")
