"""CIFAR from its official files: pickled and binary batches, archives; and a pickle that wants more is refused."""

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distdl.data.corpus.dataset import Dataset
from distdl.data.inspect import verify
from distdl.data.pack import pack
from distdl.data.pictures.image import decode_image
from distdl.errors import UserError

N = 4  # images in a batch
NAMES_10 = [f"thing{i}" for i in range(10)]
FINE, COARSE = [f"fine{i}" for i in range(100)], [f"coarse{i}" for i in range(20)]


def silent(line: str) -> None:
    pass


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (N, 3072), dtype=np.uint8)


def labels(seed: int, n_classes: int) -> list[int]:
    return np.random.default_rng(1000 + seed).integers(0, n_classes, N).tolist()


def pickled(value: dict[str, Any]) -> bytes:
    """As Python 2 did: protocol 2 with keys and texts of bytes."""

    def as_bytes(item: Any) -> Any:
        if isinstance(item, str):
            return item.encode()
        return [as_bytes(each) for each in item] if isinstance(item, list) else item

    return pickle.dumps({key.encode(): as_bytes(item) for key, item in value.items()}, protocol=2)


def cifar10(python: bool) -> dict[str, bytes]:
    batches = {f"data_batch_{i}": i for i in range(1, 6)} | {"test_batch": 6}
    if python:
        files = {name: pickled({"data": images(i), "labels": labels(i, 10)}) for name, i in batches.items()}
        return files | {"batches.meta": pickled({"label_names": NAMES_10, "num_vis": 3072})}
    return {
        f"{name}.bin": b"".join(
            bytes([label]) + row.tobytes() for label, row in zip(labels(i, 10), images(i), strict=True)
        )
        for name, i in batches.items()
    } | {"batches.meta.txt": "\n".join(NAMES_10).encode() + b"\n\n"}


def cifar100(python: bool) -> dict[str, bytes]:
    splits = {"train": 1, "test": 2}
    if python:
        files = {
            name: pickled({"data": images(i), "fine_labels": labels(i, 100), "coarse_labels": labels(i, 20)})
            for name, i in splits.items()
        }
        return files | {"meta": pickled({"fine_label_names": FINE, "coarse_label_names": COARSE})}
    return {
        f"{name}.bin": b"".join(
            bytes([coarse, fine]) + row.tobytes()
            for coarse, fine, row in zip(labels(i, 20), labels(i, 100), images(i), strict=True)
        )
        for name, i in splits.items()
    } | {
        "fine_label_names.txt": "\n".join(FINE).encode(),
        "coarse_label_names.txt": "\n".join(COARSE).encode(),
    }


CORPORA = {
    "cifar-10-batches-py": cifar10(python=True),
    "cifar-10-batches-bin": cifar10(python=False),
    "cifar-100-python": cifar100(python=True),
    "cifar-100-binary": cifar100(python=False),
}
ARCHIVES = {
    "cifar-10-batches-py": "cifar-10-python.tar.gz",
    "cifar-10-batches-bin": "cifar-10-binary.tar.gz",
    "cifar-100-python": "cifar-100-python.tar.gz",
    "cifar-100-binary": "cifar-100-binary.tar.gz",
}


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def content_of(folder: Path) -> list[tuple[bytes, int]]:
    """(pixels, label) of each sample, in order."""
    with Dataset.open(folder) as dataset:
        found = [dataset.read(*dataset.locate(i)).components for i in range(dataset.n_samples)]
    return [(decode_image(each["png"], "png").tobytes(), int(each["cls"])) for each in found]


def expected(seeds: list[int], n_classes: int) -> list[tuple[bytes, int]]:
    return [
        (row.reshape(3, 32, 32).transpose(1, 2, 0).tobytes(), label)
        for seed in seeds
        for row, label in zip(images(seed), labels(seed, n_classes), strict=True)
    ]


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.parametrize("how", ["the folder", "its parent", "the archive", "the archive's folder"])
def test_every_download_gives_pixels_labels_and_names(tmp_path: Path, name: str, how: str) -> None:
    if how.startswith("the archive"):
        src = write_archive(tmp_path / "src" / ARCHIVES[name], name, CORPORA[name])
    else:
        src = write_folder(tmp_path / "src" / name, CORPORA[name])
    src = src.parent if how in ("its parent", "the archive's folder") else src

    pack("cifar", src, tmp_path / "out", say=silent)

    is_10 = name.startswith("cifar-10-")
    n_classes = 10 if is_10 else 100
    assert content_of(tmp_path / "out/train") == expected([1, 2, 3, 4, 5] if is_10 else [1], n_classes)
    assert content_of(tmp_path / "out/test") == expected([6] if is_10 else [2], n_classes)
    assert Dataset.open(tmp_path / "out/train").classes == (NAMES_10 if is_10 else FINE)
    assert verify(tmp_path / "out/train").ok


@pytest.mark.parametrize("name", ["cifar-100-python", "cifar-100-binary"])
def test_the_twenty_coarse_classes_of_cifar_100(tmp_path: Path, name: str) -> None:
    src = write_folder(tmp_path / name, CORPORA[name])

    pack("cifar", src, tmp_path / "out", say=silent, labels="coarse")

    assert content_of(tmp_path / "out/train") == expected([1], 20)
    assert Dataset.open(tmp_path / "out/train").classes == COARSE


# --- pickles ---


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    evil = pickle.dumps({"data": Evil(f"touch {tmp_path / 'owned'}")}, protocol=2)
    src = write_folder(tmp_path / "src", CORPORA["cifar-10-batches-py"] | {"data_batch_3": evil})

    with pytest.raises(UserError, match=r"data_batch_3: this is no batch of CIFAR: it asks for (posix|nt)\.system"):
        pack("cifar", src, tmp_path / "out", say=silent)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "this is no batch of CIFAR"),
        (CORPORA["cifar-10-batches-py"]["data_batch_1"][:-100], "this is no batch of CIFAR"),
        (pickle.dumps([1, 2]), "it is not a dictionary"),
        (pickled({"data": images(1)}), "it has no label for each image under 'labels'"),
        (pickled({"data": images(1), "labels": [1, 2]}), "it has no label for each image under 'labels'"),
        (pickled({"data": images(1)[:, :100], "labels": [1] * N}), "it has no images of 32x32 pixels"),
        (pickled({"data": images(1).astype(np.float32), "labels": [1] * N}), "an array of b?'f4'"),
        (pickled({"data": np.array([None]), "labels": [1]}), "an array of b?'O8'"),
        (pickled({"data": images(1), "labels": [10] * N}), "a label beyond the 10 classes in train"),
    ],
)
def test_a_batch_that_is_none_is_answered(tmp_path: Path, content: bytes, reason: str) -> None:
    src = write_folder(tmp_path / "src", CORPORA["cifar-10-batches-py"] | {"data_batch_1": content})

    with pytest.raises(UserError, match=reason):
        pack("cifar", src, tmp_path / "out", say=silent)


# --- what is found where ---


def test_batches_that_are_cut_off_are_answered(tmp_path: Path) -> None:
    files = CORPORA["cifar-10-batches-bin"]
    src = write_folder(tmp_path / "src", files | {"test_batch.bin": files["test_batch.bin"][:-1]})

    with pytest.raises(UserError, match=r"test_batch\.bin: 12291 bytes are no whole number of images"):
        pack("cifar", src, tmp_path / "out", say=silent)


def test_an_archive_that_is_cut_off_is_answered(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "cifar-10-python.tar.gz", "x", CORPORA["cifar-10-batches-py"])
    archive.write_bytes(archive.read_bytes()[:-5000])

    with pytest.raises(UserError, match="this archive is cut off or damaged"):
        pack("cifar", archive, tmp_path / "out", say=silent)


def test_two_downloads_in_one_folder_are_a_question(tmp_path: Path) -> None:
    for name in ("cifar-10-batches-py", "cifar-100-python"):
        write_folder(tmp_path / "src" / name, CORPORA[name])

    with pytest.raises(UserError, match=r"2 of CIFAR's layouts are here(.|\n)*Give one of"):
        pack("cifar", tmp_path / "src", tmp_path / "out", say=silent)


def test_a_folder_without_batches_is_answered(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()

    with pytest.raises(UserError, match="there are no batches of CIFAR here"):
        pack("cifar", tmp_path / "src", tmp_path / "out", say=silent)
