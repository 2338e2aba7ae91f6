"""Language models learned from texts: interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999, section 5).

    p(w | h) = (a(hw) - D(a(hw))) / sum_v a(hv) + gamma(h) p(w | h without its first word)

a is the count at the highest order, and below it the number of different words seen before hw (their "continuation
counts", equation 20); an n-gram that begins with <s> has nothing before it and keeps its count. D1, D2 and D3 for
counts of one, two, and three or more are estimated at each order (equation 26); gamma(h) is the mass that discounting
left over (equation 27). Below the unigrams all of <unk>, </s> and the known words are equally likely, which is where
<unk> has its share from. All is held in memory: this is for transcripts, not for the whole web.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from distdl.errors import UserError
from distdl.speech.decoding.ngram import BEGIN, END, UNKNOWN, Gram, NGram

_CERTAINLY_NOT = -99.0  # log10 p(<s>), by the custom of ARPA files: it is never predicted
_TOO_FEW = (0.5, 1.0, 1.5)  # discounts where the counts of counts can't give any, as KenLM's --discount_fallback


@dataclass(slots=True)
class _Context:
    """What follows a history: the sum of counts, and how many words have each discount."""

    total: int
    n_discounted: list[int]

    def left_over(self, discounts: tuple[float, float, float]) -> float:
        """gamma(h), equation 27."""
        return sum(map(float.__mul__, discounts, map(float, self.n_discounted))) / self.total


def train_language_model(texts: Iterable[str], order: int = 3) -> NGram:
    """A model of the words of `texts`, each of which is a sentence; empty ones don't count.

    Probabilities after each history sum to 1 over `NGram.words`. Raises UserError where there is nothing to learn from.
    """
    if order < 1:
        raise UserError(f"a language model is of order 1 or more (got {order})")
    counts = _adjusted(_counted(texts, order), order)
    discounts = [_discounts(at_order) for at_order in counts]
    contexts = [_contexts(at_order) for at_order in counts]
    (unigrams,) = contexts[0].values()
    # <unk> has the uniform share alone, unless the texts have it as a word.
    left = unigrams.left_over(discounts[0]) / len({*counts[0], (UNKNOWN,)})
    probabilities: dict[Gram, float] = {(UNKNOWN,): left}
    for gram, count in counts[0].items():
        probabilities[gram] = (count - _discount(count, discounts[0])) / unigrams.total + left
    backoffs: dict[Gram, float] = {}
    for at_order, discount, of_context in zip(counts[1:], discounts[1:], contexts[1:], strict=True):
        left_over = {history: context.left_over(discount) for history, context in of_context.items()}
        backoffs |= left_over
        for gram, count in at_order.items():
            history = gram[:-1]
            own = (count - _discount(count, discount)) / of_context[history].total
            probabilities[gram] = own + left_over[history] * probabilities[gram[1:]]
    return NGram(
        order,
        {(BEGIN,): _CERTAINLY_NOT} | {gram: math.log10(p) for gram, p in probabilities.items()},
        {history: math.log10(left) for history, left in backoffs.items()},
    )


def _counted(texts: Iterable[str], order: int) -> Counter[Gram]:
    """The n-grams of the highest order; of what is shorter, those that begin a sentence."""
    counts: Counter[Gram] = Counter()
    for text in texts:
        words = text.split()
        if not words:
            continue
        if not {BEGIN, END}.isdisjoint(words):
            raise UserError(
                f"the text {text[:60]!r} has {BEGIN} or {END} as a word", fix="Take them out: they are added."
            )
        sentence = (BEGIN, *words, END)
        if order == 1:
            counts.update((word,) for word in sentence[1:])
            continue
        counts.update(sentence[at : at + order] for at in range(len(sentence) - order + 1))
        counts.update(sentence[:length] for length in range(2, min(order, len(sentence) + 1)))
    if not counts:
        raise UserError("there are no words in the texts", fix="Give a file with a sentence a line.")
    return counts


def _adjusted(counts: Counter[Gram], order: int) -> list[dict[Gram, int]]:
    """By order: 1, 2, ... The highest has its counts, the others how many different words stand before them."""
    by_order: list[dict[Gram, int]] = [{} for _ in range(order)]
    for gram, count in counts.items():
        by_order[len(gram) - 1][gram] = count
    for shorter, longer in zip(by_order[-2::-1], by_order[:0:-1], strict=True):
        for gram in longer:
            shorter[gram[1:]] = shorter.get(gram[1:], 0) + 1
    return by_order


def _discounts(counts: dict[Gram, int]) -> tuple[float, float, float]:
    """D1, D2 and D3+ of an order, equation 26."""
    having = Counter(count for count in counts.values() if count <= 4)
    if not all(having[count] for count in (1, 2, 3)):
        return _TOO_FEW
    y = having[1] / (having[1] + 2 * having[2])
    one, two, three = (count - (count + 1) * y * having[count + 1] / having[count] for count in (1, 2, 3))
    return (one, two, three) if 0 < one < 1 and 0 < two < 2 and 0 < three < 3 else _TOO_FEW


def _discount(count: int, discounts: tuple[float, float, float]) -> float:
    return discounts[min(count, 3) - 1]


def _contexts(counts: dict[Gram, int]) -> dict[Gram, _Context]:
    found: defaultdict[Gram, _Context] = defaultdict(lambda: _Context(0, [0, 0, 0]))
    for gram, count in counts.items():
        context = found[gram[:-1]]
        context.total += count
        context.n_discounted[min(count, 3) - 1] += 1
    return found
