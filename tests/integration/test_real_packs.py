"""Real corpora, packed whole."""

from pathlib import Path

import numpy as np
import pytest

from distdl.data.corpus.dataset import Dataset, Sample
from distdl.data.inspect import verify
from distdl.data.pack import pack

pytestmark = pytest.mark.needs("data")


def silent(line: str) -> None:
    pass


def read_all(folder: Path) -> list[Sample]:
    with Dataset.open(folder) as dataset:
        return [dataset.read(*dataset.locate(number)) for number in range(dataset.n_samples)]


def test_mnist_packs_whole(real_data: Path, tmp_path: Path) -> None:
    pack("idx", real_data / "mnist", tmp_path / "mnist", say=silent)

    with Dataset.open(tmp_path / "mnist" / "train") as train, Dataset.open(tmp_path / "mnist" / "test") as test:
        assert (train.n_samples, test.n_samples) == (60000, 10000)
        assert [int(train.read(0, row).components["cls"]) for row in range(5)] == [5, 0, 4, 1, 9]


def test_photographs_are_copied_byte_by_byte(real_data: Path, tmp_path: Path) -> None:
    pack("imagefolder", real_data / "hymenoptera", tmp_path / "out", say=silent)

    for split in ("train", "val"):
        packed = read_all(tmp_path / "out" / split)
        files = list((real_data / "hymenoptera" / split).glob("*/*.jpg"))
        assert sorted(sample.components["jpg"] for sample in packed) == sorted(file.read_bytes() for file in files)
        assert verify(tmp_path / "out" / split).ok


def test_real_tiny_imagenet(real_data: Path, tmp_path: Path) -> None:
    pack("tiny-imagenet", real_data / "tiny-imagenet-10", tmp_path / "out", say=silent)

    for split, n_samples in (("train", 5000), ("val", 500)):
        report = verify(tmp_path / "out" / split)
        assert report.ok and report.n_samples == n_samples
    labels = [int(each["cls"]) for each in (sample.components for sample in read_all(tmp_path / "out/val"))]
    assert np.bincount(labels).tolist() == [50] * 10
