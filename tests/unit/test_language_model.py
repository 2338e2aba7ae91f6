"""Language models of words: learned with Kneser-Ney, written and read as ARPA, scored as kenlm scores them."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distdl.errors import UserError
from distdl.speech.decoding.arpa import arpa_words, read_arpa, write_arpa
from distdl.speech.decoding.kenlm_model import KenlmModel, open_language_model
from distdl.speech.decoding.kneser_ney import train_language_model
from distdl.speech.decoding.ngram import NGram, perplexity

TEXTS = ["the cat sat", "the dog sat on the cat", "a cat and a dog", "the cat sat on a mat", "dogs", "the dog"]
WORDS = ["the", "cat", "sat", "on", "a", "dog", "mat", "zebra"]

texts = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=15)


def sums(model, histories):
    for history in histories:
        state = model.start()
        for word in history:
            _, state = model.score(state, word)
        ends = 10 ** model.end(state)
        yield ends + sum(10 ** model.score(state, word)[0] for word in model.words if word != "</s>")


# --- learning ---


@settings(deadline=None)
@given(texts, st.integers(1, 4))
def test_after_every_history_the_probabilities_sum_to_1(learned, order):
    model = train_language_model(learned, order)
    histories = itertools.chain.from_iterable(itertools.product("abz", repeat=length) for length in range(4))

    assert list(sums(model, histories)) == pytest.approx([1] * 40)


def test_a_bigram_model_is_what_the_formula_gives_by_hand():
    model = train_language_model(["a b", "a c"], order=2)

    # Continuation counts a 1, b 1, c 1, </s> 2; D 0.5, 1, 1.5 where counts of counts are 0; 5 words with <unk>.
    left = (3 * 0.5 + 1 * 1.0) / 5
    a, ends = (1 - 0.5) / 5 + left / 5, (2 - 1.0) / 5 + left / 5
    assert 10 ** model.unigram("a") == pytest.approx(a)
    assert 10 ** model.unigram("never seen") == pytest.approx(left / 5)
    # "<s> a" twice: D2 is 1, and 1/2 is left over for the unigrams.
    assert 10 ** model.score(model.start(), "a")[0] == pytest.approx((2 - 1.0) / 2 + 0.5 * a)
    assert 10 ** model.score(("a",), "b")[0] == pytest.approx((1 - 0.5) / 2 + 0.5 * a)
    assert 10 ** model.end(("a",)) == pytest.approx(0.5 * ends)  # never seen: the weight of backing off


def test_discounts_follow_from_the_counts_of_counts():
    # Of single words: 4 once, 3 twice, 2 three times, 1 four times; </s> 20 times.
    counts = {"a": 1, "b": 1, "c": 1, "d": 1, "e": 2, "f": 2, "g": 2, "h": 3, "i": 3, "j": 4}
    model = train_language_model([word for word, n in counts.items() for _ in range(n)], order=1)

    y = 4 / (4 + 2 * 3)
    one, two, three = 1 - 2 * y * 3 / 4, 2 - 3 * y * 2 / 3, 3 - 4 * y * 1 / 2
    left = (4 * one + 3 * two + 4 * three) / 40 / 12
    assert 10 ** model.unigram("a") == pytest.approx((1 - one) / 40 + left)
    assert 10 ** model.unigram("e") == pytest.approx((2 - two) / 40 + left)
    assert 10 ** model.unigram("</s>") == pytest.approx((20 - three) / 40 + left)


def by_definition(learned, order):
    """p(word | history) straight from the formulas, counting anew for each of them."""
    sentences = [("<s>", *text.split(), "</s>") for text in learned]
    vocabulary = {word for sentence in sentences for word in sentence} - {"<s>"} | {"<unk>"}

    def grams(length):
        return [s[at : at + length] for s in sentences for at in range(len(s) - length + 1)]

    def count(gram):
        if len(gram) == order or gram[0] == "<s>":
            return grams(len(gram)).count(gram)
        return len({longer[0] for longer in grams(len(gram) + 1) if longer[1:] == gram})

    def discounts(length):
        counts = [count(gram) for gram in set(grams(length)) if gram != ("<s>",)]
        n = [None, *(counts.count(value) for value in (1, 2, 3, 4))]
        if not (n[1] and n[2] and n[3]):
            return 0.5, 1, 1.5
        y = n[1] / (n[1] + 2 * n[2])
        found = tuple(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
        return found if all(0 < each < k for k, each in enumerate(found, start=1)) else (0.5, 1, 1.5)

    def probability(history, word):
        below = probability(history[1:], word) if history else 1 / len(vocabulary)
        counts = {each: count((*history, each)) for each in vocabulary}
        total = sum(counts.values())
        if not total:
            return below
        taken = {each: discounts(len(history) + 1)[min(n, 3) - 1] for each, n in counts.items() if n}
        return (counts[word] - taken.get(word, 0)) / total + sum(taken.values()) / total * below

    return probability


@settings(deadline=None, max_examples=15)
@given(texts, st.integers(1, 3))
def test_all_probabilities_are_those_of_the_definition(learned, order):
    model, probability = train_language_model(learned, order), by_definition(learned, order)

    for first in ("a", "b", "z"):
        log10, state = model.score(model.start(), first)
        begin = ("<s>",)[: order - 1]
        known = first if first in model else "<unk>"
        assert 10**log10 == pytest.approx(probability(begin, known))
        assert 10 ** model.end(state) == pytest.approx(probability((*begin, known)[-order + 1 :][: order - 1], "</s>"))


def test_what_was_learned_is_expected_more_than_what_was_not():
    model = train_language_model(TEXTS, order=3)

    assert perplexity(model, ["the cat sat"]) < perplexity(model, ["sat cat the"]) < perplexity(model, ["x y z"])


@pytest.mark.parametrize(
    ("learned", "order", "what"),
    [([], 2, "no words"), ([" "], 2, "no words"), (["a </s> b"], 2, "as a word"), (["a"], 0, "order 1 or more")],
)
def test_what_cannot_be_learned_from_is_told(learned, order, what):
    with pytest.raises(UserError, match=what):
        train_language_model(learned, order)


# --- files ---


@pytest.mark.parametrize("name", ["model.arpa", "model.arpa.gz"])
def test_a_model_that_is_written_is_read_again(tmp_path, name):
    model = train_language_model(TEXTS, order=3)
    write_arpa(model, tmp_path / name)

    again = read_arpa(tmp_path / name)

    assert again.order == 3 and again.words == model.words == arpa_words(tmp_path / name)
    assert again.probabilities == pytest.approx(model.probabilities, rel=1e-6)
    assert again.backoffs == pytest.approx(model.backoffs, rel=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == [name]


GOOD = """
\\data\\
ngram 1=3
ngram 2=1

\\1-grams:
-1.0\t<s>\t-0.5
-0.5\ta\t-0.25
-0.3\t</s>

\\2-grams:
-0.2\t<s> a

\\end\\
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("\\data\\\n", "", 14, "has no"),
        ("ngram 1=3\n", "", 3, "ngram 1=... should"),
        ("ngram 2=1\n", "", 10, "should"),
        ("ngram 1=3", "ngram 1=4", 11, "no 1-gram"),
        ("ngram 1=3", "ngram 1=2", 9, "2-grams: should"),
        ("-0.5\ta", "-o.5\ta", 8, "else than a number"),
        ("-0.5\ta", "0.5\ta", 8, "above 1"),
        ("-0.5\ta", "nan\ta", 8, "above 1"),
        ("-0.2\t<s> a", "-0.2\ta", 12, "no 2-gram"),
        ("\\end\\\n", "", 14, "ends where"),
    ],
)
def test_a_file_that_is_wrong_is_told_with_its_line(tmp_path, old, new, line, what):
    path = tmp_path / "wrong.arpa"
    path.write_text(GOOD.replace(old, new))

    with pytest.raises(UserError, match=what) as raised:
        read_arpa(path)

    assert raised.value.where == f"{path}, line {line}"


def test_a_file_that_is_none_is_told(tmp_path):
    (tmp_path / "x.arpa").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(UserError, match="UTF-8"):
        read_arpa(tmp_path / "x.arpa")
    with pytest.raises(UserError, match="No such file"):
        read_arpa(tmp_path / "none.arpa")


# --- scoring ---


def test_what_was_not_seen_backs_off(tmp_path):
    path = tmp_path / "model.arpa"
    path.write_text(GOOD)
    model = read_arpa(path)

    assert model.score(model.start(), "a") == (-0.2, ("a",))
    assert model.end(("a",)) == pytest.approx(-0.25 - 0.3)
    assert model.score(("a",), "b")[0] == pytest.approx(-0.25 - 100)  # it has no <unk>
    assert model.sentence("a") == pytest.approx(-0.2 - 0.25 - 0.3)


def test_states_with_the_same_future_are_the_same():
    model = train_language_model(TEXTS, order=3)

    after = [model.score(state, "zebra")[1] for state in (model.start(), ("the", "cat"), ())]

    assert len(set(after)) == 1


def test_kenlm_reads_what_is_written_and_scores_the_same(tmp_path):
    pytest.importorskip("kenlm")
    model = train_language_model(TEXTS, order=3)
    write_arpa(model, tmp_path / "model.arpa")
    peer = KenlmModel(tmp_path / "model.arpa")

    assert peer.order == 3 and peer.words == model.words
    assert "cat" in peer and "zebra" not in peer
    for words in itertools.product(WORDS, repeat=3):
        state, total = peer.start(), 0.0
        for word in words:
            assert peer.unigram(word) == pytest.approx(model.unigram(word), abs=1e-5)
            score, state = peer.score(state, word)
            total += score
        assert total + peer.end(state) == pytest.approx(model.sentence(words), abs=1e-4)


def test_kenlms_states_can_be_compared_and_looked_up(tmp_path):
    pytest.importorskip("kenlm")
    write_arpa(train_language_model(TEXTS, order=2), tmp_path / "model.arpa")
    peer = KenlmModel(tmp_path / "model.arpa")

    one, other = (peer.score(peer.score(peer.start(), word)[1], "cat")[1] for word in ("a", "the"))

    assert one == other and len({one, other, peer.start()}) == 2


def test_a_model_of_unigrams_is_read_without_kenlm(tmp_path):
    write_arpa(train_language_model(TEXTS, order=1), tmp_path / "model.arpa")

    assert isinstance(open_language_model(tmp_path / "model.arpa"), NGram)


def test_a_binary_file_that_is_none_is_told(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x" * 200)

    with pytest.raises(UserError, match="kenlm"):
        open_language_model(tmp_path / "model.bin")


def test_the_perplexity_counts_the_end_of_each_sentence():
    model = train_language_model(TEXTS, order=2)
    log10 = model.sentence("the cat") + model.sentence("dogs")

    assert math.log10(perplexity(model, ["the cat", "dogs"])) == pytest.approx(-log10 / 5)
    with pytest.raises(ValueError, match="no sentences"):
        perplexity(model, [])
