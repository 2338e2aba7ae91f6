"""ImageNet-1k (ILSVRC2012) as it is downloaded, or as it was unpacked. Nothing is extracted: tars are read in place.

    train    ILSVRC2012_img_train.tar (a tar of a tar per class), train/<wnid>.tar, or train/<wnid>/*.JPEG
    val      ILSVRC2012_img_val.tar or val/*.JPEG with a list of their classes (distdl/data/packing/ground_truth.py),
             or val/<wnid>/*.JPEG

Classes are the sorted WordNet ids (wnids), so that they have their usual numbers, 0 to 999. A sample is named
<wnid>/<file> in every case: the same images give the same shards, whichever way they came.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from distdl.data.corpus.tar import Member
from distdl.data.packing import ground_truth
from distdl.data.packing.corpus import IMAGE_FILES, Corpus, ImageFile, ImageFiles, Others, source_folder
from distdl.data.packing.folders import class_files
from distdl.data.packing.source_tars import SourceTar
from distdl.errors import UserError

_TRAIN_TAR, _VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_KAGGLE = Path("ILSVRC/Data/CLS-LOC")  # where Kaggle's archive has train/ and val/
_WNID = re.compile(r"n\d{8}")
_WHOLE = {"train": 1_281_167, "val": 50_000}  # images

Images = dict[str, list[ImageFile]]
"""wnid -> its images, without labels as yet; empty for a class that has a folder or a tar, but no images"""


def imagenet(src: Path | None, *, val_labels: str | None = None) -> Corpus:
    """`val_labels`: the file with the classes of the validation images, if it is not found beside them.

    Raises UserError where neither split is there, for a damaged tar, and for images whose class is not known.
    """
    src = source_folder(src, f"{_TRAIN_TAR} or train/<wnid>/, and {_VAL_TAR} or val/")
    root = src / _KAGGLE if (src / _KAGGLE).is_dir() else src
    notes: list[str] = []
    found = {
        "train": _train(root, notes),
        "val": _val(root, [src, root], Path(val_labels) if val_labels else None, notes),
    }
    splits = {split: images for split, images in found.items() if images}
    if not splits:
        raise UserError(
            "there are no images of ImageNet here",
            where=str(src),
            fix=f"Expected: {_TRAIN_TAR} or train/<wnid>/*.JPEG, and {_VAL_TAR} or val/. "
            "Folders of classes with other names: `distdl data pack imagefolder`.",
        )
    classes = sorted({wnid for images in splits.values() for wnid in images})
    labels = {wnid: label for label, wnid in enumerate(classes)}
    for split, images in splits.items():
        n_images = sum(map(len, images.values()))
        if n_images != _WHOLE[split]:
            notes.append(
                f"{split}: {n_images:,} images of {len(images):,} classes; all of ImageNet has {_WHOLE[split]:,}"
            )
        if missing := [wnid for wnid in classes if not images.get(wnid)]:
            notes.append(f"{split}: has no images of {len(missing)} of the classes: {', '.join(missing[:5])}")
    notes += [f"{split}: there is none here" for split in found if split not in splits]
    return Corpus(
        classes,
        {
            split: ImageFiles(
                ImageFile(file.path, file.name, labels[wnid], file.offset, file.size)
                for wnid, files in images.items()
                for file in files
            )
            for split, images in splits.items()
        },
        tuple(notes),
    )


def _train(root: Path, notes: list[str]) -> Images:
    folder = root / "train"
    if (root / _TRAIN_TAR).is_file():
        whole = SourceTar(root / _TRAIN_TAR)
        tars = {PurePosixPath(member.name).stem: SourceTar(whole.path, member) for member in whole.tars()}
        notes.append(f"train: from {whole.path.name}" + (", not from train/" if folder.is_dir() else ""))
    else:
        tars = {path.stem: SourceTar(path) for path in sorted(folder.glob("n*.tar"))}
    if not tars:
        return _folders(folder, "train", notes)
    _check_wnids(tars, root)
    images = {wnid: [_member(tar, member, wnid) for member in tar.images()] for wnid, tar in tars.items()}
    others = Others()
    for tar in tars.values():
        others.extend(tar.others)
    notes += others.note("train")
    return images


def _val(root: Path, places: list[Path], val_labels: Path | None, notes: list[str]) -> Images:
    folder = root / "val"
    if (root / _VAL_TAR).is_file():
        tar = SourceTar(root / _VAL_TAR)
        notes.append(f"val: from {tar.path.name}" + (", not from val/" if folder.is_dir() else ""))
        flat = [_member(tar, member) for member in tar.images()]
        notes += tar.others.note("val")
    else:
        flat = [ImageFile(path, path.name, "") for path in _images_in(folder)]
    if not flat:
        return _folders(folder, "val", notes)
    wnids = ground_truth.read(places, val_labels)
    notes.append(f"val: classes from {wnids.where}")
    images: Images = {}
    for file in flat:
        wnid = wnids.of(file.name)
        _check_wnids([wnid], Path(wnids.where))
        images.setdefault(wnid, []).append(ImageFile(file.path, f"{wnid}/{file.name}", "", file.offset, file.size))
    return images


def _folders(folder: Path, split: str, notes: list[str]) -> Images:
    """<wnid>/*.JPEG. Folders of other names are left out."""
    if not folder.is_dir():
        return {}
    by_class, others = class_files(folder)
    notes += others.note(split)
    if strange := [name for name in by_class if not _WNID.fullmatch(name)]:
        notes.append(f"{split}: left out folders whose names are no WordNet ids: {', '.join(strange[:5])}")
    return {
        wnid: [ImageFile(path, f"{wnid}/{path.name}", "") for path in files.values()]
        for wnid, files in by_class.items()
        if _WNID.fullmatch(wnid)
    }


def _images_in(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_FILES)


def _member(tar: SourceTar, member: Member, wnid: str = "") -> ImageFile:
    name = PurePosixPath(member.name).name
    return ImageFile(tar.path, f"{wnid}/{name}" if wnid else name, "", member.offset, member.size)


def _check_wnids(wnids: Iterable[str], where: Path) -> None:
    if wrong := next((wnid for wnid in wnids if not _WNID.fullmatch(wnid)), None):
        raise UserError(f"'{wrong}' is no WordNet id such as n01440764", where=str(where))
