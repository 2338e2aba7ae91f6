r"""ARPA files of n-gram models, read and written: text, a section for each order, a line for each n-gram.

    \data\                      the number of n-grams of each order
    ngram 1=3
    \1-grams:
    -0.52  the  -0.3            log10 probability, words, log10 backoff (not at the highest order)
    \end\

Files whose name ends with .gz are compressed.
"""

import gzip
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, cast

from distdl.errors import UserError
from distdl.speech.decoding.ngram import BEGIN, UNKNOWN, Gram, NGram

_FIX = "`distdl lm`, KenLM's lmplz and SRILM's ngram-count write such files (ARPA)."


def read_arpa(path: str | Path) -> NGram:
    """Raises UserError that names the line of what is wrong."""
    try:
        with _opened(Path(path), "rt") as file:
            return _Reader(str(path), file).read()
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror or error}", where=str(path), fix=_FIX) from None
    except (UnicodeDecodeError, EOFError):
        raise UserError("is not text in UTF-8, or it is cut off", where=str(path), fix=_FIX) from None


def arpa_words(path: str | Path) -> list[str]:
    """All words of the file but <s>, without the n-grams. It has to be one that can be read."""
    words: list[str] = []
    with _opened(Path(path), "rt") as file:
        for line in file:
            if line.startswith("\\2-grams:") or line.startswith("\\end\\"):
                break
            parts = line.split()
            if len(parts) in (2, 3) and not line.startswith(("\\", "ngram ")):
                words.append(parts[1])
    return sorted(word for word in words if word != BEGIN)


def write_arpa(model: NGram, path: str | Path) -> None:
    """The file is there whole or not at all."""
    unfinished = Path(path).with_name(f".{Path(path).name}")
    with _opened(unfinished, "wt") as file:
        by_order: list[list[Gram]] = [[] for _ in range(model.order)]
        for gram in sorted(model.probabilities):
            by_order[len(gram) - 1].append(gram)
        file.write("\\data\\\n")
        file.writelines(f"ngram {order}={len(grams)}\n" for order, grams in enumerate(by_order, start=1))
        for order, grams in enumerate(by_order, start=1):
            file.write(f"\n\\{order}-grams:\n")
            for gram in grams:
                backoff = f"\t{model.backoffs.get(gram, 0.0):.8g}" if order < model.order else ""
                file.write(f"{model.probabilities[gram]:.8g}\t{' '.join(gram)}{backoff}\n")
        file.write("\n\\end\\\n")
    unfinished.replace(path)


def _opened(path: Path, mode: str) -> TextIO:
    is_compressed = path.name.endswith(".gz")
    return cast(TextIO, gzip.open(path, mode, encoding="utf-8") if is_compressed else path.open(mode, encoding="utf-8"))


class _Reader:
    """Goes through the lines, and remembers which one it is at."""

    def __init__(self, path: str, file: TextIO) -> None:
        self._path, self._number, self._lines = path, 0, self._filled(file)

    def _filled(self, file: TextIO) -> Iterator[str]:
        for number, line in enumerate(file, start=1):
            self._number = number
            if stripped := line.strip():
                yield stripped
        self._number += 1

    def _wrong(self, what: str) -> UserError:
        return UserError(what, where=f"{self._path}, line {self._number}", fix=_FIX)

    def _next(self, expected: str) -> str:
        line = next(self._lines, None)
        if line is None:
            raise self._wrong(f"ends where {expected} should stand")
        return line

    def read(self) -> NGram:
        for line in self._lines:
            if line == "\\data\\":
                break
        else:
            raise self._wrong("has no \\data\\")
        counts, line = self._counts()
        probabilities: dict[Gram, float] = {}
        backoffs: dict[Gram, float] = {}
        for order, count in enumerate(counts, start=1):
            if line != f"\\{order}-grams:":
                raise self._wrong(f"{line!r} stands where \\{order}-grams: should")
            for _ in range(count):
                self._gram(self._next(f"one of {count:,} {order}-grams"), order, probabilities, backoffs)
            line = self._next(f"\\{order + 1}-grams:" if order < len(counts) else "\\end\\")
        if line != "\\end\\":
            raise self._wrong(f"{line!r} stands where \\end\\ should: there are more n-grams than are counted above")
        if ("<UNK>",) in probabilities:  # as SRILM has it with -unk
            probabilities.setdefault((UNKNOWN,), probabilities[("<UNK>",)])
        return NGram(len(counts), probabilities, backoffs)

    def _counts(self) -> tuple[list[int], str]:
        counts: list[int] = []
        while match := re.fullmatch(r"ngram\s+(\d+)\s*=\s*(\d+)", line := self._next("\\1-grams:")):
            if int(match[1]) != len(counts) + 1:
                raise self._wrong(f"{line!r} stands where ngram {len(counts) + 1}=... should")
            counts.append(int(match[2]))
        if not counts:
            raise self._wrong(f"{line!r} stands where ngram 1=... should")
        return counts, line

    def _gram(self, line: str, order: int, probabilities: dict[Gram, float], backoffs: dict[Gram, float]) -> None:
        parts = line.split()
        if len(parts) not in (order + 1, order + 2) or line.startswith("\\"):
            raise self._wrong(f"is no {order}-gram: {line[:80]!r}")
        try:
            log10, backoff = float(parts[0]), float(parts[order + 1]) if len(parts) == order + 2 else 0.0
        except ValueError:
            raise self._wrong(f"has something else than a number: {line[:80]!r}") from None
        if not (math.isfinite(backoff) and log10 <= 0):
            raise self._wrong(f"has a probability above 1 or no number: {line[:80]!r}")
        gram = tuple(parts[1 : order + 1])
        probabilities[gram] = log10
        if backoff:
            backoffs[gram] = backoff
