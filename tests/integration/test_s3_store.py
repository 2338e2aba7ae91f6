"""Reads from S3: the same from two servers of unlike origin, with credentials that expire, and without any."""

import sys
import threading

import pytest

from distdl.config.schema import RemoteConfig
from distdl.data.remote import patience
from distdl.data.remote.listing import open_place
from distdl.data.remote.store import Denied
from distdl.errors import UserError

pytest.importorskip("botocore")
import s3_servers
from s3_servers import BUCKET, ENVIRONMENT, KEYS

CONTENT = bytes(range(256)) * 2000


@pytest.fixture(scope="module", params=["moto", "rclone"])
def server(request, tmp_path_factory):
    if request.param == "rclone":
        if not s3_servers.has_rclone():
            pytest.skip("the program rclone is not installed")
        with s3_servers.rclone(tmp_path_factory.mktemp("rclone")) as running:
            yield running
    else:
        pytest.importorskip("moto")
        with s3_servers.moto() as running:
            yield running


@pytest.fixture
def folder(server, tmp_path):
    for name in ("000001.tar", "000000.tar", "dataset.json"):
        (tmp_path / name).write_bytes(CONTENT)
    (tmp_path / "odd name#1?.tar").write_bytes(CONTENT)
    return server.upload(tmp_path, "a/train")


@pytest.fixture(autouse=True)
def _settings(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)


def opened(server, address, deadline="5 s"):
    return open_place(address, RemoteConfig(endpoint=server.endpoint, deadline=deadline))


def test_ranges_whole_files_sizes_and_names(server, folder):
    store = opened(server, folder)

    assert store.read("000000.tar", 1000, 70_000) == CONTENT[1000:70_000]
    assert store.read_whole("000000.tar") == CONTENT
    assert store.read("odd name#1?.tar", 7, 9) == CONTENT[7:9]
    assert store.size("000000.tar") == len(CONTENT)
    assert store.names() == ["000000.tar", "000001.tar", "dataset.json", "odd name#1?.tar"]
    assert store.read_whole("000007.tar") is None


def test_the_endpoint_may_come_from_the_environment(server, folder, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)

    assert open_place(folder, RemoteConfig(deadline="5 s")).read("000000.tar", 0, 4) == CONTENT[:4]


def test_a_file_that_has_become_shorter_is_told_at_once(server, folder):
    with pytest.raises(UserError, match=r"than (it was )?when it was indexed"):
        opened(server, folder).read("000000.tar", len(CONTENT) - 5, len(CONTENT) + 5)


def test_credentials_that_are_wrong_are_told_and_not_shown(server, folder, monkeypatch):
    if not server.checks_credentials:
        pytest.skip("this server takes any credentials")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-key-19ab")

    with pytest.raises(UserError, match="access denied") as error:
        opened(server, folder).read("000000.tar", 0, 4)

    assert "AWS settings" in error.value.fix
    assert not any(secret in str(error.value) for secret in ("wrong-secret-key-19ab", *list(KEYS.values())[:2]))


def test_credentials_that_expire_are_looked_up_again(server, folder, monkeypatch, tmp_path):
    """Of a profile's file that something else keeps fresh."""
    if not server.checks_credentials:
        pytest.skip("this server takes any credentials")
    credentials = tmp_path / "credentials"
    right = f"[default]\naws_access_key_id={KEYS['AWS_ACCESS_KEY_ID']}\naws_secret_access_key={{}}\n"
    credentials.write_text(right.format(KEYS["AWS_SECRET_ACCESS_KEY"]))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = opened(server, folder, deadline="20 s")
    assert store.read("000000.tar", 0, 4) == CONTENT[:4]

    credentials.write_text(right.format("expired"))
    store._store.renew()  # as its session would by itself
    with pytest.raises(Denied):
        store._store.read("000000.tar", 0, 4, 1e18)
    threading.Timer(0.5, lambda: credentials.write_text(right.format(KEYS["AWS_SECRET_ACCESS_KEY"]))).start()

    assert store.read("000000.tar", 4, 8) == CONTENT[4:8]
    assert "asked again" in store.account.take()


@pytest.mark.parametrize("ask", [lambda store: store.read("000000.tar", 0, 4), lambda store: store.names()])
def test_a_bucket_that_does_not_exist_is_told_with_the_endpoint(server, ask):
    with pytest.raises(UserError, match=f"there is no bucket 'nothing-here' at {server.endpoint}") as error:
        ask(opened(server, "s3://nothing-here/train"))

    assert "AWS_ENDPOINT_URL" in error.value.fix


def test_what_can_be_no_bucket_is_told_at_once(server):
    with pytest.raises(UserError, match="a bucket can't be called 'No_Bucket!'"):
        opened(server, "s3://No_Bucket!/train", deadline="1 min").read("000000.tar", 0, 4)


def test_what_is_not_installed_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "distdl.data.remote.s3", raising=False)
    monkeypatch.setitem(sys.modules, "botocore.config", None)

    with pytest.raises(UserError, match=r"botocore.*\n.*pip install 'distdl\[s3\]'"):
        open_place(f"s3://{BUCKET}/a", RemoteConfig())
