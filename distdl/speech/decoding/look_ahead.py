"""What a language model of words can say of a word that is only begun (Ortmanns, Ney and Eiden 1996).

A prefix of the beam that has spelled "th" will be charged for its word when the word ends. Until then it is ranked by
the best that it may become: the most probable, as a unigram, of the known words that begin with "th". Letters with
which no known word begins are an unknown word already, and very many of them are several: else a text without spaces
would outlive those that pay for each word. The estimate is taken back when the word is scored, so that it changes what
survives in the beam and no score.
"""

from collections.abc import Callable, Collection

import numpy as np
import numpy.typing as npt

from distdl.speech.decoding.hypotheses import Floats
from distdl.speech.text import Vocabulary

BETWEEN = 0  # the place before the first letter of a word; 1 to MOST_OUTSIDE: after so many letters of an unknown one
MOST_OUTSIDE = 63
LONG = (
    1.5  # an unknown word of so many times the usual length is taken for more than one; 1 and 2 have more words wrong
)
_NOT_YET = -1

Whole = npt.NDArray[np.int64]


class LookAhead:
    """Places are beginnings of words, numbered as they are met. `values[place]` is the estimate, in ln."""

    def __init__(
        self, vocabulary: Vocabulary, words: Collection[str], score: Callable[[str], float], unknown: float
    ) -> None:
        """`score` is what a known word may bring, and `unknown` what any other does."""
        self._spelling = vocabulary.spelling
        self._best: dict[str, float] = {}
        for word in words:
            value = score(word)
            for length in range(1, len(word) + 1):
                beginning = word[:length]
                if value > self._best.get(beginning, -np.inf):
                    self._best[beginning] = value
        longest = max(1.0, LONG * sum(map(len, words)) / max(len(words), 1))
        self._letters = ["." * length for length in range(MOST_OUTSIDE + 1)]
        self._place_of = {"": BETWEEN}
        self.values: Floats = unknown * np.maximum(1, np.arange(MOST_OUTSIDE + 1) / longest)
        self.values[BETWEEN] = 0
        # A row of what follows a place, before it is looked up: where a new word begins, the old one doesn't matter.
        self._fresh = np.full(len(vocabulary), _NOT_YET, np.int32)
        self._after = np.empty((0, len(vocabulary)), np.int32)
        for unit in np.flatnonzero(vocabulary.begins_word).tolist():
            self._fresh[unit] = self._step(BETWEEN, unit)

    def grow(self, places: Whole, units: Whole) -> npt.NDArray[np.int32]:
        """The places after each unit, of shape (places, units)."""
        if len(self._after) < len(self.values):
            more = np.repeat(self._fresh[None], len(self.values) - len(self._after), axis=0)
            self._after = np.concatenate([self._after, more])
        after: npt.NDArray[np.int32] = self._after[places[:, None], units]
        missing = after == _NOT_YET
        if missing.any():
            rows, columns = np.nonzero(missing)
            for place, unit in set(zip(places[rows].tolist(), units[columns].tolist())):
                self._after[place, unit] = self._step(place, unit)
            after = self._after[places[:, None], units]
        return after

    def _step(self, place: int, unit: int) -> int:
        letters = self._letters[place] + self._spelling[unit]
        is_known = not letters or (letters in self._best and not BETWEEN < place <= MOST_OUTSIDE)
        return self._known(letters) if is_known else min(len(letters), MOST_OUTSIDE)

    def _known(self, letters: str) -> int:
        found = self._place_of.get(letters)
        if found is None:
            found = self._place_of[letters] = len(self._letters)
            self._letters.append(letters)
            if found >= len(self.values):
                self.values = np.concatenate([self.values, np.zeros_like(self.values)])
            self.values[found] = self._best[letters]
        return found
