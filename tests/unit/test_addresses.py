"""Addresses in a config or on a command line: none with a secret is taken, and none is shown with one."""

import re

import pytest
from small_config import SMALLEST

from distdl.cli import main
from distdl.config import addresses, load
from distdl.errors import UserError

SECRET = "hunter2hunter2"
SECRETIVE = [
    f"https://me:{SECRET}@host/train",
    f"https://{SECRET}@host/train",
    f"s3://AKIA:{SECRET}@bucket/train",
    f"https://host/train?sig={SECRET}",
    f"https://host/{{000..009}}.tar?X-Amz-Signature={SECRET}",
]


@pytest.mark.parametrize("address", SECRETIVE)
def test_an_address_with_a_secret_is_refused_without_repeating_it(tmp_path, address):
    path = tmp_path / "x.yaml"
    path.write_text(SMALLEST.replace("data/train", f"'{address}'"))

    for config, overrides in ((path, []), (path, [f"data.train.shards='{address}'"])):
        with pytest.raises(UserError) as error:
            load(config, overrides)
        assert "${NAME}" in str(error.value)
        assert SECRET not in str(error.value)


@pytest.mark.parametrize("address", SECRETIVE)
@pytest.mark.parametrize(
    "command",
    ["show {}", "verify data/train {}", "show data/train --index {}", "index {}", "index . --to {}", "pack idx {} ."],
)
def test_so_is_one_on_a_command_line(command, address, capsys):
    with pytest.raises(SystemExit) as end:
        main(["data", *(word.format(address) for word in command.split())])

    assert end.value.code == 2
    assert re.search(r"\$\{NAME\}|a path on disk is expected", told := capsys.readouterr().err)
    assert SECRET not in told


@pytest.mark.parametrize("key", ["data.train.index", "data.remote.endpoint"])
def test_so_is_one_of_the_index_and_of_the_endpoint(tmp_path, key):
    path = tmp_path / "x.yaml"
    path.write_text(SMALLEST)

    with pytest.raises(UserError) as error:
        load(path, [f"{key}=https://me:{SECRET}@host/train"])

    assert "${NAME}" in str(error.value)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "address",
    ["https://host/train", "https://${ME}:${PASSWORD}@host/train", "https://host/{0..9}.tar?${QUERY}", "s3://b/t"],
)
def test_variables_may_stand_for_secrets(address):
    assert addresses.check(address) == address


def test_variables_are_filled_in_only_when_asked_for():
    address = "https://${ME}:${PASSWORD}@host/train?${QUERY}"

    filled = addresses.filled_in(address, {"ME": "me", "PASSWORD": SECRET, "QUERY": "a=b"})

    assert filled == f"https://me:{SECRET}@host/train?a=b"
    assert addresses.shown(filled) == "https://***@host/train?***"
    with pytest.raises(KeyError, match="ME"):
        addresses.filled_in(address, {})


@pytest.mark.parametrize("text", ["data/train", "https://host/train", "s3://bucket/a", "what?", "a@b"])
def test_what_holds_no_secret_is_shown_as_it_is(text):
    assert addresses.shown(text) == text
