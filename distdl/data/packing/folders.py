"""A folder per class, perhaps below a folder per split."""

import os
from pathlib import Path

from distdl.data.packing.corpus import (
    IMAGE_FILES,
    SPLITS,
    Corpus,
    ImageFile,
    ImageFiles,
    check_share,
    shuffled,
    source_folder,
)
from distdl.errors import UserError


def imagefolder(src: Path | None, *, holdout: float = 0.0) -> Corpus:
    """SRC/<split>/<class>/... or SRC/<class>/...; files are copied byte by byte.

    `holdout`: the share of each class that becomes the split test, where SRC has no splits of its own. Samples are in
    an order that mixes the classes and depends on the names alone.
    """
    src = source_folder(src, "a folder per class, or train/, val/ and test/ with a folder per class in each")
    check_share(holdout)
    # "train" may also be a class, between "bus" and "tram": a split has folders in it.
    folders = {split: src / split for split in SPLITS if any(entry.is_dir() for entry in src.glob(f"{split}/*"))}
    besides = sorted(entry.name for entry in src.iterdir() if entry.name not in folders and entry.is_dir())
    notes = [f"left out what is beside {', '.join(folders)}: {', '.join(besides[:5])}"] if folders and besides else []
    folders = folders or {"train": src}
    if holdout and set(folders) != {"train"}:
        raise UserError(
            f"the source has its own splits: {', '.join(folders)}", where=str(src), fix="Leave out the holdout."
        )
    found = {split: class_files(folder) for split, folder in folders.items()}
    classes = sorted({name for by_class, _ in found.values() for name, files in by_class.items() if files})
    if not classes:
        raise UserError(
            f"no images here ({', '.join(IMAGE_FILES)})",
            where=str(src),
            fix="Expected: SRC/<class>/* or SRC/train/<class>/*.",
        )
    notes += [
        f"{split}: left out {n_others} files that are no images" for split, (_, n_others) in found.items() if n_others
    ]
    if empty := sorted({name for by_class, _ in found.values() for name in by_class} - set(classes)):
        notes.append(f"no class, for it has no images: {', '.join(empty[:5])}{' ...' if len(empty) > 5 else ''}")
    for split, (by_class, _) in found.items():
        if missing := [name for name in classes if not by_class.get(name)]:
            notes.append(f"{split}: has no images of {len(missing)} of the classes: {', '.join(missing[:5])}")
    splits: dict[str, list[ImageFile]] = {}
    for split, (by_class, _) in found.items():
        for label, name in enumerate(classes):
            files = [ImageFile(path, f"{name}/{inside}", label) for inside, path in by_class.get(name, {}).items()]
            files.sort(key=shuffled)
            n_held_out = round(len(files) * holdout)
            splits.setdefault(split, []).extend(files[n_held_out:])
            if n_held_out:
                splits.setdefault("test", []).extend(files[:n_held_out])
    for split, files in splits.items():
        if not files:
            raise UserError(f"the split {split} has no images", where=str(folders.get(split, src)))
    return Corpus(classes, {split: ImageFiles(files) for split, files in splits.items()}, tuple(notes))


def class_files(folder: Path) -> tuple[dict[str, dict[str, Path]], int]:
    """Folder -> path inside of it -> image; and the number of other files. Links to folders are not followed."""
    by_class: dict[str, dict[str, Path]] = {}
    n_others = 0
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            n_others += 1
            continue
        images = by_class.setdefault(entry.name, {})
        for parent, subfolders, names in os.walk(entry):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                file = Path(parent, name)
                if file.suffix.lower() in IMAGE_FILES and not name.startswith("."):
                    images[file.relative_to(entry).as_posix()] = file
                else:
                    n_others += 1
    return by_class, n_others
