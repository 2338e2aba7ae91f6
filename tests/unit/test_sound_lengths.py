"""The lengths of sounds by sample id: from dataset.json, from headers of shards packed by others, and kept."""

from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sounds import tone, write_sound

from distdl.data.corpus import sound_column
from distdl.data.corpus.dataset import Dataset
from distdl.data.corpus.manifest import ManifestDataset
from distdl.data.corpus.shards import index_folder, write_shards
from distdl.data.mixture import Mixture
from distdl.data.own import OwnDataset
from distdl.data.sound_lengths import lengths
from distdl.errors import UserError

pytest.importorskip("soundfile")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def shards(tmp_path):
    """Three shards; of the samples one has a damaged sound, one has none."""
    samples = []
    for i in range(7):
        path = write_sound(
            tmp_path / f"{i}.{'wav' if i % 2 else 'flac'}", tone(0.1 * (i + 1)), 8000 if i < 4 else 16000
        )
        samples.append({"__key__": f"s{i}", path.suffix[1:]: path.read_bytes(), "txt": str(i)})
    samples.insert(2, {"__key__": "bad", "flac": b"fLaC nonsense", "txt": "?"})
    samples.insert(5, {"__key__": "none", "txt": "?"})
    write_shards(samples, tmp_path / "shards", classes=None, kind="test", shard_samples=4)
    return tmp_path / "shards"


EXPECTED = [800, 1600, 0, 2400, 3200, 0, 4000, 4800, 5600]
RATES_HZ = [8000, 8000, 0, 8000, 8000, 0, 16000, 16000, 16000]


def found(path):
    with Dataset.open(path) as dataset:
        return lengths(dataset)


def test_dataset_json_and_the_headers_say_the_same(shards, monkeypatch):
    listed = found(shards)
    (shards / "dataset.json").unlink()

    read = found(shards)

    for each in (listed, read):
        assert (each.n_samples.tolist(), each.rate_hz.tolist()) == (EXPECTED, RATES_HZ)
        assert each.n_samples.dtype == each.rate_hz.dtype == np.int64
        assert each.seconds[[0, 2, 8]].tolist() == [0.1, 0, 0.35]
    monkeypatch.setattr(Dataset, "read", lambda *_, **__: pytest.fail("the headers were read again"))
    assert found(shards).n_samples.tolist() == EXPECTED


def test_a_mixture_has_the_lengths_of_its_sources_in_turn(shards, tmp_path):
    manifest = tmp_path / "a.jsonl"
    manifest.write_text('{"audio_filepath": "0.flac", "text": "x"}\n')

    with closing(Mixture({"b": Dataset.open(shards), "a": ManifestDataset.open(manifest)})) as mixture:
        found = lengths(mixture)

    assert (found.n_samples.tolist(), found.rate_hz.tolist()) == ([800, *EXPECTED], [8000, *RATES_HZ])
    own = OwnDataset([b""], "own", "identity")
    with pytest.raises(UserError, match=r"mixture\.own(.|\n)*not known before they are read"):
        lengths(Mixture({"own": own}))


def test_a_damaged_list_that_was_kept_is_made_anew(shards, tmp_path):
    (shards / "dataset.json").unlink()
    found(shards)
    (kept,) = (tmp_path / "cache").rglob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-4])

    assert found(shards).n_samples.tolist() == EXPECTED


def test_indexing_tars_of_others_finds_the_lengths_also_without_some_samples(shards, monkeypatch, tmp_path):
    (shards / "dataset.json").unlink()
    (tmp_path / "bad.jsonl").write_text('{"shard": "000000.tar", "key": "bad"}\n')
    monkeypatch.setattr(Dataset, "read", lambda *_, **__: pytest.fail("a sample was read"))

    index_folder(shards, say=lambda line: None)
    assert found(shards).n_samples.tolist() == EXPECTED
    index_folder(shards, say=lambda line: None, excluded_by=[tmp_path / "bad.jsonl"])
    assert found(shards).n_samples.tolist() == EXPECTED[:2] + EXPECTED[3:]


def test_a_corpus_without_sounds_is_refused(tmp_path):
    write_shards([{"__key__": "a", "cls": 0}], tmp_path / "none", classes=None, kind="test")

    with pytest.raises(UserError, match="there is no sound in it"):
        found(tmp_path / "none")


@given(st.lists(st.tuples(st.integers(0, 2**40), st.sampled_from([8000, 16000, 44100]))))
def test_a_column_as_text_holds_its_numbers(rows):
    n_samples, rates_hz = np.array(rows, np.int64).reshape(-1, 2).T

    read = sound_column.arrays_of(sound_column.text_of(n_samples, rates_hz), len(rows), "here")

    assert read[0].tolist() == n_samples.tolist()
    assert read[1].tolist() == np.where(n_samples > 0, rates_hz, 0).tolist()


@pytest.mark.parametrize(
    "text", ["8000: 1 2", "1 2 3", "8000: 1 -2 3", "8000: 1 x 3", "8k: 1 2 3", "8000: 1 2 " + "9" * 30]
)
def test_a_column_that_is_not_of_its_shard_is_refused(text):
    with pytest.raises(UserError, match=r"000000\.tar: its lengths"):
        sound_column.arrays_of(text, 3, "000000.tar")
