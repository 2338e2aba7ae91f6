"""`distdl lm`: texts in, an n-gram model out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from distdl.errors import UserError
from distdl.speech.decoding.arpa import write_arpa
from distdl.speech.decoding.kneser_ney import train_language_model
from distdl.speech.decoding.ngram import perplexity
from distdl.speech.text import Vocabulary, in_units


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """`n_grams` by order: 1, 2, ... `perplexity` is that of the held-out texts, None without any."""

    n_sentences: int
    n_words: int
    n_grams: list[int]
    perplexity: float | None


def learn_language_model(
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    order: int = 3,
    vocabulary: Vocabulary | None = None,
    over_units: bool = False,
    held_out: Iterable[str | Path] = (),
) -> Learned:
    """Learns from files with a sentence a line, and writes an ARPA file.

    With a vocabulary, sentences are normalised as those that it encodes are; `over_units` makes a model of its units,
    for decoders with `lm_over="units"`. Raises UserError that names the file, and the line where there is one.
    """
    if over_units and vocabulary is None:
        raise UserError("a model over units needs to know them", fix="name the config whose vocabulary it is for")
    if not Path(out).resolve().parent.is_dir():
        raise UserError("there is no such folder", where=str(Path(out).parent), fix="make it, or name another")
    sentences = list(_sentences(paths, vocabulary, over_units))
    model = train_language_model(sentences, order)
    write_arpa(model, out)
    lengths = [len(gram) for gram in model.probabilities]
    others = list(_sentences(held_out, vocabulary, over_units))
    return Learned(
        n_sentences=len(sentences),
        n_words=sum(len(sentence.split()) for sentence in sentences),
        n_grams=[lengths.count(length) for length in range(1, order + 1)],
        perplexity=perplexity(model, others) if others else None,
    )


def _sentences(paths: Iterable[str | Path], vocabulary: Vocabulary | None, over_units: bool) -> Iterator[str]:
    """Lines that have words, as the model is to learn them."""
    for path in paths:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(error.strerror or str(error), where=str(path), fix="name files of text") from None
        except UnicodeDecodeError:
            raise UserError("is not text in UTF-8", where=str(path), fix="iconv -t UTF-8") from None
        for number, line in enumerate(lines, start=1):
            try:
                normal = vocabulary.normal(line) if vocabulary else line
                sentence = in_units(line, vocabulary) if vocabulary and over_units else normal
            except ValueError as error:
                fix = "take the line out, or set the vocabulary's `unknown: drop`"
                raise UserError(str(error), where=f"{path}, line {number}", fix=fix) from None
            if sentence.split():
                yield sentence
