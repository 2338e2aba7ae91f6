"""Rows of a table with a head, from tab- or comma-separated text."""

import csv
from pathlib import Path

from distdl.errors import UserError


def rows_of(path: Path, between: str, needed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """(number of the line, column -> value) of a table with a head.

    Columns end at tabs where `between` is one, without any quoting. Raises UserError for a table that can't be read,
    that lacks a column or has no rows, and for a row of another length than the head.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if between == "\t":
                rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            else:
                rows = csv.reader(file, delimiter=between)
            head = next(rows, [])
            if missing := [name for name in needed if name not in head]:
                raise UserError(
                    f"it has no column '{missing[0]}' (its head has: {', '.join(head) or 'nothing'})", where=str(path)
                )
            found = []
            for row in filter(None, rows):
                if len(row) != len(head):
                    where = f"{path}:{rows.line_num}"
                    raise UserError(f"{len(row)} columns; the head has {len(head)}", where=where)
                found.append((rows.line_num, dict(zip(head, row, strict=True))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"can't read it: {error}", where=str(path)) from error
    if not found:
        raise UserError("there are no rows in it", where=str(path))
    return found
