"""What a process says of the hosts it reads from: trouble that lasts, when it begins and ends; an epoch's sums."""

import re

import pytest

from distdl.data.remote import account
from distdl.data.remote.account import Account


@pytest.fixture
def at(monkeypatch):
    """at(s) sets the clock."""
    now = [0.0]
    monkeypatch.setattr(account.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


def test_trouble_that_lasts_is_told_once_and_once_when_it_is_over(at, capsys):
    host = Account("data.example.org")

    def lines_after(seconds: float, wait_s: float) -> list[str]:
        at(seconds)
        host.waits("connection refused", wait_s, give_up=300.0)
        return capsys.readouterr().err.splitlines()

    assert lines_after(0.0, 0.3) == lines_after(0.3, 0.9) == []
    (line,) = lines_after(1.2, 2.0)
    assert lines_after(3.2, 4.0) == []
    at(12.0)
    host.answers()
    host.answers()

    assert re.fullmatch(
        r"nothing comes from data\.example\.org \(connection refused\): trying again until \d\d:\d\d:\d\d", line
    )
    assert capsys.readouterr().err == "data.example.org answers again, after 12 s\n"


def test_a_failure_now_and_then_is_no_trouble_but_counts(at, capsys):
    host = Account("data.example.org")
    for second in range(1, 38):
        at(second)
        for _ in range(2):  # side by side
            host.waits("the server answers 503", 0.25, give_up=300.0)
        host.answers()
        host.came(1_000_000)
    host.waits("slow: 70,000 bytes arrived in time", 0.25, give_up=300.0)
    host.no_room()

    assert host.take() == (
        "shards from data.example.org: 37.0 MB in 112 requests, 75 had to be asked again "
        "(the server answers 503; slow), 9.2 s waited, the cache has no room for all of them (data.remote.cache_gb)"
    )
    assert host.take() == "", "nothing since"
    assert capsys.readouterr().err == ""
