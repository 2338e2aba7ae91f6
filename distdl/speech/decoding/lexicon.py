"""The words that may be said, and the units that they are made of, as a tree: words that begin alike share nodes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from distdl.errors import UserError
from distdl.speech.text import BLANK, Vocabulary, read_lexicon

ROOT = 0


class Lexicon:
    """Node n is reached by `unit_of[n]`, goes on to `children[n]` (unit -> node), and ends the words `words_at[n]`.

    Several words may have the same units, and a word several ways of saying it. `separator` is the unit that stands
    between two words, None where there is none.
    """

    def __init__(self, spoken: Mapping[str, Iterable[Sequence[int]]], separator: int | None = None) -> None:
        """Raises ValueError for a word without units."""
        self.unit_of, self.separator = [BLANK], separator
        self.children: list[dict[int, int]] = [{}]
        self.words_at: list[list[str]] = [[]]
        self.parents = [ROOT]
        for word, ways in spoken.items():
            for units in ways:
                if not units:
                    raise ValueError(f"the word {word!r} has no units")
                self._add(word, units)

    def _add(self, word: str, units: Sequence[int]) -> None:
        node = ROOT
        for unit in units:
            if unit not in self.children[node]:
                self.children[node][unit] = len(self.unit_of)
                self.parents.append(node)
                self.unit_of.append(unit)
                self.children.append({})
                self.words_at.append([])
            node = self.children[node][unit]
        if word not in self.words_at[node]:
            self.words_at[node].append(word)

    def __len__(self) -> int:
        return sum(map(len, self.words_at))

    def units_to(self, node: int) -> list[int]:
        units = []
        while node != ROOT:
            units.append(self.unit_of[node])
            node = self.parents[node]
        return units[::-1]


def spelled(words: Iterable[str], vocabulary: Vocabulary) -> Lexicon:
    """Of the words as the vocabulary spells them. Raises ValueError for one that it can't."""
    separator = vocabulary.units.index(" ") if " " in vocabulary.units else None
    spoken: dict[str, list[list[int]]] = {}
    for word in words:
        normal = vocabulary.normal(word)
        if len(normal.split()) != 1:
            raise ValueError(f"{word!r} is not one word")
        spoken[normal] = [vocabulary.encode(normal)]
    return Lexicon(spoken, separator)


def pronounced(path: str | Path, vocabulary: Vocabulary) -> Lexicon:
    """Of a pronunciation lexicon, with all ways of saying each word. Raises UserError for what is not in it."""
    class_of = {unit: number for number, unit in enumerate(vocabulary.units)}
    try:
        ways = read_lexicon(path)
        return Lexicon({word: [[class_of[each] for each in one] for one in some] for word, some in ways.items()})
    except KeyError as error:
        what = f"the phoneme {error.args[0]!r} is not in the vocabulary"
        raise UserError(what, where=str(path), fix="Make the vocabulary of this lexicon.") from None
    except OSError as error:
        raise UserError(f"{error.strerror}", where=str(path), fix="A line of it is: word P1 P2.") from None
    except ValueError as error:
        raise UserError(str(error), where=str(path), fix="A line of it is: word P1 P2.") from None
