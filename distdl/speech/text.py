"""Text as classes: the characters, pieces or phonemes that a network tells apart, and the text that they spell.

Class 0 is the blank of CTC (Graves et al. 2006) in every vocabulary. Text is normalised before it is looked up: white
space is one space, the case is as asked for, and what is outside of the vocabulary raises or is dropped. For language
models of words, a vocabulary says of each unit whether a new word begins at it (`begins_word`) and which letters it
adds to that word (`spelling`): a space begins one and adds none, the piece "▁the" begins one and adds "the".
Vocabularies are sent to the processes that read data: they can be pickled.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, cast

from distdl.errors import UserError, did_you_mean

Case = Literal["keep", "lower", "upper"]
Unknown = Literal["raise", "drop"]

BLANK = 0
WORD_START = "▁"  # U+2581, as sentencepiece writes the space before a word
KINDS = ("characters", "pieces", "lexicon")


class Vocabulary(Protocol):
    """`units[c]` is what class c stands for; units[0] is the blank, an empty string."""

    units: list[str]
    begins_word: list[bool]
    spelling: list[str]

    def __len__(self) -> int:
        """Classes of the network, with the blank."""

    def normal(self, text: str) -> str:
        """The text as it is scored: in the case asked for, with single spaces, without what is dropped."""

    def encode(self, text: str) -> list[int]:
        """Raises ValueError that names what is outside of the vocabulary."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text that the units spell. Blanks are left out; nothing is collapsed."""


class Characters:
    """A class for each character of `alphabet`; a space among them stands between words."""

    def __init__(self, alphabet: str, *, case: Case = "keep", unknown: Unknown = "raise") -> None:
        letters = list(unicodedata.normalize("NFC", alphabet))
        self.units = ["", *letters]
        self.begins_word = [letter == " " for letter in self.units]
        self.spelling = ["" if letter == " " else letter for letter in self.units]
        self._case, self._unknown = case, unknown
        self._class_of = {letter: number for number, letter in enumerate(letters, start=1)}
        if len(self._class_of) < len(letters):
            twice = next(letter for letter in letters if letters.count(letter) > 1)
            raise ValueError(f"the alphabet has {twice!r} twice")

    def __len__(self) -> int:
        return len(self.units)

    def normal(self, text: str) -> str:
        text = _in_case(text, self._case)
        if self._unknown == "drop":
            text = "".join(letter for letter in text if letter in self._class_of or letter.isspace())
        return " ".join(text.split())

    def encode(self, text: str) -> list[int]:
        normal = self.normal(text)
        if self._unknown == "drop" and " " not in self._class_of:
            normal = normal.replace(" ", "")
        try:
            return [self._class_of[letter] for letter in normal]
        except KeyError as error:
            raise ValueError(f"the character {error.args[0]!r} of {text!r} is not in the alphabet") from None

    def decode(self, ids: Iterable[int]) -> str:
        return "".join([self.units[number] for number in ids])


class Pieces:
    """The pieces of a sentencepiece model, without its control and unknown symbols (Kudo and Richardson 2018)."""

    def __init__(self, model: bytes | str | Path, *, case: Case = "keep", unknown: Unknown = "raise") -> None:
        """`model` is the file or what is in it. Raises OSError or ValueError for one that is none."""
        self._bytes = model if isinstance(model, bytes) else Path(model).read_bytes()
        self._case, self._unknown = case, unknown
        self._load()

    def _load(self) -> None:
        try:
            self._model = _sentencepiece().SentencePieceProcessor(model_proto=self._bytes)
        except RuntimeError:
            raise ValueError("not a model of sentencepiece") from None
        every = range(self._model.get_piece_size())
        is_not_text = (self._model.is_unknown, self._model.is_control, self._model.is_unused)
        self._number_of = [number for number in every if not any(check(number) for check in is_not_text)]
        self._class_of = {number: place for place, number in enumerate(self._number_of, start=1)}
        self.units = ["", *(self._model.id_to_piece(number) for number in self._number_of)]
        self.begins_word = [piece.startswith(WORD_START) for piece in self.units]
        self.spelling = [piece.removeprefix(WORD_START) for piece in self.units]

    def __getstate__(self) -> dict[str, Any]:
        return {"_bytes": self._bytes, "_case": self._case, "_unknown": self._unknown}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()

    def __len__(self) -> int:
        return len(self.units)

    def normal(self, text: str) -> str:
        text = _in_case(text, self._case)
        if self._unknown == "drop":
            unknown = set(self._outside(text))
            text = "".join(letter for letter in text if letter not in unknown)
        return " ".join(text.split())

    def _outside(self, text: str) -> str:
        pieces, numbers = self._model.encode(text, out_type=str), self._model.encode(text, out_type=int)
        unknown = [piece for piece, number in zip(pieces, numbers, strict=True) if number not in self._class_of]
        return "".join(unknown).replace(WORD_START, "")

    def encode(self, text: str) -> list[int]:
        normal = self.normal(text)
        numbers = self._model.encode(normal, out_type=int)
        try:
            return [self._class_of[number] for number in numbers]
        except KeyError:
            raise ValueError(f"{self._outside(normal)!r} of {text!r} is not among the pieces") from None

    def decode(self, ids: Iterable[int]) -> str:
        return cast(str, self._model.decode([self._number_of[number - 1] for number in ids if number != BLANK]))


class Phonemes:
    """The phonemes of a pronunciation lexicon: lines `word  P1 P2 ...`; of several for a word the first is encoded.

    As CMUdict has them, "word(2)" is another pronunciation of "word", and lines that begin with ;;; are comments.
    Their text is the phonemes with spaces between: `decode(encode(text))` is the reference for a phoneme error rate.
    """

    def __init__(self, lexicon: str | Path, *, case: Case = "keep", unknown: Unknown = "raise") -> None:
        """Raises OSError, or ValueError that names the line."""
        self._case, self._unknown = case, unknown
        ways = read_lexicon(lexicon)
        self._pronounced = {_in_case(word, case): first for word, (first, *_) in reversed(ways.items())}
        every = {phoneme for of_word in ways.values() for phonemes in of_word for phoneme in phonemes}
        self.units = ["", *sorted(every)]
        self.begins_word = [number != BLANK for number in range(len(self.units))]
        self.spelling = list(self.units)
        self._class_of = {phoneme: number for number, phoneme in enumerate(self.units)}

    def __len__(self) -> int:
        return len(self.units)

    def normal(self, text: str) -> str:
        words = _in_case(text, self._case).split()
        return " ".join(word for word in words if self._unknown == "raise" or word in self._pronounced)

    def encode(self, text: str) -> list[int]:
        try:
            said = [self._pronounced[word] for word in self.normal(text).split()]
        except KeyError as error:
            raise ValueError(f"the word {error.args[0]!r} of {text!r} is not in the lexicon") from None
        return [self._class_of[phoneme] for phonemes in said for phoneme in phonemes]

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(self.units[number] for number in ids if number != BLANK)


def read_lexicon(path: str | Path) -> dict[str, list[list[str]]]:
    """Word -> its pronunciations, in the order of the file. Raises ValueError that names the line."""
    found: dict[str, list[list[str]]] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        word, *phonemes = line.split() or [";;;"]
        if word.startswith(";;;"):
            continue
        if not phonemes:
            raise ValueError(f"line {number} has no phonemes: {line!r}")
        found.setdefault(re.sub(r"\(\d+\)$", "", word), []).append(phonemes)
    if not found:
        raise ValueError("there are no words in it")
    return found


def train_pieces(
    texts: Iterable[str], n: int, path: str | Path, *, kind: Literal["unigram", "bpe"] = "unigram"
) -> None:
    """Learns `n` pieces from normalised texts and writes the model to `path`; the classes are then n, with the blank.

    The unknown symbol, which is no class of the network, is one of the n: the blank takes its place. Raises ValueError
    where the texts hold too few different letters or sequences for so many pieces, or too many letters for so few.
    """
    try:
        with Path(path).open("wb") as file:
            _sentencepiece().SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=file,
                vocab_size=n,
                model_type=kind,
                character_coverage=1.0,
                bos_id=-1,
                eos_id=-1,
                unk_id=0,
                minloglevel=2,
            )
    except RuntimeError as error:
        Path(path).unlink(missing_ok=True)
        raise ValueError(f"no {n} pieces can be made of these texts: {str(error).rpartition('] ')[2]}") from None


def unit_names(vocabulary: Vocabulary) -> list[str]:
    """The units as words of a language model over units: a space is written as one that can be seen."""
    return [WORD_START if unit == " " else unit for unit in vocabulary.units]


def in_units(text: str, vocabulary: Vocabulary) -> str:
    """A text as a language model over units learns it: the names of its units with spaces between them."""
    names = unit_names(vocabulary)
    return " ".join(names[number] for number in vocabulary.encode(text))


# --- from a config ---


def vocabulary(args: Mapping[str, Any], where: str) -> Vocabulary:
    """One of {characters: ALPHABET}, {pieces: FILE} and {lexicon: FILE}, with `case` and `unknown` if they differ.

    Raises UserError that says what is wrong, for config keys below `where`.
    """
    known = (*KINDS, "case", "unknown")
    for key in args:
        if key not in known:
            raise UserError(
                f"unknown key {key!r}{did_you_mean(key, known)}", where=where, fix=f"Known are {', '.join(known)}."
            )
    kinds = [kind for kind in KINDS if kind in args]
    if len(kinds) != 1:
        what = f"has {' and '.join(kinds)}" if kinds else "does not say which units the text is made of"
        fix = 'Give one of characters: "abc\' ", pieces: MODEL_FILE and lexicon: FILE.'
        raise UserError(what, where=where, fix=fix)
    case = _one_of(args, "case", ("keep", "lower", "upper"), where)
    unknown = _one_of(args, "unknown", ("raise", "drop"), where)
    (kind,), value = kinds, args[kinds[0]]
    if not isinstance(value, str | Path) or not str(value):
        raise UserError(f"is text (got {value!r})", where=f"{where}.{kind}", fix="Put it in quotes.")
    make: Any = {"characters": Characters, "pieces": Pieces, "lexicon": Phonemes}[kind]
    try:
        return cast(Vocabulary, make(value, case=case, unknown=unknown))
    except OSError as error:
        fix = "`distdl pieces` learns them from texts." if kind == "pieces" else "A line of it is: word P1 P2."
        raise UserError(f"{value}: {error.strerror}", where=f"{where}.{kind}", fix=fix) from None
    except UnicodeDecodeError:
        raise UserError(
            f"{value} is not text in UTF-8", where=f"{where}.{kind}", fix="`iconv -t UTF-8` makes it so."
        ) from None
    except ValueError as error:
        what = str(error) if kind == "characters" else f"{value}: {error}"
        raise UserError(what, where=f"{where}.{kind}", fix="Correct it, or name another.") from None


def _one_of(args: Mapping[str, Any], key: str, choices: Sequence[str], where: str) -> str:
    value = args.get(key, choices[0])
    if value not in choices:
        near = did_you_mean(str(value), choices)
        raise UserError(
            f"{value!r} is none of them{near}", where=f"{where}.{key}", fix=f"It is one of {', '.join(choices)}."
        )
    return cast(str, value)


def _in_case(text: str, case: Case) -> str:
    """NFC, so that a letter with an accent is one character, however it was typed (Unicode annex 15)."""
    text = unicodedata.normalize("NFC", text)
    return text.lower() if case == "lower" else text.upper() if case == "upper" else text


def _sentencepiece() -> ModuleType:
    try:
        import sentencepiece
    except ImportError as error:
        fix = "pip install 'distdl[audio]'"
        raise UserError("pieces need the package sentencepiece", fix=fix) from error
    return cast(ModuleType, sentencepiece)
