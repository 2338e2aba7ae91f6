"""verify and show of shards at an address: the same findings as on disk, and nothing of them is kept."""

import io
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from sounds import tone, write_sound
from web import Web

from distdl.cli import main
from distdl.data.corpus.dataset import Dataset
from distdl.data.corpus.shards import RawSample, write_shards
from distdl.data.inspect import verify
from distdl.data.remote import listing
from distdl.data.show import show
from distdl.data.sound_lengths import lengths
from distdl.errors import UserError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three shards with five samples each."""
    image = cv2.imencode(".png", np.zeros((6, 8, 3), np.uint8))[1].tobytes()
    samples: list[RawSample] = [{"__key__": f"s{i:02}", "png": image, "cls": i % 3} for i in range(15)]
    write_shards(samples, tmp_path / "corpus", classes=["ant", "bee", "fly"], kind="test", shard_samples=5)
    return tmp_path / "corpus"


@pytest.fixture
def web(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server of the corpus. Whatever is kept on this side has to be in one of these folders."""
    for name in ("TMPDIR", "XDG_CACHE_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "TMPDIR"))
    with Web(corpus) as server:
        yield server
    assert not list((tmp_path / "TMPDIR").iterdir()) and not list((tmp_path / "XDG_CACHE_HOME").iterdir())


def damage(tar: Path) -> None:
    content = bytearray(tar.read_bytes())
    content[600] ^= 1  # in the first component, behind a header of 512 bytes
    tar.write_bytes(content)


def test_a_sound_corpus_has_no_problem_at_an_address_in_braces_or_in_a_list(web, corpus):
    for shards in (web.url, f"{web.url}/{{000000..000002}}.tar", [str(corpus / "000000.tar"), f"{web.url}/000001.tar"]):
        report = verify(shards)

        assert report.problems == [], str(report)
    assert (report.n_shards, report.n_samples) == (2, 10) and "1 more: no problem found" in str(report)


def test_the_same_problems_are_found_as_on_disk(web, corpus):
    damage(corpus / "000001.tar")
    (corpus / "000002.tar.ddx").unlink()

    near, far = verify(corpus), verify(web.url)

    assert far.problems == near.problems and {each.shard for each in far.problems} == {"000001.tar", "000002.tar"}
    assert far.n_bytes == near.n_bytes and far.n_samples == near.n_samples


def test_a_shard_that_is_not_there_is_a_problem_among_others(web, corpus):
    (corpus / "000000.tar").unlink()
    damage(corpus / "000002.tar")

    report = verify(web.url)

    assert report.problems[0].shard == "000000.tar" and report.problems[0].reason == "there is no such file"
    assert {each.shard for each in report.problems[1:]} == {"000002.tar"}


def test_show_reads_what_there_is_off_the_indexes(web, corpus):
    near, far = show(corpus).splitlines(), show(web.url).splitlines()

    assert far[0] == near[0].replace(str(corpus), web.url)
    assert far[1:4] == near[1:4]  # identity, components, sizes of images
    assert "classes     3: ant, bee, fly" in far and far[-1] == near[-1]
    assert not any(asked.begin == asked.end == 0 and asked.name.endswith(".tar") for asked in web.requests)


def test_the_commands_take_addresses_and_lists(web, corpus, capsys):
    shutil.copytree(corpus, corpus.parent / "copy")

    assert main(["data", "verify", str(corpus / "000000.tar"), f"{web.url}/000002.tar"]) == 0
    assert main(["data", "show", web.url, "--index", str(corpus.parent / "copy")]) == 0

    assert "15 samples in 3 shards" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_host_that_is_not_there_is_told_soon(web, monkeypatch, capsys, command):
    monkeypatch.setattr(listing, "_SOON", "1 s")  # a run would wait for data.remote.deadline, 5 minutes
    web.stop()

    assert main(["data", command, web.url]) == 2

    assert "can't be read for 1 s" in (told := capsys.readouterr().err) and "connection refused" in told


def test_what_cant_be_found_is_the_users_mistake(web):
    with pytest.raises(UserError, match="web server can't be asked"):
        verify(f"{web.url}/nowhere")


def test_sounds_are_counted_there_as_well(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8000, np.int16), 8000, format="FLAC")
    samples: list[RawSample] = [{"__key__": str(i), "flac": file.getvalue()} for i in range(3)]
    write_shards(samples, tmp_path / "sounds", classes=None, kind="test")

    with Web(tmp_path / "sounds") as web:
        assert "1.00/1.00/1.00 s (min/median/max); 8000 Hz" in show(web.url)


def test_lengths_of_sounds_elsewhere_come_with_the_list_of_shards(tmp_path, monkeypatch):
    pytest.importorskip("soundfile")
    samples: list[RawSample] = []
    for i in range(6):
        path = write_sound(tmp_path / f"{i}.flac", tone(0.1 * (i + 1)))
        samples.append({"__key__": f"s{i}", "flac": path.read_bytes(), "txt": f"number {i}"})
    write_shards(samples, tmp_path / "sounds", classes=None, kind="test", shard_samples=2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    with Web(tmp_path / "sounds") as web:
        with Dataset.open(web.url) as dataset:
            found = lengths(dataset)
        tars_read = [each.name for each in web.requests if each.name.endswith(".tar") and each.method == "GET"]
        shown = show(web.url)

    assert found.n_samples.tolist() == [800, 1600, 2400, 3200, 4000, 4800] and set(found.rate_hz.tolist()) == {8000}
    assert tars_read == []
    assert "0.10/0.30/0.60 s (min/median/max); 8000 Hz" in shown
    assert "words       12, 7 different, of 6 transcripts" in shown
