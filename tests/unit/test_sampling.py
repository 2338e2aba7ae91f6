"""data.sampling: the weights that samples are drawn by, from their classes or from a file."""

import cv2
import numpy as np
import pytest
import tiny
from web import Web

from distdl.config.schema import DataConfig, RemoteConfig
from distdl.data import sampling
from distdl.data.corpus import shards
from distdl.data.corpus.dataset import Dataset
from distdl.data.own import OwnDataset
from distdl.errors import UserError

LABELS = [0, 0, 0, 0, 2, 2, 0, 5]


@pytest.fixture
def open_corpus(tmp_path):
    opened = []

    def make(labels=LABELS):
        folder = tmp_path / "corpus"
        samples = [{"__key__": f"{i:02}", "png": b"", "cls": label} for i, label in enumerate(labels)]
        shards.write_shards(samples, folder, classes=None, kind="test", shard_samples=3)
        opened.append(Dataset.open(folder))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def weights(dataset, how="balanced"):
    config = DataConfig.model_validate({"train": {"shards": dataset.path}, "sampling": str(how)})
    return sampling.weights_of(config, dataset)


def test_balanced_weights_give_every_class_the_same_sum(open_corpus):
    found = weights(open_corpus())

    assert found.tolist() == [1 / 5, 1 / 5, 1 / 5, 1 / 5, 1 / 2, 1 / 2, 1 / 5, 1]


def test_labels_are_read_once_and_kept_beside_the_indexes(open_corpus, monkeypatch):
    corpus = open_corpus()
    first = weights(corpus)
    monkeypatch.setattr(corpus, "read", lambda *arguments, **options: pytest.fail("read again"))

    assert (weights(corpus) == first).all()


def test_labels_of_shards_elsewhere_are_read_by_their_ranges_and_kept_in_the_users_cache(
    open_corpus, tmp_path, monkeypatch
):
    near = weights(open_corpus())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Web(tmp_path / "corpus") as web:
        for is_read in (True, False):  # once
            web.requests.clear()
            far = Dataset.open(web.url, remote=RemoteConfig(cache_gb=0))
            with far:
                assert (weights(far) == near).all()
            assert any(asked.name.endswith(".tar") for asked in web.requests) == is_read

    assert [path.name for path in (tmp_path / "cache" / "distdl").iterdir()] == [f"labels-cls-{far.identity}.bin"]


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:-1] + b"\x07"])
def test_damaged_labels_are_read_anew(open_corpus, tmp_path, damage):
    corpus = open_corpus()
    first = weights(corpus)
    (kept,) = (tmp_path / "corpus").glob("labels-cls-*.bin")
    kept.write_bytes(damage(kept.read_bytes()))

    assert (weights(corpus) == first).all()


def test_a_sample_whose_label_can_not_be_read_is_never_drawn(open_corpus, tmp_path):
    corpus = open_corpus()
    tar = tmp_path / "corpus" / "000000.tar"
    content = bytearray(tar.read_bytes())
    content[content.index(b"01.cls") + 1024 - 512] ^= 1  # the first byte of that component's data
    tar.write_bytes(content)

    assert weights(corpus)[:3].tolist() == [1 / 4, 0, 1 / 4]


def test_labels_that_are_no_class_numbers_can_not_be_balanced(open_corpus):
    with pytest.raises(
        UserError, match=r"label of 01 in 000000.tar is not a whole number: b'0 3'[\s\S]*file of weights"
    ):
        weights(open_corpus([0, [0, 3]]))


def test_weights_from_a_file_are_in_the_order_of_sample_ids(open_corpus, tmp_path):
    (tmp_path / "w.txt").write_text("1\n0\n2.5\n1e-3\n1\n1\n1\n1\n")

    assert weights(open_corpus(), tmp_path / "w.txt").tolist() == [1, 0, 2.5, 1e-3, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "text, problem",
    [
        ("1\n2\n", "2 weights for 8 samples"),
        ("1\n" * 3 + "one\n" + "1\n" * 4, r"w.txt:4: 'one' is not a number from 0 on"),
        ("1\n" * 7 + "-1\n", r"w.txt:8: '-1' is not a number"),
        ("nan\n" * 8, r"w.txt:1: 'nan' is not a number"),
        ("0\n" * 8, "add up to 0"),
        ("1e308\n" * 8, "more than a number can hold"),
    ],
)
def test_an_unfit_file_of_weights_is_named_with_its_line(open_corpus, tmp_path, text, problem):
    (tmp_path / "w.txt").write_text(text)

    with pytest.raises(UserError, match=problem):
        weights(open_corpus(), tmp_path / "w.txt")


def test_a_slip_of_the_pen_is_not_taken_for_a_file_alone(open_corpus):
    with pytest.raises(UserError, match=r"can't read 'balancd' as a file.* - did you mean balanced\?"):
        weights(open_corpus(), "balancd")


class Items:
    def __init__(self, labels, **attributes):
        self.labels = labels
        vars(self).update(attributes)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return np.zeros((2, 2), np.uint8), self.labels[i]


@pytest.mark.parametrize("items", [Items([1, 1, 4]), Items([None] * 3, targets=np.array([1, 1, 4]))])
def test_a_dataset_of_ones_own_is_balanced_by_its_targets_or_else_by_its_items(items):
    assert weights(OwnDataset(items, "own", "identity")).tolist() == [1 / 2, 1 / 2, 1]


def test_a_run_draws_its_classes_alike(tmp_path, opened):
    labels = [0] * 90 + [1] * 10
    png = cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()
    samples = [{"__key__": f"{i:02}", "png": png, "cls": label} for i, label in enumerate(labels)]
    shards.write_shards(samples, tmp_path / "corpus", classes=None, kind="test")
    overrides = {"data.sampling": "balanced", "data.draws": 400, "train.steps": None, "train.epochs": 1}
    run = opened(tiny.build(tiny.config(tmp_path / "corpus", overrides)))

    drawn = np.concatenate([batch.tensors["label"].numpy() for batch in run.host_batches()])

    assert len(drawn) == run.end == 400
    assert abs((drawn == 1).sum() - 200) < 30  # 3 deviations of independent draws
    assert "weights" in run.description["data"]


def test_the_length_of_an_epoch_in_draws_needs_draws(corpus):
    with pytest.raises(UserError, match="with natural sampling an epoch is the corpus"):
        tiny.build(tiny.config(corpus, {"data.draws": 10}))
