"""Packing speech: the layouts of its corpora, what becomes of sounds and transcripts, and what is left out and told."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from sounds import RATE, tone, write_sound

from distdl import cli
from distdl.data import commands
from distdl.data.audio import audio_length, decode_audio
from distdl.data.corpus import descriptor
from distdl.data.corpus.dataset import Dataset, Sample
from distdl.data.inspect import verify
from distdl.data.pack import pack
from distdl.data.packing.parts import Part
from distdl.data.packing.speech import SpeechRules, Utterances
from distdl.data.show import show
from distdl.data.sound_lengths import lengths
from distdl.data.transcripts import TextRules
from distdl.errors import UserError

pytest.importorskip("soundfile")


def samples_of(folder: Path) -> dict[str, Sample]:
    with Dataset.open(folder) as dataset:
        found = [dataset.read(*dataset.locate(i)) for i in range(dataset.n_samples)]
    return {sample.key: sample for sample in found}


def about(sample: Sample) -> dict:
    return json.loads(sample.components["json"])


def text(sample: Sample) -> str:
    return sample.components["txt"].decode()


def packed(kind: str, src: Path, **options) -> tuple[Path, str]:
    said: list[str] = []
    dst = src.with_name(f"{src.name}-packed")
    pack(kind, src, dst, say=said.append, **options)
    return dst, "\n".join(said)


# --- corpora as they are downloaded ---


def test_fsdd_has_its_official_split_digits_as_classes_and_words_as_transcripts(tmp_path):
    src = tmp_path / "fsdd"
    for name in ("7_theo_4", "7_theo_5", "0_jackson_0", "3_lucas_49"):
        write_sound(src / "recordings" / f"{name}.wav", tone(0.25, seed=len(name)))
    (src / "recordings" / "notes.md").write_text("")

    dst, said = packed("fsdd", src)

    train, test = samples_of(dst / "train"), samples_of(dst / "test")
    assert (set(train), set(test)) == ({"7_theo_5", "3_lucas_49"}, {"7_theo_4", "0_jackson_0"})
    sample = train["7_theo_5"]
    assert (text(sample), sample.components["cls"], sample.components["wav"]) == (
        "seven",
        b"7",
        (src / "recordings" / "7_theo_5.wav").read_bytes(),
    )
    assert about(sample) == {"speaker": "theo", "duration_s": 0.25, "rate_hz": RATE, "text": "seven"}
    assert Dataset.open(dst / "train").classes == list("0123456789")
    assert "left out 1 files whose names are no recording's" in said
    assert verify(dst / "train").ok


@pytest.fixture
def librispeech(tmp_path):
    """Two subsets; in train-clean-5 a sound without transcript, a transcript without sound, and a damaged sound."""
    root = tmp_path / "LibriSpeech"
    for subset, chapter, lines in (
        ("dev-clean", "84/121123", ["84-121123-0000 GO DO YOU HEAR", "84-121123-0001 BUT IN LESS"]),
        ("train-clean-5", "19/198", ["19-198-0000 NORTHANGER ABBEY", "19-198-0001 NO SOUND", "19-198-0003 DAMAGED"]),
    ):
        for line in lines:
            name = line.split()[0]
            write_sound(root / subset / chapter / f"{name}.flac", tone(0.3, seed=int(name[-1])))
        (root / subset / chapter / f"{chapter.replace('/', '-')}.trans.txt").write_text("\n".join(lines) + "\n")
    broken = root / "train-clean-5" / "19/198"
    write_sound(broken / "19-198-0002.flac")
    (broken / "19-198-0001.flac").unlink()
    content = (broken / "19-198-0003.flac").read_bytes()
    (broken / "19-198-0003.flac").write_bytes(content[: len(content) // 2])
    return root


def test_each_subset_of_librispeech_is_a_split_and_what_is_left_out_is_named(librispeech):
    dst, said = packed("librispeech", librispeech, rules=SpeechRules(text=TextRules(case="lower")))

    dev, train = samples_of(dst / "dev-clean"), samples_of(dst / "train-clean-5")
    assert {key: text(sample) for key, sample in dev.items()} == {
        "84-121123-0000": "go do you hear",
        "84-121123-0001": "but in less",
    }
    assert set(train) == {"19-198-0000"}
    assert (
        about(dev["84-121123-0000"]).items() >= {"speaker": "84", "chapter": "121123", "text": "GO DO YOU HEAR"}.items()
    )
    assert "train-clean-5: left out 3 utterances that can't be used" in said
    assert "19-198-0001: can't be read: No such file or directory" in said
    assert "19-198-0002: it has no transcript" in said
    assert "19-198-0003: " in said
    listed = descriptor.read(dst / "dev-clean" / "dataset.json")
    assert listed and listed.rules and listed.rules["case"] == "lower" and listed.kind == "librispeech"


def test_one_subset_of_librispeech_and_the_folder_above_are_understood(librispeech):
    dst, _ = packed("librispeech", librispeech / "dev-clean")
    assert [path.name for path in dst.iterdir()] == ["dev-clean"]

    with pytest.raises(UserError, match=r"no transcripts \(\*\.trans\.txt\)"):
        packed("librispeech", librispeech / "dev-clean" / "84")
    above, _ = packed("librispeech", librispeech.parent)
    assert sorted(path.name for path in above.iterdir()) == ["dev-clean", "train-clean-5"]


def test_ljspeech_is_split_by_names_alone(tmp_path):
    src = tmp_path / "LJ"
    names = [f"LJ001-{i:04d}" for i in range(40)]
    for name in names:
        write_sound(src / "wavs" / f"{name}.wav", tone(0.05))
    (src / "metadata.csv").write_text("".join(f'{name}|Dr. "No" 7|Doctor "No" seven\n' for name in names))

    dst, _ = packed("ljspeech", src, holdout=0.3)

    train, test = samples_of(dst / "train"), samples_of(dst / "test")
    assert set(train) | set(test) == set(names) and not set(train) & set(test)
    assert 4 <= len(test) <= 20
    assert text(next(iter(test.values()))) == 'Doctor "No" seven'
    assert about(next(iter(test.values())))["written"] == 'Dr. "No" 7'
    (src / "metadata.csv").write_text("".join(f"{name}|x|y\n" for name in names[:30]))
    src.with_name("LJ-packed").rename(tmp_path / "first")
    again, _ = packed("ljspeech", src, holdout=0.3)
    assert set(samples_of(again / "test")) == set(test) & set(names[:30])
    (src / "metadata.csv").write_text("LJ001-0000|one field\n")
    with pytest.raises(UserError, match=r"metadata\.csv:1(.|\n)*2 fields"):
        packed("ljspeech", src.rename(tmp_path / "LJ2"))


def test_common_voice_has_mp3_speakers_and_its_own_splits(tmp_path):
    src = tmp_path / "de"
    head = "client_id\tpath\tsentence\tup_votes\tage\n"
    for name, clip in (("train", "a.mp3"), ("dev", "b.mp3"), ("test", "c")):
        write_sound(src / "clips" / f"{clip.removesuffix('.mp3')}.mp3", tone(0.5))
        (src / f"{name}.tsv").write_text(f'{head}speaker-{clip}\t{clip}\tEr sagte: "Ja!"\t2\ttwenties\n')
    (src / "validated.tsv").write_text(head)

    dst, said = packed("commonvoice", src)

    assert sorted(path.name for path in dst.iterdir()) == ["test", "train", "val"]
    (sample,) = samples_of(dst / "test").values()
    assert sample.key == "c" and text(sample) == 'Er sagte: "Ja!"'
    assert about(sample).items() >= {"speaker": "speaker-c", "age": "twenties"}.items()
    assert sample.components["mp3"] == (src / "clips/c.mp3").read_bytes()
    assert "in none of the splits: validated.tsv" in said
    (src / "dev.tsv").write_text("client_id\tsentence\n")
    with pytest.raises(UserError, match="no column 'path'"):
        packed("commonvoice", src.rename(tmp_path / "fr"))


# --- a folder of sounds ---


@pytest.fixture
def folder(tmp_path):
    """Three sounds with a .txt beside: FLAC, stereo WAV at 16 kHz, OGG with dots in its name."""
    src = tmp_path / "mine"
    write_sound(src / "a" / "one.flac", tone(0.5))
    write_sound(src / "a" / "two.wav", tone(1.0, channels=2, rate_hz=16000), 16000)
    write_sound(src / "b" / "three.v1.ogg", tone(2.0))
    for name, words in (("a/one", "Don't stop!"), ("a/two", "Well-known, “quoted”\nlines"), ("b/three.v1", "ÄRGER")):
        Path(f"{src}/{name}.txt").write_text(words)
    return src


def test_sounds_with_their_texts_beside_are_copied_as_they_are(folder):
    (folder / "cover.gif").write_bytes(b"GIF")

    dst, said = packed("speech", folder)

    train = samples_of(dst / "train")
    assert {key: text(sample) for key, sample in train.items()} == {
        "a/one": "Don't stop!",
        "a/two": "Well-known, “quoted” lines",
        "b/three_v1": "ÄRGER",
    }
    assert train["a/two"].components["wav"] == (folder / "a/two.wav").read_bytes()
    assert train["b/three_v1"].components["ogg"] == (folder / "b/three.v1.ogg").read_bytes()
    assert "source: left out 1 file that can't be packed: 1 .gif (cover.gif)" in said


def test_sounds_are_resampled_mixed_and_encoded_as_asked(folder):
    dst, _ = packed("speech", folder, rules=SpeechRules(rate_hz=8000, mono=True, format="wav"))

    train = samples_of(dst / "train")
    found = {key: decode_audio(sample.components["wav"]) for key, sample in train.items()}
    assert {key: (len(samples), samples.shape[1], hz) for key, (samples, hz) in found.items()} == {
        "a/one": (4000, 1, 8000),
        "a/two": (8000, 1, 8000),
        "b/three_v1": (16000, 1, 8000),
    }
    assert (found["a/one"][0] == tone(0.5)).all()  # FLAC to WAV loses nothing
    two = found["a/two"][0][:, 0].astype(float)
    clean = 8000 * np.sin(np.arange(8000) * 2 * np.pi * 440 / 8000)
    assert np.abs(two - clean)[100:-100].std() < 300  # below 4 kHz, and of two channels: less noise than there was
    assert about(train["a/two"])["rate_hz"] == 8000


def test_only_what_has_to_change_is_encoded_anew_and_then_as_flac(folder):
    dst, _ = packed("speech", folder, rules=SpeechRules(mono=True))

    train = samples_of(dst / "train")
    assert train["a/one"].components["flac"] == (folder / "a/one.flac").read_bytes()
    samples, rate_hz = decode_audio(train["a/two"].components["flac"])
    assert samples.shape == (16000, 1) and rate_hz == 16000
    expected = np.rint(tone(1.0, channels=2, rate_hz=16000).astype(np.float32).mean(axis=1))
    assert (samples[:, 0] == expected).all()


def test_too_short_too_long_empty_and_without_text_are_told_one_by_one(folder):
    write_sound(folder / "c" / "mute.wav")
    (folder / "c" / "empty.wav").write_bytes(b"")
    (folder / "c" / "empty.txt").write_text("nothing")
    (folder / "c" / "blank.txt").write_text("  \n")
    write_sound(folder / "c" / "blank.wav")
    rules = SpeechRules(min_s=0.9, max_s=1.5, text=TextRules(characters="abcdefghijklmnopqrstuvwxyz", case="lower"))
    write_sound(folder / "c" / "fits.wav", tone(1.0))
    (folder / "c" / "fits.txt").write_text("Fits")
    (folder / "a" / "one.txt").write_text("one")
    (folder / "b" / "three.v1.txt").write_text("three")

    dst, said = packed("speech", folder, rules=rules)

    assert set(samples_of(dst / "train")) == {"c/fits"}
    for expected in (
        "train: left out 6 utterances that can't be used:",
        "a/one: it lasts 0.50 s, less than 0.9 s",
        "b/three.v1: it lasts 2.00 s, more than 1.5 s",
        "a/two: its transcript has characters that are not allowed: , - “ ”",
        "c/mute: it has no transcript",
        "c/empty: the file is empty",
        "c/blank: its transcript is empty",
    ):
        assert expected in said


def test_a_table_has_texts_speakers_and_more_and_decides_what_is_packed(folder):
    rows = ["file\ttext\tspeaker\taccent", 'a/one.flac\t"Yes"\tann\tnorth', "b/../a/two.wav\tNo\tbob\tsouth"]
    (folder / "transcripts.tsv").write_text("\n".join([*rows, "gone.wav\tWhere?\tbob\t"]) + "\n")

    dst, said = packed("speech", folder)

    train = samples_of(dst / "train")
    assert {key: text(sample) for key, sample in train.items()} == {"a/one": '"Yes"', "a/two": "No"}
    assert about(train["a/one"]).items() >= {"speaker": "ann", "accent": "north"}.items()
    assert "left out 1 sounds that no row of the table names" in said
    assert "gone: can't be read: No such file or directory" in said


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("path,text\na/one.flac,yes\n", "no column 'file' \\(its head has: path, text\\)"),
        ("file,text\na/one.flac,yes,no\n", "3 columns; the head has 2"),
        ("file,text\n", "there are no rows"),
        ("file,text\na/one.flac,x\na/./one.flac,y\n", "'a/./one.flac' comes twice"),
    ],
)
def test_a_table_that_cannot_be_followed_is_refused(folder, table, expected):
    (folder / "transcripts.csv").write_text(table)

    with pytest.raises(UserError, match=expected):
        packed("speech", folder)

    assert not folder.with_name("mine-packed").exists()


def test_speakers_are_held_out_whole_and_need_to_be_known(tmp_path):
    src = tmp_path / "many"
    rows = [f"{speaker}-{i}.wav,hello,{speaker}" for speaker in "abcdefghij" for i in range(3)]
    for row in rows:
        write_sound(src / row.split(",")[0], tone(0.02))
    (src / "transcripts.csv").write_text("\n".join(["file,text,speaker", *rows]))

    dst, _ = packed("speech", src, holdout=0.3, by_speaker=True)

    speakers = [{about(each)["speaker"] for each in samples_of(dst / split).values()} for split in ("train", "test")]
    assert speakers[1] and not speakers[0] & speakers[1] and speakers[0] | speakers[1] == set("abcdefghij")
    (src / "transcripts.csv").write_text("\n".join(["file,text", *(row.rpartition(",")[0] for row in rows)]))
    with pytest.raises(UserError, match="no speaker is known"):
        packed("speech", src.rename(tmp_path / "unknown"), holdout=0.3, by_speaker=True)


def test_folders_called_as_splits_are_splits(folder):
    (folder / "a").rename(folder / "train")
    (folder / "b").rename(folder / "dev")
    write_sound(folder / "more" / "four.wav")

    dst, said = packed("speech", folder)

    assert set(samples_of(dst / "train")) == {"one", "two"} and set(samples_of(dst / "dev")) == {"three_v1"}
    assert "left out what is beside train, dev: more" in said
    with pytest.raises(UserError, match="its own splits: train, dev"):
        packed("speech", folder.rename(folder.with_name("again")), holdout=0.5)


def test_splits_may_share_a_table(folder):
    (folder / "a").rename(folder / "train")
    (folder / "b").rename(folder / "dev")
    rows = ["train/one.flac,yes", "dev/three.v1.ogg,no", "more/four.wav,maybe"]
    (folder / "transcripts.csv").write_text("\n".join(["file,text", *rows]))

    dst, said = packed("speech", folder)

    assert [text(each) for split in ("train", "dev") for each in samples_of(dst / split).values()] == ["yes", "no"]
    assert "train: left out 1 sounds that no row of the table names" in said
    assert "left out 1 rows of the table whose sounds lie in none of train, dev" in said


def test_a_table_may_name_sounds_elsewhere(folder, tmp_path):
    elsewhere = write_sound(tmp_path / "elsewhere" / "x.wav")
    (folder / "transcripts.csv").write_text(f"file,text\n{elsewhere},far away\n")

    dst, _ = packed("speech", folder)

    assert [text(each) for each in samples_of(dst / "train").values()] == ["far away"]


def test_a_folder_without_sounds_says_what_is_expected(tmp_path):
    (tmp_path / "none").mkdir()

    with pytest.raises(UserError, match=r"no sounds here \(flac, wav(.|\n)*transcripts\.tsv"):
        packed("speech", tmp_path / "none")


# --- what all kinds have in common ---


def test_the_lengths_of_shards_are_known_without_reading_them(folder, monkeypatch):
    dst, _ = packed("speech", folder)
    monkeypatch.setattr(Dataset, "read", lambda *_: pytest.fail("a sample was read"))

    with Dataset.open(dst / "train") as dataset:
        found = lengths(dataset)
        keys = [dataset.key(*dataset.locate(i)) for i in range(dataset.n_samples)]

    assert dict(zip(keys, found.n_samples.tolist())) == {"a/one": 4000, "a/two": 16000, "b/three_v1": 16000}
    assert dict(zip(keys, found.rate_hz.tolist())) == {"a/one": 8000, "a/two": 16000, "b/three_v1": 8000}


def test_parts_hold_together_what_one_pack_holds(folder):
    whole, _ = packed("speech", folder)
    for number in (1, 2, 3):
        pack("speech", folder, folder.with_name("joined"), say=lambda line: None, part=Part(number, 3))

    assert samples_of(folder.with_name("joined") / "train").keys() == samples_of(whole / "train").keys()
    with Dataset.open(whole / "train") as one, Dataset.open(folder.with_name("joined") / "train") as other:
        assert lengths(one).n_samples.tolist() == lengths(other).n_samples.tolist()


def test_a_pack_that_was_stopped_goes_on_to_the_same_bytes(folder, monkeypatch):
    for i in range(6):
        write_sound(folder / f"{i}.flac", tone(0.1, seed=i))
        (folder / f"{i}.txt").write_text(str(i))
    options = {"shard_samples": 2, "workers": 1, "rules": SpeechRules(rate_hz=16000)}
    whole, _ = packed("speech", folder, **options)
    whole.rename(folder.with_name("whole"))
    make, n_made = Utterances.__getitem__, itertools.count()

    def until_stopped(self, i):
        if next(n_made) == 5:
            raise KeyboardInterrupt
        return make(self, i)

    monkeypatch.setattr(Utterances, "__getitem__", until_stopped)
    monkeypatch.setattr("distdl.data.packing.write._SAMPLES_PER_TASK", 1)
    with pytest.raises(KeyboardInterrupt):
        packed("speech", folder, **options)
    monkeypatch.undo()

    again, said = packed("speech", folder, **options)

    assert "going on with a pack that was not finished: 2 finished shards are there already" in said
    for path in (folder.with_name("whole") / "train").iterdir():
        assert (again / "train" / path.name).read_bytes() == path.read_bytes(), path.name


def test_packing_twice_gives_the_same_bytes(folder):
    rules = SpeechRules(rate_hz=11025, format="flac")
    first, _ = packed("speech", folder, rules=rules, workers=1)
    first.rename(folder.with_name("first"))

    again, _ = packed("speech", folder, rules=rules, workers=3)

    name = "train/000000.tar"
    assert (again / name).read_bytes() == (folder.with_name("first") / name).read_bytes()


def test_show_tells_hours_lengths_speakers_words_and_characters(folder):
    (folder / "transcripts.csv").write_text("file,text,speaker\na/one.flac,yes yes,ann\na/two.wav,no,bob\n")
    dst, _ = packed("speech", folder)

    shown = show(dst / "train")

    for expected in (
        "sounds      0.00 hours; 0.50/0.50/1.00 s (min/median/max); 8000 Hz, 16000 Hz",
        "speakers    2",
        "words       3, 2 different",
        "characters  6: ' enosy'",
    ):
        assert expected in shown


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: SpeechRules(rate_hz=10), "10 Hz is no rate"),
        (lambda: SpeechRules(min_s=2, max_s=1), "at least 2 s and at most 1 s"),
        (lambda: SpeechRules(format="aiff"), "'aiff' is none of flac, wav"),
        (lambda: TextRules(case="title"), "'title' is none of keep, lower, upper"),  # type: ignore[arg-type]
        (lambda: TextRules(characters=" "), "allows no letter"),
    ],
)
def test_rules_that_nothing_fits_are_refused(make, expected):
    with pytest.raises(UserError, match=expected):
        make()


def test_rules_of_speech_are_not_for_images(tmp_path):
    arguments = cli.parser().parse_args(["data", "pack", "digits", str(tmp_path / "out"), "--rate", "16000"])

    with pytest.raises(UserError, match="this is for speech"):
        commands.pack(arguments)


def test_the_command_line_passes_its_options_on(folder, tmp_path):
    options = "--rate 8000 --mono --format flac --case lower --strip-punctuation --min-seconds 0.6 --holdout 0"
    arguments = cli.parser().parse_args(
        ["data", "pack", "speech", str(folder), str(tmp_path / "out"), *options.split()]
    )

    assert commands.pack(arguments) == 0

    train = samples_of(tmp_path / "out" / "train")
    assert {key: text(each) for key, each in train.items()} == {
        "a/two": "well known quoted lines",
        "b/three_v1": "ärger",
    }
    assert all(decode_audio(each.components["flac"])[1] == 8000 for each in train.values())


def test_opus_is_copied_with_its_length(tmp_path):
    src = tmp_path / "opus"
    write_sound(src / "a.opus", tone(1.0, rate_hz=48000), 48000)
    (src / "a.txt").write_text("one second")

    dst, _ = packed("speech", src)

    sample = samples_of(dst / "train")["a"]
    assert audio_length(sample.components["opus"]).seconds == pytest.approx(1.0, abs=0.01)


# --- real recordings ---


@pytest.mark.needs("data")
def test_real_digits_by_their_official_split(real_data, tmp_path):
    pack("fsdd", real_data / "fsdd", tmp_path / "out", say=lambda line: None)

    train, test = samples_of(tmp_path / "out" / "train"), samples_of(tmp_path / "out" / "test")
    assert (len(train), len(test)) == (2700, 300) and {key.split("_")[1] for key in test} == {
        "george",
        "jackson",
        "lucas",
        "nicolas",
        "theo",
        "yweweler",
    }
    report = verify(tmp_path / "out" / "test")
    assert report.ok and report.n_samples == 300
    with Dataset.open(tmp_path / "out" / "train") as dataset:
        seconds = lengths(dataset).seconds
        in_json = [about(train[dataset.key(*dataset.locate(i))])["duration_s"] for i in range(0, 2700, 100)]
    assert seconds[::100] == pytest.approx(in_json) and 0.14 < seconds.min() < seconds.max() < 2.3
    assert sum(seconds) / 60 == pytest.approx(19.7, abs=0.2)


@pytest.mark.needs("data")
def test_real_sentences_of_8_khz_become_16_khz(real_data, tmp_path):
    source = real_data / "asterisk-en"
    voice = source / "en_US_f_Allison"
    lines = (line.partition(": ") for line in (source / "core-sounds-en.txt").read_text().splitlines())
    rows = [f"{voice}/{name}.wav\t{words}" for name, _, words in lines if words[:1].isalpha()][:40]
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "sounds").symlink_to(voice)
    table = "\n".join(["file\ttext", *(row.replace(str(voice), "sounds") for row in rows)])
    (tmp_path / "src" / "transcripts.tsv").write_text(table + "\n")
    rules = SpeechRules(rate_hz=16000, text=TextRules(case="lower", strip_punctuation=True))

    pack("speech", tmp_path / "src", tmp_path / "out", say=lambda line: None, rules=rules)

    train = samples_of(tmp_path / "out" / "train")
    assert len(train) == len(rows) == 40
    assert text(train["sounds/agent-loginok"]) == "agent logged in"
    samples, rate_hz = decode_audio(train["sounds/agent-loginok"].components["flac"])
    original, _ = decode_audio((voice / "agent-loginok.wav").read_bytes())
    assert rate_hz == 16000 and len(samples) == 2 * len(original)
    spectrum = np.abs(np.fft.rfft(samples[:, 0].astype(float))) ** 2
    assert spectrum[len(spectrum) // 2 :].sum() < 0.001 * spectrum.sum()  # nothing was added above 4 kHz
