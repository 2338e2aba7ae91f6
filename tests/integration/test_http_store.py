"""Reads over HTTP from a server that fails in every way: again until they succeed, or a clear error."""

import base64
import random
import threading
import time
from pathlib import Path

import pytest
from web import Web

from distdl.config.schema import RemoteConfig
from distdl.data.remote import account, http, patience
from distdl.data.remote.listing import open_place
from distdl.data.remote.patience import Closed, Gate, NoSuchFile, PatientStore
from distdl.errors import UserError

CONTENT = random.Random(0).randbytes(300_000)
SECRET = "hunter2hunter2"


@pytest.fixture
def web(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(CONTENT)
    (tmp_path / "odd name#1?.tar").write_bytes(CONTENT)
    with Web(tmp_path) as server:
        yield server


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "_SILENCE_S", 0.3)
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")
    patience._gates.clear()


def opened(web: Web, *, deadline: str = "5 s", address: str = "", **remote) -> PatientStore:
    return open_place(address or web.url, RemoteConfig(deadline=deadline, **remote))


# --- what works ---


def test_ranges_whole_files_and_sizes(web):
    store = opened(web)

    assert store.read("a.tar", 1000, 70_000) == CONTENT[1000:70_000]
    assert store.read("a.tar", 5, 5) == b""
    assert store.read_whole("a.tar") == CONTENT
    assert store.read("odd name#1?.tar", 7, 9) == CONTENT[7:9]
    assert store.size("a.tar") == len(CONTENT)


def test_a_file_that_is_missing_may_be_done_without(web):
    store = opened(web)

    assert store.read_whole("b.tar") is None
    with pytest.raises(NoSuchFile, match=rf"{web.url}/b.tar: there is no such file"):
        store.read("b.tar", 0, 1)


@pytest.mark.parametrize("how", ["503", "drop", "short", "stall"])
def test_what_fails_for_a_moment_is_tried_again(web, how):
    web.fail("a.tar", how, times=3)
    store = opened(web)

    assert store.read("a.tar", 100, 200_000) == CONTENT[100:200_000]
    assert "3 had to be asked again" in store.account.take()


def test_after_a_broken_connection_only_the_rest_is_asked_for(web):
    web.fail("a.tar", "short", times=2)

    assert opened(web).read("a.tar", 0, 200_000) == CONTENT[:200_000]

    ranges = [(each.begin, each.end) for each in web.asked("a.tar")]
    assert [end for _, end in ranges] == [200_000] * 3
    assert ranges[0][0] == 0 and 0 < ranges[1][0] <= 100_000 and ranges[1][0] < ranges[2][0]


def test_a_server_that_comes_back_is_found_and_both_are_told(web, monkeypatch, capsys):
    monkeypatch.setattr(account, "_SHORT_S", 0.2)
    store = opened(web, deadline="20 s")
    assert store.read("a.tar", 0, 10) == CONTENT[:10]
    web.stop()
    threading.Timer(2, web.start).start()

    assert store.read("a.tar", 10, 20) == CONTENT[10:20]

    begun, ended = capsys.readouterr().err.splitlines()
    assert begun.startswith(f"nothing comes from {store.account.host} (connection refused): trying again until ")
    assert ended.startswith(f"{store.account.host} answers again, after ")


# --- what does not ---


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("503", r"the server answers 503 \(Service Unavailable\)"),
        ("drop", "the connection broke"),
        ("stall", "the server fell silent"),
    ],
)
def test_after_the_deadline_it_is_told_what_was_wrong(web, how, reason):
    web.fail("a.tar", how, times=None)
    began = time.monotonic()

    with pytest.raises(UserError, match=rf"(?s)/a.tar: can't be read for 1 s \(\d+ attempts\): {reason}.*deadline"):
        opened(web, deadline="1 s").read("a.tar", 0, 10)  # too few bytes to be progress

    assert time.monotonic() - began < 20


def test_a_server_that_is_not_there_is_told_after_the_deadline(web):
    web.stop()

    with pytest.raises(UserError, match=r"can't be read for 1 s .*: connection refused"):
        opened(web, deadline="1 s").read("a.tar", 0, 10)


def test_a_byte_now_and_then_is_no_progress(web, monkeypatch):
    monkeypatch.setattr(patience, "_ATTEMPT_S", 0.2)
    web.bytes_per_s = 100_000
    monkeypatch.setattr(patience, "_PROGRESS_BYTES", 1 << 20)

    with pytest.raises(UserError, match=r"can't be read for 1 s .*: slow"):
        opened(web, deadline="1 s").read("a.tar", 0, 300_000)


def test_a_slow_server_that_makes_progress_is_waited_for(web, monkeypatch):
    monkeypatch.setattr(patience, "_ATTEMPT_S", 0.2)
    web.bytes_per_s = 200_000

    assert opened(web, deadline="1 s").read("a.tar", 0, 300_000) == CONTENT


def test_a_server_without_byte_ranges_is_told_at_once(web):
    web.fail("a.tar", "whole", times=None)

    with pytest.raises(UserError, match=r"does not answer with the byte range.*\n.*nginx"):
        opened(web).read("a.tar", 5, 10)

    assert len(web.asked("a.tar")) == 1


@pytest.mark.parametrize(("begin", "end"), [(400_000, 400_010), (299_990, 300_010)])
def test_a_file_that_has_become_shorter_is_told_at_once(web, begin, end):
    with pytest.raises(UserError, match=r"than (it was )?when it was indexed"):
        opened(web).read("a.tar", begin, end)

    assert len(web.asked("a.tar")) == 1


def test_closing_ends_the_wait(web):
    web.fail("a.tar", "503", times=None)
    store = opened(web, deadline="1 min")
    threading.Timer(0.3, store.close).start()
    began = time.monotonic()

    with pytest.raises(Closed):
        store.read("a.tar", 0, 10)

    assert time.monotonic() - began < 30


# --- credentials ---


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_user_and_password_come_from_variables(web, monkeypatch):
    web.wanted_authorization = basic("me", SECRET)
    monkeypatch.setenv("PASSWORD", SECRET)
    address = web.url.replace("://", "://me:${PASSWORD}@")

    assert opened(web, address=address).read("a.tar", 0, 10) == CONTENT[:10]


def test_a_signed_query_goes_to_every_file_and_is_never_shown(web, monkeypatch):
    web.wanted_query = f"sig={SECRET}&x=1"
    monkeypatch.setenv("QUERY", f"sig={SECRET}&x=1")
    store = opened(web, address=web.url + "?${QUERY}")

    assert store.read("a.tar", 0, 10) == CONTENT[:10]
    with pytest.raises(UserError) as error:
        store.read("b.tar", 0, 10)
    assert f"{web.url}/b.tar?***" in str(error.value)
    assert SECRET not in str(error.value)


def test_a_password_in_netrc_that_changes_is_read_again(web, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password old\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    web.wanted_authorization = basic("me", "old")
    store = opened(web)
    assert store.read("a.tar", 0, 10) == CONTENT[:10]

    web.wanted_authorization = basic("me", SECRET)
    threading.Timer(0.5, lambda: netrc.write_text(f"machine 127.0.0.1 login me password {SECRET}\n")).start()

    assert store.read("a.tar", 0, 10) == CONTENT[:10]


def test_credentials_that_never_worked_are_told_at_once_and_not_shown(web, monkeypatch):
    web.wanted_authorization = basic("me", "right")
    monkeypatch.setenv("PASSWORD", SECRET)
    store = opened(web, address=web.url.replace("://", "://me:${PASSWORD}@"), deadline="1 min")
    began = time.monotonic()

    with pytest.raises(UserError) as error:
        store.read("a.tar", 0, 10)

    assert time.monotonic() - began < 30
    assert "access denied: the server answers 401" in str(error.value)
    assert "netrc" in error.value.fix
    assert SECRET not in str(error.value)


def test_a_variable_that_is_not_set_is_named(web, monkeypatch):
    monkeypatch.delenv("QUERY", raising=False)

    with pytest.raises(UserError, match="the environment has no variable QUERY"):
        opened(web, address=web.url + "?${QUERY}")


# --- how many at a time ---


def test_no_more_requests_than_allowed_go_to_a_host_at_a_time(web):
    web.delay_s = 0.05
    store = opened(web, connections=3)
    threads = [threading.Thread(target=store.read, args=("a.tar", i, i + 10)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert web.most_at_once == 3


def test_one_request_fetches_ahead_while_others_are_waited_for_and_more_do_not(monkeypatch):
    monkeypatch.setattr(patience, "_ONE_AHEAD_EVERY_S", 0.0)
    gate = Gate(4)
    began = []

    def ahead(name: str) -> None:
        with gate.place(urgent=False):
            began.append(name)
            time.sleep(0.3)

    with gate.place(urgent=True):
        threads = [threading.Thread(target=ahead, args=(f"ahead {i}",)) for i in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.15)
        assert len(began) == 1
    for thread in threads:
        thread.join()
    assert len(began) == 2
