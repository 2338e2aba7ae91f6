"""A run on sounds: it learns, ends with the same bits wherever it was killed, and copes with what a corpus may hold."""

import json

import pytest

from tests import tones

pytest.importorskip("soundfile")

pytestmark = pytest.mark.timeout(300)

RECIPE = {
    "model": {
        "name": "deep_speech2",
        "args": {
            "classes": 5,
            "features": 24,
            "convolutions": 1,
            "channels": 8,
            "layers": 1,
            "width": 48,
            "cell": "gru",
        },
    },
    "task": {"name": "ctc", "args": {"vocabulary": {"characters": tones.LETTERS}}},
    "train": {"global_batch": 16, "epochs": 6, "seed": 0, "log_every": 10, "eval_every": None, "threads": 1},
    "optim": {"name": "adamw", "lr": 0.01},
    "schedule": {"name": "cosine", "warmup_steps": 10},
    "checkpoint": {"every": 10},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    tones.write_tones(folder / "train", 320)
    tones.write_tones(folder / "test", 48, seed=1)
    return folder


def config(place, corpus, **changes):
    """Keys below a section are changed, not the section: {"train": {"steps": 5}}."""
    features = [{"log_mel": {"bins": 24}}, {"cmvn": {"over": "utterance"}}]
    whole = {
        **RECIPE,
        "data": {
            "sound": {"rate_hz": tones.RATE_HZ, "at_once_s": 6},
            "train": {
                "shards": str(corpus / "train"),
                "label": "txt",
                "transforms": [{"speed": [0.95, 1.05]}, *features],
            },
            "eval": {"shards": str(corpus / "test"), "label": "txt", "transforms": features},
        },
    }
    for section, keys in changes.items():
        whole[section] = {**whole.get(section, {}), **keys}
    path = place.path / "sounds.yaml"
    path.write_text(json.dumps(whole))
    return path


def test_it_learns_to_spell_tones_and_predict_spells_a_file(place, corpus):
    ran = place.run("train", config(place, corpus), "--nproc", 2, "--name", "x")
    assert ran.code == 0, ran.output
    last = [row for row in place.rows("x") if row["kind"] == "eval"][-1]
    file = place.path / "sound.flac"
    import numpy as np

    file.write_bytes(tones.file_of(tones.sound_of("dabca", np.random.default_rng(7))))
    told = place.run("predict", "x", file, "--json")

    assert last["cer"] < 0.1
    assert last["count"] == 48
    assert json.loads(told.output)[0]["text"] == "dabca"
