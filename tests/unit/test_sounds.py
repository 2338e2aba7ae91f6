"""distdl/data/sounds.py and what the filler makes of sounds: rows of a batch, their lengths, what can't be used."""

import numpy as np
import pytest

from distdl.config.sources import SoundConfig, SplitConfig
from distdl.data import labels
from distdl.data.corpus.dataset import Dataset
from distdl.data.engine import Loader
from distdl.data.fill import SoundRows
from distdl.data.order import Rows
from distdl.data.sound_lengths import lengths
from distdl.data.sounds import at_rate, one_channel
from distdl.data.workers import Threads
from distdl.errors import UserError
from tests import tones

pytest.importorskip("soundfile")


def spelled(text):
    return [tones.LETTERS.index(letter) + 1 for letter in text.decode()]


def loader_of(folder, *, longest_s=None, rate_hz=tones.RATE_HZ, parse=spelled, policy="mask"):
    split = SplitConfig(shards=str(folder), label="txt")
    dataset = Dataset.open(split.shards)
    config = SoundConfig(rate_hz=rate_hz, longest_s=longest_s)
    found = lengths(dataset)
    return Loader(
        dataset,
        split,
        workers=Threads(0),
        prefetch=1,
        where="data.train",
        label=labels.sequence(parse, "transcripts", "the vocabulary"),
        augmentation_seed=None,
        bad_sample=policy,
        sounds=SoundRows(config, at_rate(found.n_samples, found.rate_hz, rate_hz)),
    )


def first_batch(loader, n=4):
    (host,) = loader.batches([Rows.of(np.arange(n))])
    loader.close()
    return host


def test_a_batch_holds_the_sounds_their_lengths_and_their_units(tmp_path):
    host = first_batch(loader_of(tones.write_tones(tmp_path / "tones", 4)))
    dataset = Dataset.open(str(tmp_path / "tones"))

    for row in range(4):
        components = dataset.read(0, row).components
        n = int(host.tensors["length"][row])
        units = host.tensors["label"][row]
        assert n == lengths(dataset).n_samples[row]
        assert host.tensors["sound"][row, n:].abs().sum() == 0
        assert host.tensors["sound"][row, :n].abs().max() > 1000
        assert units[1 : 1 + units[0]].tolist() == spelled(components["txt"])
    assert host.tensors["sound"].shape[1] == host.tensors["length"].max()
    assert host.n_valid == 4


@pytest.mark.parametrize(
    ("component", "reason"),
    [
        ({"flac": b"fLaC nothing"}, "decoded"),
        ({"flac": tones.file_of(np.zeros(0, np.int16), kind="wav")}, "no samples"),
        ({"txt": b"abcd" * 60}, "too many"),
    ],
    ids=["corrupt", "empty", "transcript"],
)
def test_what_cannot_be_used_is_masked_with_its_reason(tmp_path, component, reason):
    host = first_batch(loader_of(tones.write_tones(tmp_path / "tones", 4, others={2: component})))

    assert host.tensors["valid"].tolist() == [1, 1, 0, 1]
    assert host.tensors["sound"][2].abs().sum() == 0 or component.keys() == {"txt"}
    (problem,) = host.problems
    assert problem.key == "00002" and reason in problem.reason


def test_a_transcript_is_missing(tmp_path):
    folder = tones.write_tones(tmp_path / "tones", 4, others={2: {"txt": None}})
    host = first_batch(loader_of(folder))

    (problem,) = host.problems
    assert "no component 'txt'" in problem.reason


def test_a_silent_sound_is_a_sound(tmp_path):
    silent = {"flac": tones.file_of(np.zeros(4000, np.int16))}
    host = first_batch(loader_of(tones.write_tones(tmp_path / "tones", 4, others={1: silent})))

    assert host.n_valid == 4
    assert host.tensors["length"][1] == 4000


def test_what_is_longer_than_it_may_be_is_masked_and_makes_no_batch_longer(tmp_path):
    long = {"flac": tones.file_of(np.ones(3 * tones.RATE_HZ, np.int16))}
    host = first_batch(loader_of(tones.write_tones(tmp_path / "tones", 4, others={1: long}), longest_s=2))

    (problem,) = host.problems
    assert problem.reason == "3.00 s, longer than data.sound.longest_s: 2"
    assert host.tensors["sound"].shape[1] <= 2 * tones.RATE_HZ


def test_a_letter_outside_of_the_vocabulary_is_a_mistake_that_names_the_sample(tmp_path):
    folder = tones.write_tones(tmp_path / "tones", 4, others={3: {"txt": "naïve".encode()}})

    def parse(text):
        if "ï".encode() in text:
            raise ValueError("can't be spelled: the character 'ï'")
        return []

    with pytest.raises(UserError, match=r"label naïve of 00003 .* can't be spelled"):
        first_batch(loader_of(folder, parse=parse))


def test_sounds_of_another_rate_and_of_two_channels_are_brought_to_one(tmp_path):
    n = np.arange(16000)
    tone = (8000 * np.sin(2 * np.pi * 440 * n / 16000)).astype(np.int16)
    stereo = np.stack([tone, np.zeros_like(tone)], axis=1)

    sound = one_channel(stereo, 16000, 8000)

    assert len(sound) == 8000
    expected = 4000 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    assert np.abs(sound[200:-200] - expected[200:-200]).max() < 40


@pytest.mark.parametrize(("rate_hz", "wanted_hz"), [(44100, 16000), (8000, 16000), (22050, 8000), (11025, 16000)])
def test_a_sound_is_as_long_as_was_planned(rate_hz, wanted_hz):
    for n in (1, 2, 99, 1234, 44101):
        planned = int(at_rate(np.array([n]), np.array([rate_hz]), wanted_hz)[0])

        assert len(one_channel(np.ones((n, 1), np.int16), rate_hz, wanted_hz)) == planned
