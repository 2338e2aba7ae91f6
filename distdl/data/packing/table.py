"""A CSV that names images and their labels."""

import csv
import os
from pathlib import Path

from distdl.data import labels
from distdl.data.packing.corpus import IMAGE_FILES, SPLITS, Corpus, ImageFile, ImageFiles, check_share, shuffled
from distdl.errors import UserError


def table(src: Path | None, *, holdout: float = 0.0) -> Corpus:
    """SRC is a CSV, or a folder with train.csv and perhaps val.csv and test.csv: a head, then path and label(s) a line.

    Paths start at the table's folder. Labels are numbers, in one column or several: a class number, "3 17" for several
    classes, "0.5,1.2" for two numbers to be predicted; or else class names, in one column. `holdout`: the share of the
    rows that becomes the split test, where there is one table.
    """
    check_share(holdout)
    tables = {"train": src} if src and src.is_file() else {}
    if src and not tables:
        tables = {split: src / f"{split}.csv" for split in SPLITS if (src / f"{split}.csv").is_file()}
    if not tables:
        raise UserError(
            "there is no table", where=str(src or "SRC"), fix="Expected: a CSV, or a folder with train.csv."
        )
    if holdout and set(tables) != {"train"}:
        raise UserError(
            f"the source has its own splits: {', '.join(tables)}", where=str(src), fix="Leave out the holdout."
        )
    splits = {split: sorted(_table_rows(path), key=shuffled) for split, path in tables.items()}
    if n_held_out := round(len(splits["train"]) * holdout) if holdout else 0:
        splits = {"train": splits["train"][n_held_out:], "test": splits["train"][:n_held_out]}
    names = sorted({str(file.label) for files in splits.values() for file in files})
    if all(labels.are_numbers(name.encode()) for name in names):
        return Corpus(None, {split: ImageFiles(files) for split, files in splits.items()})
    if "" in names:
        raise UserError("there are class names and empty labels in it", where=str(src), fix="Name every image's class.")
    numbers = {name: number for number, name in enumerate(names)}
    named = {
        split: [ImageFile(file.path, file.name, numbers[str(file.label)]) for file in files]
        for split, files in splits.items()
    }
    return Corpus(names, {split: ImageFiles(files) for split, files in named.items()})


def _table_rows(path: Path) -> list[ImageFile]:
    files = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            head = next(rows, [])
            for row in filter(None, rows):
                where, label = f"{path}:{rows.line_num}", " ".join(cell.strip() for cell in row[1:])
                image = path.parent / row[0]
                if len(row) != len(head) or len(row) < 2:
                    raise UserError(f"{len(row)} columns; the head has {len(head)}: path, label, ...", where=where)
                if image.suffix.lower() not in IMAGE_FILES or not image.is_file():
                    raise UserError(f"there is no image '{row[0]}' ({', '.join(IMAGE_FILES)})", where=where)
                if len(row) > 2 and not labels.are_numbers(label.encode()):
                    raise UserError(
                        f"'{label}' is not made of numbers", where=where, fix="Class names need one column."
                    )
                files.append(ImageFile(image, os.path.normpath(row[0]).lstrip("./"), label))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"can't read it: {error}", where=str(path)) from error
    if head and (path.parent / head[0]).is_file():
        raise UserError("its first line is an image, not a head", where=str(path), fix="Begin it with: path,label")
    if not files:
        raise UserError("there are no images in it", where=str(path))
    return files
