"""Prefix beam search: the most probable texts under a CTC network and a language model (Graves and Jaitly 2014,
algorithm 1; Hannun et al. 2014).

    ln p(text | sound) + alpha ln p_LM(text) + beta (number of words)

A prefix is a sequence of units; all paths that spell it are added up, those that end in a blank apart from the others.
Each frame, every prefix of the beam stays as it is or grows by one unit, and the best `beam` go on. The beam is held in
arrays, and what a frame does to it is a few operations on them; only new prefixes are looked at one by one. A language
model of words scores a word when the next one begins, and the last one, with </s>, at the end; one of units
(`lm_over="units"`) scores each unit as it is added.
"""

from collections.abc import Hashable, Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from distdl.speech.decoding.forced_alignment import align_batch
from distdl.speech.decoding.hypotheses import Floats, Hypothesis, checked, text_of, words_of
from distdl.speech.decoding.look_ahead import LookAhead
from distdl.speech.decoding.ngram import BEGIN, END, UNKNOWN, LanguageModel
from distdl.speech.decoding.scores import Scores
from distdl.speech.text import BLANK, Vocabulary, unit_names

Whole = npt.NDArray[np.int64]


def decode(
    log_probs_TC: Any,
    vocabulary: Vocabulary,
    beam: int = 100,
    lm: LanguageModel | None = None,
    alpha: float = 0.5,
    beta: float = 1.0,
    n_best: int = 1,
) -> list[Hypothesis]:
    """As `PrefixBeam`, for one sound."""
    return PrefixBeam(vocabulary, beam=beam, lm=lm, alpha=alpha, beta=beta, n_best=n_best)(log_probs_TC)


class PrefixBeam:
    """A decoder for many sounds: what the language model has said is remembered from one to the next.

    `token_threshold`: units whose natural log-probability in a frame is not above it are passed over there, but for the
    best one. `beam_threshold`: prefixes that are so much (in ln) worse than the best are given up. `unknown_word` is
    added (in ln) for each word that the language model does not know. For an exact search both thresholds are infinite,
    and the beam is as wide as there are prefixes. `words` are those that the model knows, where it can't tell itself
    (kenlm's binary files): with them, words are ranked before they end (see look_ahead.py).
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        beam: int = 100,
        lm: LanguageModel | None = None,
        alpha: float = 0.5,
        beta: float = 1.0,
        n_best: int = 1,
        lm_over: Literal["words", "units"] = "words",
        token_threshold: float = -5.0,
        beam_threshold: float = 10.0,
        unknown_word: float = 0.0,
        words: Iterable[str] | None = None,
    ) -> None:
        """Raises ValueError for a beam or an n_best below 1, and a language model of other words or units."""
        if beam < 1 or n_best < 1:
            raise ValueError(f"beam and n_best are 1 or more (got {beam} and {n_best})")
        self._vocabulary, self._beam, self._n_best = vocabulary, beam, n_best
        self._token_threshold, self._beam_threshold = token_threshold, beam_threshold
        self._scores = Scores(lm, alpha, beta, unknown_word) if lm else None
        self._over_units = lm_over == "units"
        words = words if words is not None or not lm else lm.words
        self._look_ahead: LookAhead | None = None
        if self._scores and words is not None and not self._over_units:
            known = set(words) - {BEGIN, END, UNKNOWN}
            letters = set("".join(vocabulary.spelling))
            if known and not any(letters.issuperset(word) for word in known):
                raise ValueError("the vocabulary can spell no word of the language model")
            self._look_ahead = LookAhead(vocabulary, known, self._scores.alone, self._scores.alone(UNKNOWN))
        self._names = unit_names(vocabulary)
        if lm and self._over_units and not any(name in lm for name in self._names[1:]):
            raise ValueError("the language model knows none of the vocabulary's units")
        self._begins_word = np.array(vocabulary.begins_word)

    def __call__(self, log_probs_TC: Any) -> list[Hypothesis]:
        """The `n_best` texts, or as many as there are, the best first.

        `score` is the sum above. The confidence of a hypothesis is its share of all that is in the beam at the end.
        Frames and confidences of its words are those of the best path that spells it.
        Raises ValueError for NaN, for another number of classes than the vocabulary's, and where nothing is possible.
        """
        logs_TC = checked(log_probs_TC, "TC")
        if logs_TC.shape[1] != len(self._vocabulary):
            raise ValueError(f"log_probs have {logs_TC.shape[1]} classes, and the vocabulary {len(self._vocabulary)}")
        prefixes = _Prefixes(self._vocabulary, self._scores, self._over_units)
        ids, scores = self._search(logs_TC, prefixes)
        if not len(ids):
            raise ValueError("log_probs give every text a probability of 0")
        shares = np.exp(scores - np.logaddexp.reduce(scores))
        best = np.argsort(-scores, kind="stable")[: self._n_best]
        units = [prefixes.spelled(int(ids[each])) for each in best]
        aligned = align_batch(np.broadcast_to(logs_TC, (len(best), *logs_TC.shape)), [len(logs_TC)] * len(best), units)
        return [
            Hypothesis(
                text=text_of(self._vocabulary, path.units),
                units=path.units,
                score=float(scores[each]),
                confidence=float(shares[each]),
                words=words_of(self._vocabulary, path.units, path.frames, path.confidences),
            )
            for each, path in zip(best, aligned)
        ]

    def _search(self, logs_TC: Floats, prefixes: "_Prefixes") -> tuple[Whole, Floats]:
        """Prefixes of the last beam and their scores, with what the language model says at the end.

        Arrays with a value for each prefix of the beam: its number, its parent's, its last unit, ln p of the paths that
        end in a blank (`blank`), in its last unit (`spoken`), and in either, the language model's share (`shared`), and
        its place in the word that it spells (`places`), which says what is expected of that word.
        """
        look_ahead = self._look_ahead
        places = np.zeros(1, np.int64)
        ids, parents, lasts = np.zeros(1, np.int64), np.full(1, -1), np.zeros(1, np.int64)
        blank, spoken, shared = np.zeros(1), np.full(1, -np.inf), np.zeros(1)
        either = blank
        column_of = np.full(logs_TC.shape[1], -1)  # a unit's place among those of the frame
        row_of = np.zeros(1024, np.int64)  # a prefix's row in the beam, where it is in it
        for logs_C, units in zip(logs_TC, self._units_by_frame(logs_TC)):
            stays_blank, stays_spoken = either + logs_C[BLANK], spoken + logs_C[lasts]
            if not len(units):  # nothing new, and so nothing to give up
                blank, spoken = stays_blank, stays_spoken
                either = np.logaddexp(blank, spoken)
                continue
            grown = either[:, None] + logs_C[units]
            # A unit that is repeated is a new one only after a blank.
            column_of[units] = np.arange(len(units))
            columns = column_of[lasts]
            (rows,) = np.nonzero(columns >= 0)
            grown[rows, columns[rows]] = blank[rows] + logs_C[lasts[rows]]
            # What grows into a prefix that is in the beam already adds to it.
            row_of[ids] = np.arange(len(ids))
            above = np.minimum(row_of[parents[rows]], len(ids) - 1)
            is_there = ids[above] == parents[rows]
            rows, above = rows[is_there], above[is_there]
            stays_spoken[rows] = np.logaddexp(stays_spoken[rows], grown[above, columns[rows]])
            grown[above, columns[rows]] = -np.inf
            column_of[units] = -1
            gain = self._gain(prefixes, ids, units)
            stays = np.logaddexp(stays_blank, stays_spoken)
            ranked, ranked_grown = stays + shared, grown + shared[:, None]
            if gain is not None:
                ranked_grown += gain
            if look_ahead:
                grown_places = look_ahead.grow(places, units)
                ranked += look_ahead.values[places]
                ranked_grown += look_ahead.values[grown_places]
            kept = self._best(np.concatenate([ranked, ranked_grown.ravel()]))
            if not len(kept):
                return ids[:0], blank[:0]
            old, new = kept[kept < len(ids)], kept[kept >= len(ids)] - len(ids)
            rows, columns = np.divmod(new, len(units))
            added = prefixes.grow(ids[rows], units[columns])
            parents = np.concatenate([parents[old], ids[rows]])
            ids = np.concatenate([ids[old], added])
            lasts = np.concatenate([lasts[old], units[columns]])
            blank = np.concatenate([stays_blank[old], np.full(len(new), -np.inf)])
            spoken = np.concatenate([stays_spoken[old], grown.ravel()[new]])
            either = np.concatenate([stays[old], grown.ravel()[new]])
            gained = 0.0 if gain is None else gain[rows, columns]
            shared = np.concatenate([shared[old], shared[rows] + gained])
            if look_ahead:
                places = np.concatenate([places[old], grown_places.ravel()[new]])
            if len(prefixes.units) > len(row_of):
                row_of = np.zeros(2 * len(prefixes.units), np.int64)
        scores = either + shared + self._at_end(prefixes, ids)
        possible = scores > -np.inf
        return ids[possible], scores[possible]

    def _units_by_frame(self, logs_TC: Floats) -> list[Whole]:
        """Of each frame, the units that are probable enough, without the blank."""
        taken = logs_TC > self._token_threshold
        if len(taken):
            taken[np.arange(len(taken)), logs_TC.argmax(1)] = True
        taken[:, BLANK] = False
        frames, units = np.nonzero(taken & (logs_TC > -np.inf))
        return np.split(units, np.searchsorted(frames, np.arange(1, len(logs_TC)))) if len(logs_TC) else []

    def _best(self, scores: Floats) -> Whole:
        (kept,) = np.nonzero(scores > scores.max() - self._beam_threshold)
        if len(kept) > self._beam:
            kept = kept[np.argpartition(scores[kept], -self._beam)[-self._beam :]]
        return kept

    def _gain(self, prefixes: "_Prefixes", ids: Whole, units: Whole) -> Floats | None:
        """What the language model adds where a prefix grows by a unit, (prefixes, units); None for nothing."""
        if not self._scores:
            return None
        if self._over_units:
            states, names = [prefixes.states[each] for each in ids], [self._names[unit] for unit in units]
            return np.array([[self._scores(state, name)[0] for name in names] for state in states])
        begins = self._begins_word[units]
        if not begins.any():
            return None
        return np.array([prefixes.closed(each)[0] for each in ids.tolist()])[:, None] * begins

    def _at_end(self, prefixes: "_Prefixes", ids: Whole) -> Any:
        if not self._scores:
            return 0.0
        return np.array([prefixes.ended(each) for each in ids.tolist()])


class _Prefixes:
    """All prefixes that were ever in the beam, as a tree. Number 0 is the empty one."""

    def __init__(self, vocabulary: Vocabulary, scores: Scores | None, over_units: bool) -> None:
        self.parents, self.units = [-1], [BLANK]
        self.states: list[Hashable] = [scores.start if scores else None]  # after each prefix, of a model of units
        self._children: dict[tuple[int, int], int] = {}
        self._closed: dict[int, tuple[float, Hashable]] = {}
        self._vocabulary, self._scores = vocabulary, scores
        self._of_units = scores if over_units else None
        self._names = unit_names(vocabulary)

    def grow(self, ids: Whole, units: Whole) -> Whole:
        """The numbers of the prefixes that grow out of these by a unit each."""
        found = []
        for pair in zip(ids.tolist(), units.tolist()):
            number = self._children.get(pair)
            if number is None:
                number = self._children[pair] = len(self.units)
                parent, unit = pair
                self.parents.append(parent)
                self.units.append(unit)
                if self._of_units:
                    self.states.append(self._of_units(self.states[parent], self._names[unit])[1])
            found.append(number)
        return np.array(found, np.int64)

    def closed(self, number: int) -> tuple[float, Hashable]:
        """What a language model of words adds where the prefix's last word ends, and its state after it."""
        found = self._closed.get(number)
        if found is None:
            word, before = self._last_word(number)
            state = self.states[0] if before < 0 else self.closed(before)[1]
            found = self._scores(state, word) if self._scores and word else (0.0, state)
            self._closed[number] = found
        return found

    def _last_word(self, number: int) -> tuple[str, int]:
        """And the prefix before it, -1 where nothing is."""
        letters = ""
        while number:
            unit, number = self.units[number], self.parents[number]
            letters = self._vocabulary.spelling[unit] + letters
            if self._vocabulary.begins_word[unit]:
                return letters, number
        return letters, -1

    def ended(self, number: int) -> float:
        """What it adds where the text ends here."""
        if not self._scores:
            return 0.0
        gain, state = (0.0, self.states[number]) if self._of_units else self.closed(number)
        return gain + self._scores.end(state)

    def spelled(self, number: int) -> list[int]:
        units = []
        while number:
            units.append(self.units[number])
            number = self.parents[number]
        return units[::-1]
