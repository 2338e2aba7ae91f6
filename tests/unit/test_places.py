"""What data.train.shards may name: folders and tars, on disk or at an address, with braces, or lists of them."""

from pathlib import Path

import pytest

from distdl.data.remote.places import Place, one_local, places, shown
from distdl.errors import UserError


def test_braces_name_many_tars_of_one_folder():
    (place,) = places("/data/{000000..000012}.tar")

    assert place.folder == "/data"
    assert place.tars == [f"{i:06}.tar" for i in range(13)]
    assert place.is_local


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        ("https://host/train/", Place("https://host/train", None)),
        ("https://host/train", Place("https://host/train", None)),
        ("https://host/train?${QUERY}", Place("https://host/train?${QUERY}", None)),
        ("https://host/a/{0..1}.tar?${QUERY}", Place("https://host/a?${QUERY}", ["0.tar", "1.tar"])),
        ("s3://bucket", Place("s3://bucket", None)),
        ("s3://bucket/train/{a,b}.tar", Place("s3://bucket/train", ["a.tar", "b.tar"])),
    ],
)
def test_an_address_is_a_folder_or_names_tars(shards, expected):
    assert places(shards) == [expected]


def test_a_list_is_put_together_folder_by_folder():
    found = places(["a/0.tar", "s3://bucket/x/{1..2}.tar", "a/3.tar", "b"])

    assert found == [Place("a", ["0.tar", "3.tar"]), Place("s3://bucket/x", ["1.tar", "2.tar"]), Place("b", None)]


def test_a_folder_beside_some_of_its_tars_is_the_whole_folder():
    assert places(["a/0.tar", "a"]) == [Place("a", None)]


def test_a_folder_whose_name_has_braces_is_itself(tmp_path: Path):
    folder = tmp_path / "{1..3}"
    folder.mkdir()

    assert one_local(str(folder)) == folder
    assert places(str(folder)) == [Place(str(folder), None)]


@pytest.mark.parametrize("shards", ["s3://bucket/a", "a/{0..3}.tar", ["a", "b"]])
def test_what_is_not_one_local_folder_is_told_apart(shards):
    assert one_local(shards) is None


def test_a_scheme_that_is_not_known_is_named_with_those_that_are():
    with pytest.raises(UserError, match=r"gs://bucket: 'gs://' is not .*\n.*https?://.*s3://"):
        places("gs://bucket")


def test_braces_that_do_not_match_are_told():
    with pytest.raises(UserError, match="its braces don't match"):
        places("/data/{0..3.tar{")


def test_a_person_is_shown_the_first_and_how_many_more():
    assert shown(["a", "b", "c"]) == "a and 2 more"
    assert shown("https://host/a?${Q}") == "https://host/a?***"
