"""`distdl lm` and `distdl pieces`: what is learned from text alone, out of text files or the transcripts of shards."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from distdl.errors import EXIT_DONE, UserError


def add_lm(command: argparse.ArgumentParser) -> None:
    _add_texts(command)
    command.add_argument("--order", type=int, default=3, metavar="N", help="words that are looked at (default: 3)")
    command.add_argument("--held-out", nargs="+", default=[], metavar="TEXT|SHARDS", help="to tell its perplexity on")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="to write, in ARPA's format")


def lm(arguments: argparse.Namespace) -> int:
    """A language model of words, with Kneser-Ney smoothing, for `predict --lm` and task.args.decode."""
    from distdl.speech.decoding.arpa import write_arpa
    from distdl.speech.decoding.kneser_ney import train_language_model
    from distdl.speech.decoding.ngram import perplexity

    if arguments.order < 1:
        raise UserError(f"{arguments.order} is not a number of words", where="command line --order")
    texts = list(_texts(arguments.texts, arguments.label, arguments.case))
    model = train_language_model(texts, arguments.order)
    write_arpa(model, arguments.out)
    print(f"{arguments.out}: {arguments.order}-grams of {len(model.words):,} words, from {len(texts):,} sentences")
    if arguments.held_out:
        others = list(_texts(arguments.held_out, arguments.label, arguments.case))
        print(f"perplexity on {len(others):,} others: {perplexity(model, others):.1f}")
    return EXIT_DONE


def add_pieces(command: argparse.ArgumentParser) -> None:
    _add_texts(command)
    command.add_argument("--size", type=int, required=True, metavar="N", help="classes of the network, with the blank")
    command.add_argument("--kind", choices=("unigram", "bpe"), default="unigram", help="default: unigram")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="to write: a model of sentencepiece")


def pieces(arguments: argparse.Namespace) -> int:
    """Pieces of words, for task.args.vocabulary: {pieces: FILE}."""
    from distdl.speech.text import train_pieces

    texts = _texts(arguments.texts, arguments.label, arguments.case)
    try:
        train_pieces(texts, arguments.size, arguments.out, kind=arguments.kind)
    except ValueError as error:
        raise UserError(str(error), where=f"command line --size {arguments.size}") from None
    print(f"{arguments.out}: model.args.classes={arguments.size}")
    return EXIT_DONE


def add_cmvn(command: argparse.ArgumentParser) -> None:
    """See distdl/trainer/corpus_statistics.py."""
    command.add_argument("config", type=Path, metavar="CONFIG")
    command.add_argument("overrides", nargs="*", metavar="a.b=c")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="to write: cmvn's file")


def _add_texts(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "texts", nargs="+", metavar="TEXT|SHARDS", help="text files, a sentence a line; or folders of shards"
    )
    command.add_argument("--label", default="txt", help="component of the shards that holds the text (default: txt)")
    command.add_argument("--case", choices=("keep", "lower", "upper"), default="keep", help="of the text")


def _texts(sources: Sequence[str], label: str, case: str) -> Iterator[str]:
    for source in sources:
        for text in _of_file(Path(source)) if Path(source).is_file() else _of_shards(source, label):
            yield text.lower() if case == "lower" else text.upper() if case == "upper" else text


def _of_file(path: Path) -> Iterator[str]:
    try:
        yield from filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines()))
    except UnicodeDecodeError:
        raise UserError("it is not text in UTF-8", where=str(path)) from None


def _of_shards(source: str, label: str) -> Iterator[str]:
    from distdl.data.corpus.dataset import CorruptSample, Dataset

    dataset = Dataset.open(source)
    try:
        for sample_id in range(dataset.n_samples):
            try:
                components = dataset.read(*dataset.locate(sample_id), only=(label,)).components
            except CorruptSample:
                continue
            if label not in components:
                raise UserError(f"its samples have no component '{label}'", where=source, fix="Name it by --label.")
            yield components[label].decode("utf-8", "replace").strip()
    finally:
        dataset.close()
