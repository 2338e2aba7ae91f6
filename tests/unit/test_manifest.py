"""Manifests of other tools: each form gives the same utterances, trained on in place or packed; mistakes are told."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from sounds import RATE, tone, write_sound

from distdl.config.loader import load
from distdl.data.audio import decode_audio
from distdl.data.corpus.dataset import CorruptSample, Dataset
from distdl.data.corpus.manifest import ManifestDataset
from distdl.data.manifests.read import utterances
from distdl.data.open import open_split
from distdl.data.pack import pack
from distdl.data.sound_lengths import lengths
from distdl.errors import UserError

pytest.importorskip("soundfile")

FIRST, SECOND = tone(1.0, seed=1), tone(2.0, channels=2, seed=2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def place(tmp_path):
    """wavs/first.flac, one second; wavs/second.wav, two seconds of two channels."""
    write_sound(tmp_path / "wavs/first.flac", FIRST)
    write_sound(tmp_path / "wavs/second.wav", SECOND)
    return tmp_path


def json_lines(path: Path, rows: list[dict]) -> Path:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def recording(name: str, file: str, n_samples: int, channels: list[int]) -> dict:
    source = {"type": "file", "channels": channels, "source": file}
    return {
        "id": name,
        "sources": [source],
        "sampling_rate": RATE,
        "num_samples": n_samples,
        "duration": n_samples / RATE,
        "channel_ids": channels,
    }


ONE, TWO = recording("r1", "wavs/first.flac", 8000, [0]), recording("r2", "wavs/second.wav", 16000, [0, 1])


def supervision(name: str, of: str, start: float, duration: float, text: str, channel: object = 0) -> dict:
    about = {"id": name, "recording_id": of, "start": start, "duration": duration, "channel": channel}
    return {**about, "text": text, "speaker": "ann", "language": "en"}


def lhotse_cuts(place: Path) -> Path:
    parts = [supervision("s2", "r2", 0.25, 0.25, "there", [0, 1]), supervision("s1", "r2", 0, 0.25, "hello", [0, 1])]
    whole = {"id": "u1", "start": 0, "duration": 1.0, "channel": 0, "type": "MonoCut", "recording": ONE}
    part = {"id": "u2", "start": 0.5, "duration": 0.75, "channel": [0, 1], "type": "MultiCut", "recording": TWO}
    rows = [{**whole, "supervisions": [supervision("s0", "r1", 0, 1, "one")]}, {**part, "supervisions": parts}]
    return json_lines(place / "cuts.jsonl.gz", rows)


def lhotse_lists(place: Path) -> Path:
    json_lines(place / "x_recordings_dev.jsonl.gz", [ONE, TWO])
    rows = [supervision("u1", "r1", 0, 1, "one"), supervision("u2", "r2", 0.5, 0.75, "hello there", [0, 1])]
    return json_lines(place / "x_supervisions_dev.jsonl.gz", rows)


def lhotse_recordings(place: Path) -> Path:
    lhotse_lists(place)
    return place / "x_recordings_dev.jsonl.gz"


def nemo(place: Path) -> Path:
    rows = [
        {"audio_filepath": "wavs/first.flac", "duration": 1.0, "text": "one", "speaker": "ann"},
        {
            "audio_filepath": str(place / "wavs/second.wav"),
            "offset": 0.5,
            "duration": 0.75,
            "text": "hello there",
            "speaker": "ann",
        },
    ]
    return json_lines(place / "nemo.json", rows)


def speechbrain_json(place: Path) -> Path:
    rows = {
        "u1": {"wav": "{data_root}/wavs/first.flac", "length": 1.0, "words": "one", "spk_id": "ann"},
        "u2": {
            "wav": {"file": "{data_root}/wavs/second.wav", "start": 4000, "stop": 10000},
            "length": 0.75,
            "words": "hello there",
            "spk_id": "ann",
        },
    }
    path = place / "train.json"
    path.write_text(json.dumps(rows, indent=2))
    return path


def speechbrain_csv(place: Path) -> Path:
    path = place / "train.csv"
    path.write_text(
        "ID,duration,wav,start,stop,spk_id,wrd\n"
        "u1,1.0,$data_root/wavs/first.flac,,,ann,one\n"
        "u2,0.75,$data_root/wavs/second.wav,4000,10000,ann,hello there\n"
    )
    return path


def kaldi(place: Path) -> Path:
    folder = place / "data"
    folder.mkdir()
    (folder / "wav.scp").write_text(f"r1 {place}/wavs/first.flac\nr2 {place}/wavs/second.wav\n")
    (folder / "text").write_text("u1 one\nu2 hello there\n")
    (folder / "utt2spk").write_text("u1 ann\nu2 ann\n")
    (folder / "segments").write_text("u1 r1 0 -1\nu2 r2 0.5 1.25\n")
    return folder


FORMS = [lhotse_cuts, lhotse_lists, lhotse_recordings, nemo, speechbrain_json, speechbrain_csv, kaldi]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_samples(place, form):
    dataset = ManifestDataset.open(form(place))

    assert dataset.n_samples == 2 and dataset.sizes.tolist() == [2]
    assert dataset.extensions(0) == ("flac", "wav", "txt", "json")
    whole, part = (dataset.read(*dataset.locate(i)) for i in range(2))
    assert whole.components["flac"] == (place / "wavs/first.flac").read_bytes()
    samples, rate_hz = decode_audio(part.components["wav"])
    assert rate_hz == RATE and (samples == SECOND[4000:10000]).all()
    assert [each.components["txt"] for each in (whole, part)] == [b"one", b"hello there"]
    assert json.loads(part.components["json"])["speaker"] == "ann"
    assert lengths(dataset).n_samples.tolist() == [8000, 6000]
    assert lengths(dataset).rate_hz.tolist() == [RATE, RATE]
    assert list(dataset.read(0, 1, only=("txt",)).components) == ["txt"]
    assert dataset.key(0, 1) == ("second-2" if form is nemo else "u2")


@pytest.mark.parametrize("form", [lhotse_cuts, kaldi])
def test_a_manifest_is_packed_as_well(place, form):
    pack("manifest", form(place), place / "out", say=lambda line: None)

    with Dataset.open(place / "out" / "train") as dataset:
        found = [dataset.read(*dataset.locate(i)) for i in range(2)]
        by_key = {each.key: each.components for each in found}
        assert sorted(lengths(dataset).n_samples.tolist()) == [6000, 8000]
    assert by_key["u1"]["flac"] == (place / "wavs/first.flac").read_bytes()
    assert (decode_audio(by_key["u2"]["flac"])[0] == SECOND[4000:10000]).all()
    assert by_key["u2"]["txt"] == b"hello there"


def test_data_folders_of_kaldi_side_by_side_are_splits(place):
    kaldi(place).rename(place / "train")
    kaldi(place).rename(place / "dev")
    (place / "src").mkdir()
    for split in ("train", "dev"):
        (place / split).rename(place / "src" / split)

    pack("kaldi", place / "src", place / "out", say=lambda line: None)

    assert sorted(path.name for path in (place / "out").iterdir()) == ["dev", "train"]
    with pytest.raises(UserError, match=r"there is no wav\.scp here"):
        pack("kaldi", place / "wavs", place / "other", say=lambda line: None)


def test_sphere_files_of_kaldi_are_read(place):
    import soundfile

    soundfile.write(place / "a.sph", FIRST, RATE, format="NIST", subtype="PCM_16")
    folder = kaldi(place)
    (folder / "segments").unlink()
    (folder / "wav.scp").write_text("u1 a.sph\n".replace("a.sph", str(place / "a.sph")))
    (folder / "text").write_text("u1 one\n")

    dataset = ManifestDataset.open(folder)

    assert dataset.extensions(0)[0] == "wav"
    assert (decode_audio(dataset.read(0, 0).components["wav"])[0] == FIRST).all()


def test_one_channel_of_several_is_taken(place):
    row = {"id": "u", "start": 0.5, "duration": 0.5, "channel": 1, "type": "MonoCut", "recording": TWO}
    path = json_lines(place / "cuts.jsonl", [{**row, "supervisions": []}])

    dataset = ManifestDataset.open(path)

    samples, _ = decode_audio(dataset.read(0, 0).components["wav"])
    assert (samples[:, 0] == SECOND[4000:8000, 1]).all() and samples.shape == (4000, 1)
    assert "txt" not in dataset.read(0, 0).components


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"text": "x"}\n', "none of the known fields: text"),
        ("a.jsonl", "", "neither JSON"),
        (
            "a.jsonl",
            '{"audio_filepath": "wavs/first.flac", "text": "x"}\nnonsense\n',
            r"a\.jsonl:2(.|\n)*no JSON object",
        ),
        ("a.jsonl", '{"audio_filepath": "gone.wav", "text": "x"}\n', r"first sound is not there: gone\.wav"),
        ("a.jsonl", '{"audio_filepath": "wavs/first.flac", "offset": 1}\n', "an offset and no duration"),
        ("a.json", '{"u": {"wav": "wavs/first.flac"}}', "no field for a transcript"),
        ("a.json", "[1, 2]", "holds a list"),
        ("a.csv", "ID,wav\nu,wavs/first.flac\n", "no field for a transcript"),
        ("a.csv", "file,text\n", "no column 'ID'"),
        ("a.jsonl.gz", "not compressed", "can't read it"),
        ("a_supervisions.jsonl", '{"id": "u", "recording_id": "r", "duration": 1}\n', "recordings is not beside it"),
        ("cuts.jsonl", '{"id": "u", "type": "MixedCut", "tracks": []}\n', "MixedCut(.|\n)*save_audios"),
        ("cuts.jsonl", '{"id": "u", "type": "MonoCut", "start": 0, "duration": 1}\n', "of features alone"),
        ("cuts.jsonl", '{"id": "u", "type": "MonoCut", "recording": {"id": "r"}}\n', "no 'sources'"),
        (
            "cuts.jsonl",
            json.dumps({"id": "u", "type": "MonoCut", "recording": ONE | {"transforms": [{"name": "Speed"}]}}),
            "changed by transforms",
        ),
        (
            "cuts.jsonl",
            json.dumps({"id": "u", "type": "MonoCut", "recording": ONE | {"sources": [{"type": "command"}]}}),
            "not one file",
        ),
    ],
)
def test_what_cannot_be_understood_is_told(place, name, content, expected):
    (place / name).write_text(content)

    with pytest.raises(UserError, match=expected):
        ManifestDataset.open(place / name)


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("wav.scp", "r1 sph2pipe -f wav a.sph |\n", r"comes from a command(.|\n)*No command is run"),
        ("wav.scp", "r1 feats.ark:17\n", "no file of its own"),
        ("wav.scp", "r1\n", "has no file"),
        ("wav.scp", "r1 a.wav\nr1 b.wav\n", r"wav\.scp:2(.|\n)*comes twice"),
        ("segments", "u1 r9 0 1\n", "recording 'r9' is not in wav.scp"),
        ("segments", "u1 r1 1 0.5\n", "goes from 1 to 0.5 s"),
        ("segments", "u1 r1 zero 1\n", "no recording, begin and end"),
        ("text", "u1 one\nu7 seven\n", "'u7' is not in segments"),
    ],
)
def test_mistakes_in_a_data_folder_of_kaldi_are_told(place, file, content, expected):
    folder = kaldi(place)
    (folder / file).write_text(content)

    with pytest.raises(UserError, match=expected):
        ManifestDataset.open(folder)


def test_of_absolute_paths_only_the_first_has_to_be_there(place):
    rows = [{"audio_filepath": str(place / name), "text": "x"} for name in ("wavs/first.flac", "gone.flac")]

    assert ManifestDataset.open(json_lines(place / "a.jsonl", rows)).n_samples == 2
    with pytest.raises(UserError, match=r"first sound is not there: .*gone\.flac"):
        ManifestDataset.open(json_lines(place / "a.jsonl", rows[::-1]))


def test_relative_paths_may_begin_where_the_command_is_started(place, monkeypatch):
    (place / "lists").mkdir()
    path = json_lines(place / "lists" / "a.jsonl", [{"audio_filepath": "wavs/first.flac", "text": "x"}])
    monkeypatch.chdir(place)

    assert ManifestDataset.open(path).read(0, 0, only=["flac"]).components["flac"].startswith(b"fLaC")


def test_a_sound_that_cannot_be_read_is_a_bad_sample_of_length_0(place):
    rows = [{"audio_filepath": "wavs/first.flac", "text": "x"}, {"audio_filepath": "wavs/gone.wav", "text": "y"}]
    beyond = {"audio_filepath": "wavs/first.flac", "offset": 0.5, "duration": 2, "text": "z"}
    dataset = ManifestDataset.open(json_lines(place / "a.jsonl", [*rows, beyond]))

    with pytest.raises(CorruptSample, match=r"gone\.wav: can't be read: No such file"):
        dataset.read(0, 1)
    with pytest.raises(CorruptSample, match=r"0\.5 to 2\.5 s is not in the file, which has 1 s"):
        dataset.read(0, 2)

    assert lengths(dataset).n_samples.tolist() == [8000, 0, 0]


def test_the_identity_follows_from_what_the_manifest_says(place):
    row = {"audio_filepath": "wavs/first.flac", "text": "x"}
    same = [ManifestDataset.open(json_lines(place / "a.jsonl", [row])).identity for _ in range(2)]

    other = ManifestDataset.open(json_lines(place / "a.jsonl", [row | {"text": "y"}])).identity

    assert same[0] == same[1] != other


def test_many_utterances_lie_in_several_shards(place):
    rows = [{"audio_filepath": "wavs/first.flac", "text": str(i)} for i in range(2500)]

    dataset = ManifestDataset.open(json_lines(place / "a.jsonl", rows))

    assert dataset.sizes.tolist() == [1000, 1000, 500]
    assert [dataset.read(*dataset.locate(i), only=["txt"]).components["txt"] for i in (0, 999, 2499)] == [
        b"0",
        b"999",
        b"2499",
    ]
    assert dataset.sample_id(2, 499) == 2499
    for wrong in (lambda: dataset.locate(2500), lambda: dataset.sample_id(2, 500)):
        with pytest.raises(IndexError):
            wrong()


def test_a_config_names_a_manifest(place):
    config = place / "x.yaml"
    config.write_text(
        "model: {name: resnet18, args: {classes: 2}}\n"
        f"data: {{train: {{manifest: {nemo(place)}, label: txt}}}}\n"
        "train: {global_batch: 2, steps: 1}\noptim: {lr: 0.1}\n"
    )
    loaded = load(config).config

    dataset = open_split(loaded.data.train, "data.train", loaded.data, for_training=True)

    assert isinstance(dataset, ManifestDataset) and dataset.n_samples == 2
    assert np.isclose(lengths(dataset).seconds.sum(), 1.75)
    assert [each.text for each in utterances(place / "nemo.json")] == ["one", "hello there"]
