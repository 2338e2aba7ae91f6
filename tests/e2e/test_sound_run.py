"""Runs on sounds: they learn, end with the same bits wherever they were killed, and cope with what a corpus holds."""

import json

import numpy as np
import pytest

from tests import tones

pytest.importorskip("soundfile")

pytestmark = pytest.mark.timeout(300)

FEATURES = [{"log_mel": {"bins": 24}}, {"cmvn": {"over": "utterance"}}]
NETWORK = {"classes": 5, "features": 24, "convolutions": 1, "channels": 8, "layers": 1, "width": 48, "cell": "gru"}
RECIPE = {
    "model": {"name": "deep_speech2", "args": NETWORK},
    "task": {"name": "ctc", "args": {"vocabulary": {"characters": tones.LETTERS}}},
    "train": {"global_batch": 16, "epochs": 8, "seed": 0, "log_every": 10, "eval_every": None, "threads": 1},
    "optim": {"name": "adamw", "lr": 0.01},
    "schedule": {"name": "cosine", "warmup_steps": 10},
    "checkpoint": {"every": 10},
}
PERTURBED = [
    {"speed": {"factors": [0.95, 1.05]}},
    {"noise": {"snr_db": [20, 30]}},
    *FEATURES,
    {"spec_augment": {"time": 4}},
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    tones.write_tones(folder / "train", 320)
    tones.write_tones(folder / "test", 48, seed=1)
    return folder


def config(place, corpus, *, transforms=FEATURES, **changes):
    """`changes` are of keys of a section: train={"steps": 5}."""
    whole = {
        **RECIPE,
        "data": {
            "sound": {"rate_hz": tones.RATE_HZ, "at_once_s": 6},
            "train": {"shards": str(corpus / "train"), "label": "txt", "transforms": transforms},
            "eval": {"shards": str(corpus / "test"), "label": "txt", "transforms": FEATURES},
        },
    }
    for section, keys in changes.items():
        whole[section] = {**whole.get(section, {}), **keys}
    path = place.path / "sounds.yaml"
    path.write_text(json.dumps(whole))
    return path


def test_it_learns_to_spell_tones_and_spells_files(place, corpus):
    ran = place.run("train", config(place, corpus), "--nproc", 2, "--name", "x")
    assert ran.code == 0, ran.output
    sound = tones.sound_of("dabca", np.random.default_rng(7))
    (place.path / "a.flac").write_bytes(tones.file_of(sound))
    (place.path / "b.wav").write_bytes(tones.file_of(sound.repeat(2), 2 * tones.RATE_HZ, "wav"))
    (place.path / "c.wav").write_text("no sound")
    (place.path / "words.txt").write_text("dabca abcd")

    told = place.run("predict", "x", "a.flac", "b.wav", "c.wav", "--json")
    searched = place.run("predict", "x", "a.flac", "--beam", 8, "--words", "words.txt")
    several = place.run("predict", "x", "a.flac", "--beam", 8, "--top", 3, "--json")
    without_search = place.run("predict", "x", "a.flac", "--top", 3)
    report = place.run("report", "x")

    (last,) = place.rows("x", "eval")
    assert last["cer"] < 0.1 and last["count"] == 48
    assert all(0 <= row["padding"] < 0.3 for row in place.rows("x"))
    assert told.code == 2 and "1 of 3 files can't be decoded" in told.output
    spelled = json.loads(told.output[: told.output.rindex("]") + 1])
    assert [each["text"] for each in spelled[:2]] == ["dabca", "dabca"]
    (word,) = spelled[0]["words"]
    assert 0 <= word["begin_s"] < word["end_s"] <= len(sound) / tones.RATE_HZ + 0.05
    assert searched.output == "a.flac: dabca\n"
    (of_several,) = json.loads(several.output)
    assert of_several["text"] == "dabca" and 1 <= len(of_several["others"]) <= 2
    confidences = [of_several["confidence"], *(each["probability"] for each in of_several["others"])]
    assert confidences == sorted(confidences, reverse=True)
    assert without_search.code == 2 and "Add --beam" in without_search.output
    assert report.code == 0 and "Word error rate" in (place.path / "runs" / "x" / "report.html").read_text()


def test_a_network_that_looks_forward_alone_spells_as_it_hears(place, corpus):
    recipe = config(place, corpus)
    whole = json.loads(recipe.read_text())
    network = {key: value for key, value in NETWORK.items() if key != "cell"} | {"look_ahead": 4, "stride": 2}
    whole["model"] = {"name": "deep_speech2_streaming", "args": network}
    for split in (whole["data"]["train"], whole["data"]["eval"]):
        split["transforms"] = [{"log_mel": {"bins": 24}}, {"cmvn": {"over": "corpus", "file": "mean.json"}}]
    recipe.write_text(json.dumps(whole))
    sound = tones.sound_of("dabca", np.random.default_rng(7))
    (place.path / "a.flac").write_bytes(tones.file_of(sound))

    assert place.run("cmvn", recipe, "--out", "mean.json").code == 0
    ran = place.run("train", recipe, "--nproc", 2, "--name", "x")
    assert ran.code == 0, ran.output
    streamed, whole_at_once = (place.run("predict", "x", "a.flac", *flags) for flags in (["--stream"], []))
    averaged = place.run("average", "x", "--last", 2)
    exported = place.run("export", "x", "--format", "safetensors", "--out", "out")

    *_, last = streamed.output.splitlines()
    assert streamed.code == 0 and len(streamed.output.splitlines()) > 2
    assert whole_at_once.output == f"a.flac: {last.split()[-1]}\n" == "a.flac: dabca\n"
    assert exported.code == 0, exported.output
    assert json.loads((place.path / "out" / "config.json").read_text())["input"]["rate_hz"] == tones.RATE_HZ
    assert averaged.code == 0 and json.loads(averaged.output[averaged.output.index("[") :])[0]["cer"] < 0.2


def test_the_bits_are_those_of_one_worker_on_any_number_and_when_killed(place, corpus):
    recipe = config(place, corpus, transforms=PERTURBED, train={"epochs": 2}, dist={"reduction": "tree"})
    whole = place.run("train", recipe, "--nproc", 1, "--name", "whole")
    assert whole.code == 0, whole.output

    first = place.run("train", recipe, "train.stop_after=1 s", "--nproc", 4, "--name", "stopped", "--resume")
    second = place.run("train", recipe, "--nproc", 2, "--name", "stopped", "--resume")

    assert first.code in (0, 75), first.output
    assert second.code == 0, second.output
    assert place.hash("stopped") == place.hash("whole")


def test_what_cannot_be_told_in_its_frames_is_masked_listed_and_never_nan(place, tmp_path):
    hasty = {"txt": b"abcdabcdabcdabcdabcdabcdabcdabcd", "flac": tones.file_of(np.ones(2400, np.int16))}
    tones.write_tones(tmp_path / "train", 64, others={5: hasty, 6: {"flac": b"fLaC"}})
    tones.write_tones(tmp_path / "test", 16, seed=1, others={3: hasty})

    ran = place.run("train", config(place, tmp_path, train={"epochs": 1}), "--nproc", 2, "--name", "x")

    assert ran.code == 0, ran.output
    listed = {row["key"]: row["reason"] for row in map(json.loads, (place.path / "runs/x/quarantine.jsonl").open())}
    assert listed.keys() == {"00005", "00006"}
    assert "needs 32 frames of the network" in listed["00005"]
    (last,) = place.rows("x", "eval")
    assert last["infeasible"] == 1 and np.isfinite(last["loss"])


def test_a_longest_sound_that_does_not_fit_is_told_before_the_first_step(place, corpus):
    ran = place.run(
        "train",
        config(place, corpus, model={"name": "listening:hungry_for_long_sounds", "args": {}}),
        "--nproc",
        1,
        "--name",
        "x",
    )

    assert ran.code == 2
    assert "out of memory on cpu" in ran.output and "data.sound.at_once_s" in ran.output
    assert not (place.path / "runs/x/metrics.jsonl").exists() or not place.rows("x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"mixup": 0.2}}, "train.mixup: this is not for sounds"),
        ({"train": {"batch_norm": "ghost"}}, "there are no groups of rows"),
        ({"train": {"micro_batch": 4}}, "data.sound.at_once_s bounds memory"),
        ({"model": {"name": "deep_speech2", "args": {**NETWORK, "classes": 29}}}, "29 classes, the vocabulary 5"),
        ({"model": {"name": "deep_speech2", "args": {**NETWORK, "features": 80}}}, "model.args.features=24"),
        (
            {"task": {"name": "ctc", "args": {"vocabulary": {"characters": "abce"}}}},
            "can't be spelled: the character 'd'",
        ),
    ],
)
def test_what_does_not_fit_is_a_mistake_that_is_named(place, corpus, change, said):
    ran = place.run("train", config(place, corpus, **change), "--nproc", 1, "--name", "x")

    assert ran.code == 2
    assert said in ran.output
