"""Backoff n-gram models (Katz 1987): the probability of a word after those before it, as log10, as in ARPA files.

p(w | h) is the model's own where it has seen h w, else backoff(h) p(w | h without its first word). A state is the
longest end of the history that the model knows: two hypotheses with the same state have the same future.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Protocol

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -100.0  # log10 of what a model without <unk> gives to unknown words, as kenlm has it

Gram = tuple[str, ...]


class LanguageModel(Protocol):
    """What a decoder needs. All scores are log10 of probabilities; states can be compared and looked up."""

    order: int

    def start(self) -> Hashable:
        """The state at the beginning of a sentence, after <s>."""

    def score(self, state: Any, word: str) -> tuple[float, Hashable]:
        """log10 p(word | state), and the state after the word. A word that is not known counts as <unk>."""

    def end(self, state: Any) -> float:
        """log10 p(</s> | state)."""

    def unigram(self, word: str) -> float:
        """log10 p(word), whatever is before it."""

    def __contains__(self, word: str) -> bool:
        """Whether the word is known."""

    @property
    def words(self) -> list[str] | None:
        """All that can come next, or None where the model can't tell."""


class NGram:
    """`probabilities` and `backoffs` are log10, by n-gram; a backoff that is missing is 0."""

    def __init__(self, order: int, probabilities: dict[Gram, float], backoffs: dict[Gram, float]) -> None:
        self.order, self.probabilities, self.backoffs = order, probabilities, backoffs

    @property
    def words(self) -> list[str]:
        """All that can come next: what is known, </s> and <unk>, without <s>."""
        return sorted(gram[0] for gram in self.probabilities if len(gram) == 1 and gram != (BEGIN,))

    def __contains__(self, word: str) -> bool:
        return (word,) in self.probabilities

    def start(self) -> Gram:
        return (BEGIN,) if self.order > 1 else ()

    def score(self, state: Gram, word: str) -> tuple[float, Gram]:
        if (word,) not in self.probabilities:
            word = UNKNOWN
        return self._log10(state, word), self._known_end((*state, word))

    def unigram(self, word: str) -> float:
        return self._log10((), word if (word,) in self.probabilities else UNKNOWN)

    def end(self, state: Gram) -> float:
        return self._log10(state, END)

    def sentence(self, words: Sequence[str] | str) -> float:
        """log10 of a whole sentence's probability, with <s> before it and </s> after it."""
        state, total = self.start(), 0.0
        for word in words.split() if isinstance(words, str) else words:
            score, state = self.score(state, word)
            total += score
        return total + self.end(state)

    def _log10(self, history: Gram, word: str) -> float:
        backed_off = 0.0
        while True:
            found = self.probabilities.get((*history, word))
            if found is not None:
                return backed_off + found
            if not history:
                return backed_off + NEVER
            backed_off += self.backoffs.get(history, 0.0)
            history = history[1:]

    def _known_end(self, history: Gram) -> Gram:
        history = history[max(0, len(history) - self.order + 1) :]
        while history and history not in self.probabilities:
            history = history[1:]
        return history


def perplexity(model: LanguageModel, sentences: Iterable[str]) -> float:
    """10 ** -(mean log10 of a word), with a </s> to each sentence. Raises ValueError where there are none."""
    total, n_words = 0.0, 0
    for sentence in sentences:
        state = model.start()
        for word in sentence.split():
            score, state = model.score(state, word)
            total += score
        total += model.end(state)
        n_words += len(sentence.split()) + 1
    if not n_words:
        raise ValueError("there are no sentences")
    return float(10 ** (-total / n_words))
