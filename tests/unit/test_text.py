"""distdl.speech.text: characters, pieces and phonemes, and how they are named in a config."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distdl.errors import UserError
from distdl.speech.text import Characters, Phonemes, Pieces, train_pieces, vocabulary

ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
SENTENCES = ["the cat sat on the mat", "a dog and a cat", "the dog's mat is on the cat", "sad cats sat and sat"] * 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("pieces") / "pieces.model"
    train_pieces(SENTENCES, 20, path)
    return path


@pytest.fixture
def lexicon(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text(";;; a comment\nTHE  DH AH\nTHE(2)  DH IY\nCAT  K AE T\n\nTHE  DH AX\n")
    return path


# --- characters ---


def test_class_0_is_the_blank_and_the_alphabet_follows():
    letters = Characters("ab ")

    assert (len(letters), letters.units) == (4, ["", "a", "b", " "])
    assert letters.encode("ab  a") == [1, 2, 3, 1]
    assert letters.decode([1, 0, 2, 3, 1]) == "ab a"


@given(st.text(alphabet=ALPHABET))
def test_what_is_encoded_is_decoded(text):
    letters = Characters(ALPHABET)

    assert letters.decode(letters.encode(text)) == letters.normal(text) == " ".join(text.split())


def test_a_character_outside_is_named():
    with pytest.raises(ValueError, match="'é' of 'café'"):
        Characters(ALPHABET).encode("café")


def test_what_is_outside_can_be_dropped_and_leaves_single_spaces():
    letters = Characters(ALPHABET, case="lower", unknown="drop")

    assert letters.normal("  Well - it's 9\tDOGS!") == "well it's dogs"
    assert letters.decode(letters.encode("Well - it's 9\tDOGS!")) == "well it's dogs"


def test_without_a_space_in_the_alphabet_words_run_together_or_raise():
    assert Characters("ab", unknown="drop").encode("a b") == [1, 2]
    with pytest.raises(ValueError, match="' '"):
        Characters("ab").encode("a b")


def test_an_accent_typed_as_a_character_of_its_own_is_the_same_letter():
    letters = Characters("é")

    assert letters.encode("e\u0301") == letters.encode("\u00e9") == [1]


def test_a_word_begins_at_a_space():
    letters = Characters("a ")

    assert letters.begins_word == [False, False, True]
    assert letters.spelling == ["", "a", ""]


# --- pieces ---


def test_pieces_are_counted_with_the_blank_in_the_place_of_the_unknown(model):
    pieces = Pieces(model)

    assert len(pieces) == len(pieces.units) == 20
    assert pieces.units[0] == "" and "<unk>" not in pieces.units


@pytest.mark.parametrize("text", [*SENTENCES[:4], ""])
def test_pieces_spell_the_text_they_were_made_of(model, text):
    pieces = Pieces(model)
    classes = pieces.encode(text)

    assert pieces.decode(classes) == text
    assert 0 not in classes and all(number < len(pieces) for number in classes)
    assert sum(pieces.begins_word[number] for number in classes) == len(text.split())
    assert "".join(pieces.spelling[number] for number in classes) == text.replace(" ", "")


def test_pieces_name_or_drop_what_they_cannot_spell(model):
    with pytest.raises(ValueError, match="'zq'"):
        Pieces(model).encode("the zq cat")
    assert Pieces(model, case="lower", unknown="drop").normal("The z Cat") == "the cat"


def test_too_few_texts_for_so_many_pieces_raise_and_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="no 5000 pieces"):
        train_pieces(["a b"], 5000, tmp_path / "model")

    assert not (tmp_path / "model").exists()


# --- phonemes ---


def test_a_word_has_its_first_pronunciation(lexicon):
    phonemes = Phonemes(lexicon, case="upper")

    assert phonemes.units == ["", "AE", "AH", "AX", "DH", "IY", "K", "T"]
    assert phonemes.decode(phonemes.encode("the cat")) == "DH AH K AE T"


def test_a_word_outside_of_the_lexicon_is_named_or_dropped(lexicon):
    with pytest.raises(ValueError, match="'DOG' of 'the dog'"):
        Phonemes(lexicon, case="upper").encode("the dog")
    assert Phonemes(lexicon, case="upper", unknown="drop").normal("the dog cat") == "THE CAT"


# --- all of them ---


def test_vocabularies_can_be_sent_to_other_processes(model, lexicon):
    for each, text in ((Characters(ALPHABET), "a cat"), (Pieces(model), "a cat"), (Phonemes(lexicon), "CAT")):
        copy = pickle.loads(pickle.dumps(each))
        assert copy.encode(text) == each.encode(text) and copy.units == each.units


def test_they_are_built_from_a_config(model, lexicon):
    assert vocabulary({"characters": "AB", "case": "upper"}, "task.args.text").encode("ab") == [1, 2]
    assert vocabulary({"pieces": str(model)}, "task.args.text").encode("a cat")
    assert vocabulary({"lexicon": str(lexicon), "unknown": "drop"}, "task.args.text").encode("CAT x")


@pytest.mark.parametrize(
    ("args", "where", "what"),
    [
        ({}, "text", "does not say"),
        ({"characters": "a", "pieces": "b"}, "text", "has characters and pieces"),
        ({"charcters": "a"}, "text", "did you mean characters"),
        ({"characters": "aba"}, "text.characters", "'a' twice"),
        ({"characters": 3}, "text.characters", "is text"),
        ({"characters": "ab", "case": "lowr"}, "text.case", "did you mean lower"),
        ({"characters": "ab", "unknown": None}, "text.unknown", "none of them"),
        ({"pieces": "/none"}, "text.pieces", "No such file"),
        ({"lexicon": "/none"}, "text.lexicon", "No such file"),
    ],
)
def test_mistakes_are_told_with_their_place(args, where, what):
    with pytest.raises(UserError, match=what) as raised:
        vocabulary(args, "text")

    assert raised.value.where == where and raised.value.fix


@pytest.mark.parametrize(
    ("kind", "content", "what"),
    [
        ("lexicon", b"THE DH AH\nCAT\n", "line 2 has no phonemes"),
        ("lexicon", b";;; nothing\n", "no words"),
        ("lexicon", b"\xff\xfe\n", "UTF-8"),
        ("pieces", b"THE DH AH", "not a model"),
    ],
)
def test_files_that_are_something_else_are_told(tmp_path, kind, content, what):
    path = tmp_path / "file"
    path.write_bytes(content)

    with pytest.raises(UserError, match=what) as raised:
        vocabulary({kind: str(path)}, "text")

    assert raised.value.where == f"text.{kind}"
