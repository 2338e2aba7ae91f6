"""What a language model adds to a hypothesis, remembered by state and word: alpha ln p(word | state) + beta."""

import math
from collections.abc import Hashable

from distdl.speech.decoding.ngram import UNKNOWN, LanguageModel

LN_10 = math.log(10)
_MOST_REMEMBERED = 1 << 20


class Scores:
    """Models give log10, decoders add ln. `unknown_word` is added for each word that the model does not know."""

    def __init__(self, lm: LanguageModel, alpha: float, beta: float, unknown_word: float) -> None:
        self._lm, self._weight, self._beta, self._unknown_word = lm, alpha * LN_10, beta, unknown_word
        self._remembered: dict[tuple[Hashable, str], tuple[float, Hashable]] = {}
        self.start = lm.start()

    def __call__(self, state: Hashable, word: str) -> tuple[float, Hashable]:
        found = self._remembered.get((state, word))
        if found is None:
            log10, after = self._lm.score(state, word)
            unknown = 0.0 if word in self._lm else self._unknown_word
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            found = self._remembered[state, word] = self._weight * log10 + self._beta + unknown, after
        return found

    def alone(self, word: str) -> float:
        """What a word may bring whatever is before it."""
        unknown = 0.0 if word in self._lm and word != UNKNOWN else self._unknown_word
        return self._weight * self._lm.unigram(word) + self._beta + unknown

    def end(self, state: Hashable) -> float:
        return self._weight * self._lm.end(state)
