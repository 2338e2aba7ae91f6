"""A manifest -> its utterances, one by one: of Lhotse, NeMo, SpeechBrain, or a data folder of Kaldi.

Which of them it is follows from the first row; .gz is decompressed on the way.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distdl.data.corpus.utterance import Utterance
from distdl.data.manifests import kaldi, lhotse, nemo, speechbrain
from distdl.data.manifests.paths import Base
from distdl.data.table_rows import rows_of
from distdl.errors import UserError

_FORMS = (
    "Known are Lhotse's cuts, or supervisions with recordings beside (.jsonl, .jsonl.gz); NeMo's lines with "
    "audio_filepath; SpeechBrain's .json or .csv; a data folder of Kaldi."
)


def utterances(path: Path) -> Iterator[Utterance]:
    """In the manifest's order. Raises UserError, when the first is asked for or later, for what can't be understood."""
    try:
        yield from _utterances(path)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"can't read it: {error}", where=str(path), fix=_FORMS) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"a row of it is not as expected: {what}", where=str(path), fix=_FORMS) from error


def _utterances(path: Path) -> Iterator[Utterance]:
    if path.is_dir():
        if not (path / kaldi.SCP).is_file():
            raise UserError(f"this folder has no {kaldi.SCP}", where=str(path), fix=_FORMS)
        return kaldi.utterances(path)
    where, path_of = str(path), Base(path.parent)
    if path.suffix == ".csv":
        rows = ((row["ID"], row) for _, row in rows_of(path, ",", ("ID",)))
        return speechbrain.utterances(rows, where, path_of)
    first = next(_json_lines(path), None)
    if first is None:
        whole = _json(path)
        if whole and all(isinstance(row, dict) for row in whole.values()):
            return speechbrain.utterances(iter(whole.items()), where, path_of)
        raise UserError("these are no utterances", where=where, fix=_FORMS)
    row = first[1]
    if lhotse.is_cut(row):
        return lhotse.of_cuts(_json_lines(path), where, path_of)
    if lhotse.is_recording(row):
        supervisions = lhotse.beside(path, "recordings")
        return lhotse.of_supervisions(_json_lines(supervisions), _json_lines(path), str(supervisions), path_of)
    if lhotse.is_supervision(row):
        recordings = lhotse.beside(path, "supervisions")
        return lhotse.of_supervisions(_json_lines(path), _json_lines(recordings), where, path_of)
    if "audio_filepath" in row:
        return nemo.utterances(_json_lines(path), where, path_of)
    if all(isinstance(each, dict) for each in row.values()) and row:
        return speechbrain.utterances(iter(row.items()), where, path_of)  # all in one line
    raise UserError(f"its rows have none of the known fields: {', '.join(list(row)[:8])}", where=where, fix=_FORMS)


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the line, object). None at all where already the first line is no object by itself.

    Raises UserError for a later line that is none.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        is_first = True
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                if is_first:
                    return
                raise UserError("this line is no JSON object", where=f"{path}:{number}")
            is_first = False
            yield number, row


def _json(path: Path) -> dict[str, Any]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        try:
            value = json.load(file)
        except ValueError as error:
            raise UserError(f"neither JSON nor lines of it: {error}", where=str(path), fix=_FORMS) from None
    if not isinstance(value, dict):
        raise UserError(
            f"it holds a {type(value).__name__}, not utterances by their names", where=str(path), fix=_FORMS
        )
    return value
