"""A folder per class, perhaps below a folder per split."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from distdl.data.packing.corpus import (
    IMAGE_FILES,
    SPLITS,
    Corpus,
    ImageFile,
    ImageFiles,
    Others,
    check_share,
    shuffled,
    source_folder,
)
from distdl.errors import UserError


def imagefolder(src: Path | None, *, holdout: float = 0.0, group: str | None = None) -> Corpus:
    """SRC/<split>/<class>/... or SRC/<class>/...; files are copied byte by byte.

    `holdout`: the share of each class that becomes the split test, where SRC has no splits of its own. `group`: a
    regular expression; files of a class in whose paths it finds the same text, such as the number of a track, are held
    out together or not at all. Samples are in an order that mixes the classes and depends on the names alone.
    """
    group_of = _groups(group, holdout)
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
        others = next((of_split for _, of_split in found.values() if len(of_split)), "")
        raise UserError(
            f"no images here ({', '.join(IMAGE_FILES)})" + f"; {others}" * bool(others),
            where=str(src),
            fix="Expected: SRC/<class>/* or SRC/train/<class>/*.",
        )
    notes += [note for split, (_, others) in found.items() for note in others.note(split)]
    if empty := sorted({name for by_class, _ in found.values() for name in by_class} - set(classes)):
        notes.append(f"no class, for it has no images: {', '.join(empty[:5])}{' ...' if len(empty) > 5 else ''}")
    for split, (by_class, _) in found.items():
        if missing := [name for name in classes if not by_class.get(name)]:
            notes.append(f"{split}: has no images of {len(missing)} of the classes: {', '.join(missing[:5])}")
    splits: dict[str, list[ImageFile]] = {}
    for split, (by_class, _) in found.items():
        for label, name in enumerate(classes):
            files = [ImageFile(path, f"{name}/{inside}", label) for inside, path in by_class.get(name, {}).items()]
            held_out, kept = _parted(sorted(files, key=shuffled), holdout, group_of)
            splits.setdefault(split, []).extend(kept)
            if held_out:
                splits.setdefault("test", []).extend(held_out)
    for split, files in splits.items():
        if not files:
            raise UserError(f"the split {split} has no images", where=str(folders.get(split, src)))
    return Corpus(classes, {split: ImageFiles(files) for split, files in splits.items()}, tuple(notes))


def _groups(pattern: str | None, holdout: float) -> Callable[[str], str]:
    """A file's name (class/path) -> that of its group; a file in which the pattern finds nothing is one by itself."""
    if pattern is None:
        return lambda name: name
    if not holdout:
        raise UserError("nothing is held out", where="command line --group", fix="Add --holdout SHARE.")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"this is no regular expression: {error}", where=f"command line --group {pattern}") from None

    def group_of(name: str) -> str:
        found = compiled.search(name.partition("/")[2])
        return found[1 if compiled.groups else 0] if found else name

    return group_of


def _parted(
    files: list[ImageFile], share: float, group_of: Callable[[str], str]
) -> tuple[list[ImageFile], list[ImageFile]]:
    """(held out, kept): whole groups, in the order in which they first appear, until about the share is held out."""
    groups: dict[str, list[ImageFile]] = {}
    for file in files:
        groups.setdefault(group_of(file.name), []).append(file)
    held_out: list[ImageFile] = []
    kept: list[ImageFile] = []
    for members in groups.values():
        still_fit = len(held_out) + len(members) / 2 <= round(len(files) * share)
        (held_out if still_fit and not kept else kept).extend(members)
    return sorted(held_out, key=shuffled), sorted(kept, key=shuffled)


def class_files(folder: Path) -> tuple[dict[str, dict[str, Path]], Others]:
    """Folder -> path inside of it -> image; and the other files. Links to folders are not followed."""
    by_class: dict[str, dict[str, Path]] = {}
    others = Others()
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            others.add(entry.name)
            continue
        images = by_class.setdefault(entry.name, {})
        for parent, subfolders, names in os.walk(entry):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                file = Path(parent, name)
                if file.suffix.lower() in IMAGE_FILES and not name.startswith("."):
                    images[file.relative_to(entry).as_posix()] = file
                else:
                    others.add(file.relative_to(folder).as_posix())
    return by_class, others
