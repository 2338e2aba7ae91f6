"""What a user's mistake looks like, and which suggestion comes with it."""

import pytest

from distdl.errors import UserError, did_you_mean


def test_a_user_error_reads_where_what_and_on_its_own_line_the_fix():
    assert str(UserError("no such file", where="a.yaml:3", fix="Write it.")) == "a.yaml:3: no such file\n  Write it."
    assert str(UserError("no such file")) == "no such file"


def test_a_user_error_survives_being_sent_as_its_args():
    what, where, fix = UserError("no such file", where="a.yaml:3", fix="Write it.").args

    assert str(UserError(what, where=where, fix=fix)) == "a.yaml:3: no such file\n  Write it."


@pytest.mark.parametrize(
    "word, answer",
    [
        ("resnet5", " - did you mean resnet50?"),
        ("momentun", " - did you mean momentum?"),
        ("resnet", " - did you mean resnet50 or resnet18?"),  # equally near
        ("transformer", ""),
        ("", ""),
    ],
)
def test_the_nearest_known_name_is_suggested_and_two_when_none_is_clearly_nearer(word, answer):
    assert did_you_mean(word, ["resnet50", "resnet18", "momentum"]) == answer
