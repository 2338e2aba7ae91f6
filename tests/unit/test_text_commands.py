"""`distdl lm` and `distdl pieces`: from text files and the transcripts of shards."""

import pytest

from distdl import cli
from distdl.data.corpus.shards import write_shards
from distdl.errors import UserError
from distdl.speech.decoding.arpa import read_arpa
from distdl.speech.text import Pieces


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "some.txt").write_text("The cat says meow\n\nthe dog says woof\n")
    samples = [{"__key__": str(i), "txt": text.encode()} for i, text in enumerate(("the cow says moo", "a cat sat"))]
    write_shards(samples, tmp_path / "shards", classes=None, kind="texts")
    return tmp_path


def test_a_model_of_words_is_learned_from_files_and_shards_and_tells_its_perplexity(texts, capsys):
    out = texts / "lm.arpa"
    sources = [str(texts / "some.txt"), str(texts / "shards")]

    code = cli.main(["lm", *sources, "--case", "lower", "--order", "2", "--held-out", sources[0], "--out", str(out)])

    said = capsys.readouterr().out
    assert code == 0
    assert "2-grams of 12 words, from 4 sentences" in said and "perplexity on 2 others" in said
    model = read_arpa(out)
    assert "cow" in model and "The" not in model
    assert model.sentence("the cat says meow") > model.sentence("meow says cat the")


def test_an_order_below_one_and_text_that_is_none_are_refused(texts, capsys):
    (texts / "bytes.txt").write_bytes(b"\xff\xfe\x00")

    assert cli.main(["lm", str(texts / "some.txt"), "--order", "0", "--out", "x"]) == 2
    assert cli.main(["lm", str(texts / "bytes.txt"), "--out", "x"]) == 2
    assert cli.main(["lm", str(texts / "nothing.txt"), "--out", "x"]) == 2

    said = capsys.readouterr().err
    assert "0 is not a number of words" in said and "not text in UTF-8" in said


def test_pieces_are_as_many_as_the_network_has_classes(texts, capsys):
    pytest.importorskip("sentencepiece")
    out = texts / "pieces.model"

    assert cli.main(["pieces", str(texts / "some.txt"), "--case", "lower", "--size", "15", "--out", str(out)]) == 0
    assert cli.main(["pieces", str(texts / "some.txt"), "--size", "4000", "--out", str(out.with_name("x"))]) == 2

    assert "model.args.classes=15" in capsys.readouterr().out
    assert len(Pieces(out)) == 15


def test_a_component_that_is_not_there_is_named(texts):
    from distdl.speech.commands import _of_shards

    with pytest.raises(UserError, match="no component 'text'"):
        list(_of_shards(str(texts / "shards"), "text"))
