"""Tiny ImageNet as it is downloaded: train/<wnid>/images/*.JPEG, and val/images/*.JPEG with val/val_annotations.txt."""

from pathlib import Path

from distdl.data.packing.corpus import IMAGE_FILES, Corpus, ImageFile, ImageFiles, source_folder
from distdl.data.packing.folders import class_files
from distdl.errors import UserError

_ANNOTATIONS = "val_annotations.txt"


def tiny_imagenet(src: Path | None) -> Corpus:
    """Classes are the sorted names of train's folders (WordNet ids); boxes, and the test set, which has no labels, are
    left out."""
    src = source_folder(src, f"train/<wnid>/images/ and val/images/ with val/{_ANNOTATIONS}")
    for needed in (src / "train", src / "val" / _ANNOTATIONS):
        if not needed.exists():
            raise UserError(
                f"there is no {needed.relative_to(src)} here",
                where=str(src),
                fix=f"Expected: train/<wnid>/images/*.JPEG, val/images/*.JPEG and val/{_ANNOTATIONS}.",
            )
    by_class = {name: files for name, files in class_files(src / "train")[0].items() if files}
    if not by_class:
        raise UserError(f"no images here ({', '.join(IMAGE_FILES)})", where=str(src / "train"))
    classes = sorted(by_class)
    train = [
        ImageFile(path, f"{name}/{path.name}", label)
        for label, name in enumerate(classes)
        for path in by_class[name].values()
    ]
    notes = ("left out the test set: it has no labels",) if (src / "test").exists() else ()
    splits = {"train": ImageFiles(train), "val": ImageFiles(_annotated(src / "val", classes))}
    return Corpus(classes, dict(splits), notes)


def _annotated(folder: Path, classes: list[str]) -> list[ImageFile]:
    """A line is: file, class and four numbers of a box, with tabs in between."""
    path = folder / _ANNOTATIONS
    numbers = {name: number for number, name in enumerate(classes)}
    files: dict[str, ImageFile] = {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read it: {error}", where=str(path)) from error
    for number, line in enumerate(lines, 1):
        name, wnid, *_ = [*line.split("\t"), ""]
        if reason := _what_is_wrong(name, wnid, name in files, wnid in numbers):
            raise UserError(f"'{name[:40]}' {reason}", where=f"{path}:{number}")
        files[name] = ImageFile(folder / "images" / name, f"{wnid}/{name}", numbers[wnid])
    there = {entry.name for entry in (folder / "images").iterdir() if entry.suffix.lower() in IMAGE_FILES}
    if different := sorted(there ^ files.keys()):
        what = "is missing" if different[0] in files else f"is not in {_ANNOTATIONS}"
        raise UserError(f"{different[0]} {what}", where=str(folder), fix="Unpack the archive again.")
    return list(files.values())


def _what_is_wrong(name: str, wnid: str, is_known: bool, is_class: bool) -> str:
    if name != Path(name).name:
        return "is no file's name"
    if is_known:
        return "comes twice"
    if not wnid:
        return "has no class"
    return "" if is_class else f"'{wnid}' is no folder of train"
