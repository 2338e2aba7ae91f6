"""Beam search for sequences of permitted words: tokens move through the lexicon's tree, frame by frame.

What may be said is the composition of three machines (Mohri, Pereira and Riley 2002): CTC's of units and blanks, the
tree of words, and the n-gram model. A token is at a node of the tree, in a state of the model (Young, Russell and
Thornton 1989); where two meet there, the better goes on, since their future is the same: this finds the best path, not
the sum over paths that prefix beam search finds. A word is charged when it ends; until then its token is ranked by the
best word that its node leads to.
"""

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from distdl.speech.decoding.forced_alignment import align
from distdl.speech.decoding.hypotheses import Floats, Hypothesis, Word, checked
from distdl.speech.decoding.lexicon import ROOT, Lexicon
from distdl.speech.decoding.ngram import LanguageModel
from distdl.speech.decoding.scores import Scores
from distdl.speech.text import BLANK, Vocabulary

_NEVER = -np.inf
_BETWEEN = -1  # the node of the unit between two words


class _Said(NamedTuple):
    """The words of a token: the last one, and those before it."""

    before: "_Said | None"
    word: str
    node: int


class _Token(NamedTuple):
    """ln of the best path that ends in a blank, and in the node's unit, with the words that each has said."""

    blank: float
    spoken: float
    of_blank: _Said | None
    of_spoken: _Said | None

    @property
    def best(self) -> float:
        return max(self.blank, self.spoken)

    @property
    def said(self) -> _Said | None:
        return self.of_blank if self.blank >= self.spoken else self.of_spoken


_NOTHING = _Token(_NEVER, _NEVER, None, None)
_Place = tuple[int, Hashable]  # node and state of the language model


class LexiconSearch:
    """A decoder for many sounds. Thresholds and weights are those of `PrefixBeam`; without a model they don't matter.

    The text is words of the lexicon, with one separator between two of them where the lexicon has one.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        lexicon: Lexicon,
        *,
        beam: int = 100,
        lm: LanguageModel | None = None,
        alpha: float = 0.5,
        beta: float = 1.0,
        n_best: int = 1,
        token_threshold: float = -5.0,
        beam_threshold: float = 10.0,
        unknown_word: float = 0.0,
    ) -> None:
        """Raises ValueError for a beam or an n_best below 1, and a lexicon without words."""
        if beam < 1 or n_best < 1:
            raise ValueError(f"beam and n_best are 1 or more (got {beam} and {n_best})")
        if not len(lexicon):
            raise ValueError("there are no words in the lexicon")
        self._vocabulary, self._lexicon, self._beam, self._n_best = vocabulary, lexicon, beam, n_best
        self._token_threshold, self._beam_threshold = token_threshold, beam_threshold
        self._scores = Scores(lm, alpha, beta, unknown_word) if lm else None
        self._expected = self._expectations()

    def _expectations(self) -> list[float]:
        """By node: the most that a word which goes through it may bring. The last entry is that of _BETWEEN."""
        n_nodes = len(self._lexicon.unit_of)
        if not self._scores:
            return [0.0] * (n_nodes + 1)
        expected = [_NEVER] * n_nodes
        for node in range(n_nodes - 1, ROOT, -1):  # children come after their parents
            own = [self._scores.alone(word) for word in self._lexicon.words_at[node]]
            expected[node] = max([expected[node], *own])
            parent = self._lexicon.parents[node]
            expected[parent] = max(expected[parent], expected[node])
        expected[ROOT] = 0.0
        return [*expected, 0.0]

    def __call__(self, log_probs_TC: Any) -> list[Hypothesis]:
        """Up to `n_best` texts that end in different states, the best first; confidence is the share among them all.

        Where no permitted text is left in the beam, its best words without the unfinished last one.
        Raises ValueError as `PrefixBeam` does.
        """
        logs_TC = checked(log_probs_TC, "TC")
        if logs_TC.shape[1] != len(self._vocabulary):
            raise ValueError(f"log_probs have {logs_TC.shape[1]} classes, and the vocabulary {len(self._vocabulary)}")
        start = self._scores.start if self._scores else None
        tokens: dict[_Place, _Token] = {(ROOT, start): _Token(0.0, _NEVER, None, None)}
        for logs_C in logs_TC:
            tokens = self._pruned(self._moved(tokens, logs_C))
        if not tokens:
            raise ValueError("log_probs give every text a probability of 0")
        found = self._finished(tokens)
        scores = np.array([score for score, _ in found])
        shares = np.exp(scores - np.logaddexp.reduce(scores))
        return [
            self._hypothesis(logs_TC, said, score, float(share))
            for (score, said), share in zip(found[: self._n_best], shares)
        ]

    def _moved(self, tokens: dict[_Place, _Token], logs_C: Floats) -> dict[_Place, _Token]:
        """All tokens after one more frame."""
        lexicon, moved = self._lexicon, dict[_Place, _Token]()
        taken = logs_C > self._token_threshold
        taken[logs_C.argmax()] = True
        logs = logs_C.tolist()
        units = [unit for unit in np.flatnonzero(taken).tolist() if unit != BLANK]
        firsts = [(unit, node) for unit in units if (node := lexicon.children[ROOT].get(unit)) is not None]
        for (node, state), token in tokens.items():
            unit = self._unit(node)
            best, said = token.best, token.said
            stays_spoken = token.spoken + logs[unit] if unit != BLANK else _NEVER
            stays = _Token(best + logs[BLANK], stays_spoken, said, token.of_spoken)
            there = moved.get((node, state))
            moved[node, state] = stays if there is None else _better(there, stays)
            goes_on = lexicon.children[max(node, ROOT)]
            for each in units:
                after = goes_on.get(each)
                if after is not None:
                    self._enter(moved, (after, state), token, each == unit, logs[each], token.of_blank, said)
            if node <= ROOT or not lexicon.words_at[node]:
                continue
            separator = lexicon.separator
            if separator is not None and not taken[separator]:
                continue
            for word in lexicon.words_at[node]:
                gain, new_state = self._scores(state, word) if self._scores else (0.0, None)
                of_blank, of_best = _Said(token.of_blank, word, node), _Said(said, word, node)
                begun = firsts if separator is None else [(separator, _BETWEEN)]
                for each, after in begun:
                    self._enter(moved, (after, new_state), token, each == unit, logs[each] + gain, of_blank, of_best)
        return moved

    def _unit(self, node: int) -> int:
        separator = self._lexicon.separator
        return separator if node == _BETWEEN and separator is not None else self._lexicon.unit_of[node]

    @staticmethod
    def _enter(
        moved: dict[_Place, _Token],
        place: _Place,
        token: _Token,
        is_repeat: bool,
        added: float,
        of_blank: _Said | None,
        of_best: _Said | None,
    ) -> None:
        """A unit that repeats the one before it is a new one only after a blank."""
        score, said = (token.blank, of_blank) if is_repeat else (token.best, of_best)
        there = moved.get(place, _NOTHING)
        if score + added > there.spoken:
            moved[place] = _Token(there.blank, score + added, there.of_blank, said)

    def _pruned(self, tokens: dict[_Place, _Token]) -> dict[_Place, _Token]:
        ranked = [(token.best + self._expected[place[0]], place) for place, token in tokens.items()]
        least = max(rank for rank, _ in ranked) - self._beam_threshold
        kept = [each for each in ranked if each[0] > least]
        if len(kept) > self._beam:
            kept = sorted(kept, key=lambda each: -each[0])[: self._beam]
        return {place: tokens[place] for _, place in kept}

    def _finished(self, tokens: dict[_Place, _Token]) -> list[tuple[float, _Said | None]]:
        """The best first, each text once."""
        found: dict[tuple[str, ...], tuple[float, _Said | None]] = {}

        def add(score: float, state: Hashable, said: _Said | None) -> None:
            score += self._scores.end(state) if self._scores else 0.0
            text = tuple(word for word, _ in _words(said))
            if score > found.get(text, (_NEVER, None))[0]:
                found[text] = score, said

        for (node, state), token in tokens.items():
            if node == ROOT:
                add(token.best, state, token.said)
            elif node != _BETWEEN:
                for word in self._lexicon.words_at[node]:
                    gain, after = self._scores(state, word) if self._scores else (0.0, None)
                    add(token.best + gain, after, _Said(token.said, word, node))
        if not found:
            for (_, state), token in tokens.items():
                add(token.best, state, token.said)
        return sorted(found.values(), key=lambda each: -each[0])

    def _hypothesis(self, logs_TC: Floats, said: _Said | None, score: float, share: float) -> Hypothesis:
        words = _words(said)
        units: list[int] = []
        ends: list[tuple[int, int]] = []  # of each word, the places of its first unit and after its last
        for _, node in words:
            if units and self._lexicon.separator is not None:
                units.append(self._lexicon.separator)
            of_word = self._lexicon.units_to(node)
            ends.append((len(units), len(units) + len(of_word)))
            units += of_word
        path = align(logs_TC, units)
        timed = [
            Word(
                text=word,
                first_frame=path.frames[first][0],
                last_frame=path.frames[after - 1][1],
                confidence=float(np.exp(np.mean(np.log(np.maximum(path.confidences[first:after], 1e-300))))),
            )
            for (word, _), (first, after) in zip(words, ends)
        ]
        text = " ".join(word for word, _ in words)
        return Hypothesis(text=text, units=units, score=score, confidence=share, words=timed)


def _better(one: _Token, other: _Token) -> _Token:
    """The better of both ways to end."""
    blank = one if one.blank >= other.blank else other
    spoken = one if one.spoken >= other.spoken else other
    return _Token(blank.blank, spoken.spoken, blank.of_blank, spoken.of_spoken)


def _words(said: _Said | None) -> list[tuple[str, int]]:
    found = []
    while said:
        found.append((said.word, said.node))
        said = said.before
    return found[::-1]
