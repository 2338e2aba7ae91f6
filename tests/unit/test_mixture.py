"""Sources mixed by weight: what is read of each, what a run of them is, and which mistakes are answered."""

import json

import cv2
import numpy as np
import pytest
import tiny
from web import Web

import distdl
from distdl.config import compare, dump, load
from distdl.data.corpus.dataset import Dataset
from distdl.data.corpus.shards import write_shards
from distdl.data.mixture import Mixture
from distdl.errors import UserError
from distdl.run import trust
from distdl.run.open import open_run
from distdl.trainer import stage
from distdl.trainer.explain import explain


class Greys:
    """Item i is an image of the value 10 * i with label i % 10."""

    def __init__(self, n=6, bad=(), shape=(4, 4), classes=None):
        self.n, self.bad, self.shape, self.classes = n, bad, shape, classes

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i in self.bad:
            raise OSError("the scanner was off")
        return np.full(self.shape, 10 * i, np.uint8), i % 10


def greys(**args):
    return {"dataset": "test_mixture:Greys", "args": args}


@pytest.fixture
def config(corpus):
    """A run of three parts of the corpus's 20 samples and one part of six greys."""

    def make(overrides=None, **sources):
        mixture = {"greys": {**greys(), "weight": 1}, "noise": {"shards": str(corpus), "weight": 3}, **sources}
        return tiny.config(corpus, {"data.train": {"mixture": mixture}, **(overrides or {})})

    return make


@pytest.fixture
def build(config, opened):
    return lambda overrides=None, **sources: opened(tiny.build(config(overrides, **sources)))


def rows_of(run):
    """(sample id, image, label) of every row that counts, in the order of the run."""
    return [
        (int(sample_id), image.tolist(), int(label))
        for batch in run.host_batches()
        for sample_id, image, label, valid in zip(*(batch.tensors[k] for k in ("sample_id", "image", "label", "valid")))
        if valid
    ]


# --- what is read ---


def test_a_batch_holds_samples_of_all_sources_by_their_weights(build, corpus):
    run = build({"train.steps": 16})
    assert isinstance(run.train_loader.dataset, Mixture)
    with Dataset.open(corpus) as noise:
        files = [noise.read(*noise.locate(i)).components["png"] for i in range(20)]
    pixels = [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_GRAYSCALE) for file in files]

    rows = rows_of(run)

    assert len(rows) == 128
    for begin in range(0, 128, 8):
        assert sum(sample_id < 6 for sample_id, _, _ in rows[begin : begin + 8]) == 2
    for sample_id, image, label in rows:  # ids of the greys come first, as their name does
        expected = np.full((4, 4), 10 * sample_id) if sample_id < 6 else pixels[sample_id - 6]
        assert np.array(image)[:, :, 0].tolist() == expected.tolist()
        assert label == (sample_id if sample_id < 6 else (sample_id - 6) % 10)


def test_nothing_depends_on_threads_or_on_where_the_run_was_resumed(build):
    crops = {"data.train.transforms": [{"random_crop": {"size": 4, "padding": 2}}], "train.steps": 20}
    whole = rows_of(build(crops))

    resumed = build({**crops, "data.workers": 3, "data.prefetch": 7})
    resumed.state.position, resumed.state.step = 88, 11

    assert rows_of(resumed) == whole[88:]


def test_a_sample_that_comes_again_is_augmented_anew(build):
    run = build({"data.train.transforms": [{"random_crop": {"size": 4, "padding": 3}}], "train.steps": 40})

    seen = [json.dumps(image) for sample_id, image, _ in rows_of(run) if sample_id == 5]

    assert len(seen) >= 13
    assert len(set(seen)) > 8


def test_each_source_has_its_own_components(config, tmp_path, opened):
    image = cv2.imencode(".png", np.full((4, 4), 200, np.uint8))[1].tobytes()
    folder = tmp_path / "named"
    samples = [{"__key__": f"{i}", "left.png": image, "right.png": b"no image", "kind.txt": 7} for i in range(4)]
    write_shards(samples, folder, classes=None, kind="tiny")
    named = {"shards": str(folder), "image": "left.png", "label": "kind.txt"}

    rows = rows_of(opened(tiny.build(config(named=named))))

    found = {(image[0][0][0], label) for sample_id, image, label in rows if 6 <= sample_id < 10}
    assert found == {(200, 7)}
    with pytest.raises(UserError, match="the first sample has no component for 'cls'") as caught:
        tiny.build(config(other={"shards": str(folder)}))
    assert "data.train.mixture.other" in str(caught.value)


# --- bad samples, and what does not fit ---


def test_a_bad_sample_is_named_with_its_source(build):
    run = build({"train.steps": 12, "data.bad_sample": "mask"}, greys=greys(bad=[2]))

    batches = list(run.host_batches())

    problems = {str(problem) for batch in batches for problem in batch.problems}
    assert problems == {"item 2 in test_mixture:Greys: OSError: the scanner was off"}
    assert sum(batch.n_bad for batch in batches) == sum(8 - batch.n_valid for batch in batches) > 0


def test_its_stand_in_comes_from_the_same_source(build, opened):
    settings = {"train.steps": 12, "data.bad_sample": "substitute"}
    bad, whole = build(settings, greys=greys(n=20, bad=[2])), build(settings, greys=greys(n=20))

    rows, expected = rows_of(bad), rows_of(whole)

    assert sum(batch.n_bad for batch in bad.host_batches()) > 0
    for (found, image, label), (planned, *_) in zip(rows, expected, strict=True):
        assert found == planned if planned != 2 else found != 2 and found < 20
        assert found >= 20 or (image[0][0][0], label) == (10 * found, found % 10)


def test_images_that_do_not_fit_the_others_are_named_with_their_source(build):
    with pytest.raises(UserError, match=r"large: item \d of test_mixture:Greys is 6x6x1, the first is 4x4x1"):
        list(build(large=greys(shape=(6, 6))).host_batches())
    with pytest.raises(UserError, match=r"red: item \d of test_mixture:Greys has 3 channels, 1 are expected"):
        list(build(red=greys(shape=(4, 4, 3))).host_batches())

    rows = rows_of(build({"data.train.transforms": [{"resize": [4, 4]}]}, large=greys(shape=(6, 6))))
    assert any(6 <= sample_id < 12 for sample_id, _, _ in rows)


def test_a_label_out_of_range_is_named_with_its_source(build):
    with pytest.raises(UserError, match=r"the label [5-9] of noise: \d+ in 00000\d.tar is out of range"):
        list(build({"model.args": {"classes": 6}}).host_batches())


def renumbered(samples):
    return ({**sample, "cls": 1} for sample in samples)


def test_sources_in_which_a_number_means_different_classes_are_refused(build, tmp_path):
    def mixed(ours, theirs, overrides=None, **settings):
        return build(overrides, greys=greys(classes=ours), other={**greys(classes=theirs), **settings})

    with pytest.raises(UserError, match="the class 1 is 'dog' in other, but 'bee' in greys") as caught:
        mixed(["ant", "bee"], ["ant", "dog", "cow"])
    assert caught.value.where == "data.train.mixture" and "data pack table" in caught.value.fix
    with pytest.raises(UserError, match="the class 0 is 'cat' in greys, but 'dog' in other"):
        mixed(["cat", "dog"], ["dog", "cat"])

    mixed(["cat", "dog"], ["cat", "dog", "cow"])
    mixed(["cat", "dog"], None)
    mixed(["cat", "dog"], ["ant"], label="kind")  # the list names the classes of another label
    unlabelled = {"task": {"name": "autoencode"}, "model": {"name": "autoencoder", "args": {"inputs": 16}}}
    mixed(["cat", "dog"], ["ant"], unlabelled)
    image = cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()
    write_shards([{"__key__": "0", "png": image, "cls": 0}], tmp_path / "dogs", classes=["dog"], kind="tiny")
    dogs = {"shards": str(tmp_path / "dogs"), "stages": [{"test_mixture:renumbered": None}]}
    build(greys=greys(classes=["cat", "dog"]), dogs=dogs)


def test_a_source_that_is_not_there_is_named_with_its_key(build, tmp_path):
    with pytest.raises(UserError) as caught:
        build(gone={"shards": str(tmp_path / "gone")})
    assert caught.value.where.startswith("data.train.mixture.gone.shards: ")


# --- runs ---


def test_the_order_in_which_sources_are_written_means_nothing(config, opened):
    one = config()
    turned = config().model_copy(deep=True)
    turned.data.train.mixture.update(noise=turned.data.train.mixture.pop("noise"))
    turned.data.train.mixture.update(greys=turned.data.train.mixture.pop("greys"))
    assert list(one.data.train.mixture) != list(turned.data.train.mixture)

    first, second = opened(tiny.build(one)), opened(tiny.build(turned))

    assert first.description["data"] == second.description["data"]
    assert rows_of(first) == rows_of(second)


def test_other_weights_or_sources_are_another_run(config, opened, tmp_path):
    before = config()
    heavier = config(greys={**greys(), "weight": 2})
    larger = config(greys={**greys(n=7), "weight": 1})
    moved = config(noise={"shards": str(tiny.write_corpus(tmp_path / "moved", 20)), "weight": 3})
    other = config(noise={"shards": str(tiny.write_corpus(tmp_path / "other", 21)), "weight": 3})

    assert compare(before, heavier)[0] == ["data.train.mixture.greys.weight: 1.0 -> 2.0"]
    assert compare(before, config(more=greys()))[0] and not compare(before, moved)[0]
    here = [opened(tiny.build(each)).description["data"] for each in (before, moved, heavier, larger, other)]
    assert here[0] == here[1]
    assert here[0] not in here[2:]
    assert here[0]["mixture"] == {"greys": 1, "noise": 3}


def test_an_epoch_is_as_long_as_all_sources_or_as_asked_for(build):
    by_epochs = {"train.steps": None, "train.epochs": 2}

    assert [build({**by_epochs, "data.draws": draws}).end for draws in (None, 10)] == [52, 20]


def test_explain_names_the_source(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTDL_TRUST_PLUGINS", "1")
    opened = open_run(tmp_path / "runs" / "run", config(), resume=False)
    opened.lease.close()
    batches = [batch["sample_id"].tolist() for batch in distdl.batches(opened.folder.config, rank=1, world_size=2)]

    texts = [explain("run", step=3, rank=1, row=row, world_size=2) for row in range(4)]

    for text, sample_id in zip(texts, batches[2], strict=True):
        lines = text.splitlines()
        assert lines[0].endswith(f"sample {sample_id}")
        if sample_id < 6:
            assert lines[2:] == [
                f"source      greys, its sample {sample_id}",
                f"item        {sample_id} of test_mixture:Greys",
            ]
        else:
            assert lines[2] == f"source      noise, its sample {sample_id - 6}"
            assert any(line == f"key         {sample_id - 6:05}" for line in lines)


def test_the_code_of_a_source_is_asked_about_as_any_other(config):
    assert "test_mixture:Greys" in trust.code_in(config())


# --- shards elsewhere ---


def test_remote_sources_are_told_of_their_own_samples_alone(config, corpus, tmp_path, opened):
    larger = tiny.write_corpus(tmp_path / "larger", 35)
    remote = {"data.remote": {"cache": str(tmp_path / "cache"), "deadline": "5 s"}, "train.steps": 20}
    local = rows_of(opened(tiny.build(config({"train.steps": 20}, larger={"shards": str(larger)}))))
    with Web(corpus) as web, Web(larger) as other:
        elsewhere = {"noise": {"shards": web.url, "weight": 3}, "larger": {"shards": other.url}}
        run = opened(tiny.build(config(remote, **elsewhere)))
        read = {dataset.path: steps for dataset, steps in stage._trained_on(run)}
        ids = {path: {int(i) for rows in steps for i in rows.sample_id} for path, steps in read.items()}
        stage.fetch_ahead(run)

        assert rows_of(run) == local
        run.close()

    firsts = {web.url: (41, 61), other.url: (6, 41)}  # greys, larger, noise
    assert ids == {
        url: {sample_id - begin for sample_id, _, _ in local if begin <= sample_id < end}
        for url, (begin, end) in firsts.items()
    }
    shares = {dataset.path: stage.share_of_node(dataset, steps) for dataset, steps in stage._trained_on(run)}
    assert sorted(shares[web.url]) == [0, 1, 2]


# --- configs ---

CONFIG = """\
model: {name: lenet5}
data:
  train: {mixture: {a: {shards: x, weight: 2}, b: {folder: y}}, transforms: [flip]}
train: {global_batch: 8, epochs: 1}
optim: {lr: 0.1}
"""


def mistakes(tmp_path, *overrides, text=CONFIG):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load(tmp_path / "x.yaml", overrides)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_a_mixture_reads_back_as_it_was_written(tmp_path):
    (tmp_path / "x.yaml").write_text(CONFIG)

    split = load(tmp_path / "x.yaml", ["data.train.mixture.b.weight=0.5", "data.draws=100"]).config.data.train

    assert {name: source.weight for name, source in split.mixture.items()} == {"a": 2, "b": 0.5}
    assert split.source == "a + b"
    (tmp_path / "y.yaml").write_text(dump(load(tmp_path / "x.yaml").config))
    assert load(tmp_path / "y.yaml").config == load(tmp_path / "x.yaml").config


@pytest.mark.parametrize(
    "override, problem",
    [
        ("data.train.mixture.a.weight=0", "data.train.mixture.a.weight: should be greater than 0 (got 0)"),
        ("data.train.mixture.a.weight=-1", "data.train.mixture.a.weight: should be greater than 0 (got -1)"),
        ("data.train.mixture.a.wieght=3", "'data.train.mixture.a.wieght' - did you mean data.train.mixture.a.weight?"),
        ("data.train.mixture.a.transforms=[flip]", "unknown key 'data.train.mixture.a.transforms'"),
        ("data.train.mixture.c.weight=1", "missing key 'data.train.mixture.c.shards'"),
        (
            "data.train.mixture.b.shards=z",
            "data.train.mixture.b: give one of shards, folder, manifest and dataset, not",
        ),
        ("data.train.shards=z", "give one of shards, folder, manifest, dataset and mixture, not shards and mixture"),
        ("data.train.label=z", "each source has its own 'label': give it there"),
        (
            "data.sampling=balanced",
            "data.sampling: a mixture is drawn by the weights of its sources, so 'balanced' has",
        ),
        ("data.eval={mixture: {a: {shards: x}}}", "data.eval: a mixture is only trained on"),
        ("data.eval={dev: {mixture: {a: {shards: x}}}, test: {shards: y}}", "data.eval: a mixture is only trained on"),
    ],
)
def test_a_mistake_is_answered_with_its_key(tmp_path, override, problem):
    assert problem in mistakes(tmp_path, override)


def test_an_empty_mixture_is_a_mistake(tmp_path):
    text = CONFIG.replace("{a: {shards: x, weight: 2}, b: {folder: y}}", "{}")

    assert mistakes(tmp_path, text=text) == "x.yaml:3: data.train.mixture: a mixture has at least one source"
