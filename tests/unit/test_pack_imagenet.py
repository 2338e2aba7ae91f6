"""ImageNet from its official files: every layout gives the same shards, and what a tar may hold leads nowhere."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from distdl.data.corpus.dataset import Dataset
from distdl.data.inspect import verify
from distdl.data.pack import pack
from distdl.errors import UserError

WNIDS = ["n01440764", "n01443537", "n02085620"]
VAL = {1: "n02085620", 2: "n01440764", 3: "n01443537", 4: "n01440764", 5: "n02085620"}  # image -> class


def silent(line: str) -> None:
    pass


def jpeg(seed: int) -> bytes:
    image = np.random.default_rng(seed).integers(0, 256, (6 + seed % 3, 8, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


TRAIN = {wnid: {f"{wnid}_{i}.JPEG": jpeg(10 * c + i) for i in range(2 + c)} for c, wnid in enumerate(WNIDS)}
VAL_IMAGES = {f"ILSVRC2012_val_{number:08d}.JPEG": jpeg(100 + number) for number in VAL}


def tar(members: Mapping[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
    return buffer.getvalue()


def link(name: str, to: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, to
    return info


def train_tar(**more: bytes) -> bytes:
    return tar(
        {f"{wnid}.tar": tar(images) for wnid, images in TRAIN.items()} | {f"{n}.tar": c for n, c in more.items()}
    )


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


# --- what ImageNet looks like on disks ---


def train_as_tar(src: Path) -> None:
    write(src / "ILSVRC2012_img_train.tar", train_tar())


def train_as_class_tars(src: Path) -> None:
    for wnid, images in TRAIN.items():
        write(src / "train" / f"{wnid}.tar", tar(images))


def train_as_folders(src: Path) -> None:
    for wnid, images in TRAIN.items():
        for name, content in images.items():
            write(src / "train" / wnid / name, content)


def val_as_folders(src: Path) -> None:
    for number, (name, content) in enumerate(VAL_IMAGES.items(), 1):
        write(src / "val" / VAL[number] / name, content)


def val_flat(src: Path) -> None:
    for name, content in VAL_IMAGES.items():
        write(src / "val" / name, content)


def val_as_tar(src: Path) -> None:
    write(src / "ILSVRC2012_img_val.tar", tar(VAL_IMAGES))


def solution_csv(src: Path) -> None:
    lines = [f"ILSVRC2012_val_{number:08d},{VAL[number]} 1 2 3 4 {VAL[number]} 5 6 7 8" for number in (3, 1, 5, 4, 2)]
    write(src / "LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *lines, ""]))


def wnid_per_line(src: Path) -> None:
    write(src / "imagenet_2012_validation_synset_labels.txt", "".join(f"{wnid}\n" for wnid in VAL.values()))


# The devkit's numbers are in an order of their own, and its table has more than the classes.
NUMBERS = {"n02085620": 1, "n01440764": 2, "n01443537": 3, "n00001740": 1001}


def devkit_files() -> dict[str, bytes]:
    savemat = pytest.importorskip("scipy.io").savemat
    synsets = np.array(
        [(number, wnid, "words") for wnid, number in NUMBERS.items()],
        dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("words", object)],
    )
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets})
    truth = "".join(f"{NUMBERS[wnid]}\n" for wnid in VAL.values()).encode()
    return {"meta.mat": buffer.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth}


def devkit_folder(src: Path) -> None:
    for name, content in devkit_files().items():
        write(src / "ILSVRC2012_devkit_t12" / "data" / name, content)


def devkit_archive(src: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in devkit_files().items():
            info = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    write(src / "ILSVRC2012_devkit_t12.tar.gz", buffer.getvalue())


LAYOUTS = {
    "the three files that are downloaded": (train_as_tar, val_as_tar, devkit_archive),
    "folders": (train_as_folders, val_as_folders),
    "flat val, devkit unpacked": (train_as_folders, val_flat, devkit_folder),
    "a tar per class, val in a tar, Kaggle's list": (train_as_class_tars, val_as_tar, solution_csv),
    "flat val, a wnid per line": (train_as_tar, val_flat, wnid_per_line),
}


def shards(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_shards(tmp_path: Path, layout: str) -> None:
    train_as_folders(tmp_path / "plain")
    val_as_folders(tmp_path / "plain")
    for part in LAYOUTS[layout]:
        part(tmp_path / "src")

    pack("imagenet", tmp_path / "plain", tmp_path / "expected", say=silent)
    pack("imagenet", tmp_path / "src", tmp_path / "out", say=silent)

    assert shards(tmp_path / "out") == shards(tmp_path / "expected")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "out", "plain", "src"]


def test_the_shards_hold_the_images_under_the_usual_numbers(tmp_path: Path) -> None:
    for part in LAYOUTS["the three files that are downloaded"]:
        part(tmp_path / "src")
    said: list[str] = []

    pack("imagenet", tmp_path / "src", tmp_path / "out", say=said.append)

    with Dataset.open(tmp_path / "out/train") as train, Dataset.open(tmp_path / "out/val") as val:
        assert train.classes == val.classes == WNIDS
        found = [split.read(*split.locate(i)) for split in (train, val) for i in range(split.n_samples)]
    assert {sample.key: (int(sample.components["cls"]), sample.components["jpeg"]) for sample in found} == {
        f"{WNIDS[label]}/{name.removesuffix('.JPEG')}": (label, content)
        for label, images in [
            *((label, TRAIN[wnid]) for label, wnid in enumerate(WNIDS)),
            *((WNIDS.index(VAL[i]), {name: VAL_IMAGES[name]}) for i, name in enumerate(VAL_IMAGES, 1)),
        ]
        for name, content in images.items()
    }
    assert verify(tmp_path / "out/train").ok and verify(tmp_path / "out/val").ok
    assert "train: 9 images of 3 classes; all of ImageNet has 1,281,167" in said


def test_kaggles_folders_are_found_below_its_own(tmp_path: Path) -> None:
    train_as_folders(tmp_path / "src/ILSVRC/Data/CLS-LOC")
    val_flat(tmp_path / "src/ILSVRC/Data/CLS-LOC")
    solution_csv(tmp_path / "src")

    pack("imagenet", tmp_path / "src", tmp_path / "out", say=silent)

    assert Dataset.open(tmp_path / "out/val").n_samples == 5


def test_one_split_is_packed_alone_and_said(tmp_path: Path) -> None:
    train_as_tar(tmp_path / "src")
    said: list[str] = []

    pack("imagenet", tmp_path / "src", tmp_path / "out", say=said.append)

    assert "val: there is none here" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train"]


def test_a_class_without_images_keeps_its_number(tmp_path: Path) -> None:
    train_as_folders(tmp_path / "src")
    (tmp_path / "src/train/n01440000").mkdir()
    said: list[str] = []

    pack("imagenet", tmp_path / "src", tmp_path / "out", say=said.append)

    assert Dataset.open(tmp_path / "out/train").classes == ["n01440000", *WNIDS]
    assert "train: has no images of 1 of the classes: n01440000" in said


# --- what a stranger's tar may hold ---


@pytest.mark.parametrize("name", ["../evil.JPEG", "/etc/evil.JPEG", "a/../../evil.JPEG"])
def test_a_member_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "src/ILSVRC2012_img_train.tar", train_tar(n03000000=tar({name: jpeg(0)})))

    with pytest.raises(UserError, match=r"n03000000\.tar: member '.*evil\.JPEG' leads outside of the archive"):
        pack("imagenet", tmp_path / "src", tmp_path / "out", say=silent)

    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_a_link_in_a_tar_is_left_out_and_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "secret.JPEG", jpeg(0))
    images = tar({"n03000000_1.JPEG": jpeg(1)}, extra=(link("n03000000_2.JPEG", str(tmp_path / "secret.JPEG")),))
    write(tmp_path / "src/ILSVRC2012_img_train.tar", train_tar(n03000000=images))
    said: list[str] = []

    pack("imagenet", tmp_path / "src", tmp_path / "out", say=said.append)

    with Dataset.open(tmp_path / "out/train") as train:
        keys = [train.key(*train.locate(i)) for i in range(train.n_samples)]
    assert "n03000000/n03000000_1" in keys and "n03000000/n03000000_2" not in keys
    assert "train: left out 1 file that can't be packed: 1 link or device (n03000000_2.JPEG)" in said


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    one = tar({"n03000000_1.JPEG": jpeg(1)})
    member = one[: 512 + -(-len(jpeg(1)) // 512) * 512]  # its header and its data, without the archive's end
    write(tmp_path / "src/ILSVRC2012_img_train.tar", train_tar(n03000000=member + one))

    with pytest.raises(UserError, match=r"member 'n03000000_1\.JPEG' comes twice"):
        pack("imagenet", tmp_path / "src", tmp_path / "out", say=silent)


def test_a_download_that_was_cut_off_is_answered_before_anything_is_written(tmp_path: Path) -> None:
    write(tmp_path / "src/ILSVRC2012_img_train.tar", train_tar()[:-14_000])

    with pytest.raises(UserError, match=r"this tar is cut off(.|\n)*Copy or write it again"):
        pack("imagenet", tmp_path / "src", tmp_path / "out", say=silent)

    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_a_class_that_is_no_wordnet_id_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "src/ILSVRC2012_img_train.tar", train_tar(dogs=tar({"1.JPEG": jpeg(1)})))

    with pytest.raises(UserError, match="'dogs' is no WordNet id"):
        pack("imagenet", tmp_path / "src", tmp_path / "out", say=silent)


# --- what is missing ---


def test_validation_images_without_classes_say_where_to_get_them(tmp_path: Path) -> None:
    train_as_tar(tmp_path / "src")
    val_as_tar(tmp_path / "src")

    with pytest.raises(UserError, match=r"have no classes(.|\n)*ILSVRC2012_devkit_t12\.tar\.gz(.|\n)*--val-labels"):
        pack("imagenet", tmp_path / "src", tmp_path / "out", say=silent)


def test_the_list_of_classes_may_lie_elsewhere(tmp_path: Path) -> None:
    val_as_tar(tmp_path / "src")
    wnid_per_line(tmp_path / "lists")
    labels = tmp_path / "lists/imagenet_2012_validation_synset_labels.txt"

    pack("imagenet", tmp_path / "src", tmp_path / "out", say=silent, val_labels=str(labels))

    assert Dataset.open(tmp_path / "out/val").n_samples == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "it is empty"),
        ("n01440764\n" * 4, "it has no class for ILSVRC2012_val_00000005.JPEG"),
        ("n01440764\ncat\n", "txt:2: 'cat' is no WordNet id"),
        ("1\n2\n", "its numbers mean nothing without the devkit's meta.mat"),
    ],
)
def test_a_list_of_classes_that_does_not_fit_is_answered(tmp_path: Path, text: str, expected: str) -> None:
    val_as_tar(tmp_path / "src")
    write(tmp_path / "src/imagenet_2012_validation_synset_labels.txt", text)

    with pytest.raises(UserError, match=expected):
        pack("imagenet", tmp_path / "src", tmp_path / "out", say=silent)


def test_another_folder_is_answered(tmp_path: Path) -> None:
    write(tmp_path / "src/cats/1.jpg", jpeg(0))

    with pytest.raises(UserError, match=r"no images of ImageNet here(.|\n)*pack imagefolder"):
        pack("imagenet", tmp_path / "src", tmp_path / "out", say=silent)


# --- real images ---


@pytest.mark.needs("data")
def test_real_images_of_all_sizes_are_packed_from_a_tar_of_tars(real_data: Path, tmp_path: Path) -> None:
    files = sorted((real_data / "imagenet-sample").glob("*.JPEG"))
    by_class = {file.name[:9]: {file.name: file.read_bytes()} for file in files}
    write(
        tmp_path / "src/ILSVRC2012_img_train.tar",
        tar({f"{wnid}.tar": tar(images) for wnid, images in by_class.items()}),
    )

    pack("imagenet", tmp_path / "src", tmp_path / "out", say=silent)

    report = verify(tmp_path / "out/train")
    assert report.ok and report.n_samples == len(files) == 160
    with Dataset.open(tmp_path / "out/train") as train:
        found = {train.read(*train.locate(i)).components["jpeg"] for i in range(160)}
    assert found == {file.read_bytes() for file in files}
