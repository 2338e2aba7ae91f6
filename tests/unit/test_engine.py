"""The loader: the plan's order whatever the threads, and a policy for samples that can't be used."""

import threading

import cv2
import numpy as np
import pytest
import torch

from distdl.config.sources import SplitConfig
from distdl.data import labels
from distdl.data.corpus import shards
from distdl.data.corpus.dataset import Dataset
from distdl.data.engine import Loader
from distdl.data.order import Rows, seed_of, sequential_rows
from distdl.data.workers import Threads
from distdl.errors import UserError

CLASS_NUMBER = labels.class_number(10)


def png(value, size=(4, 4), channels=1):
    return cv2.imencode(".png", np.full((*size, channels), value, np.uint8))[1].tobytes()


def samples(n, **changed):
    """Sample i is a grey image of value i with label i % 10; `changed` replaces components of single samples."""
    for i in range(n):
        yield {"__key__": f"{i:04}", "png": png(i), "cls": str(i % 10).encode()} | changed.get(f"s{i}", {})


@pytest.fixture
def packed(tmp_path):
    def pack(n=20, **changed):
        folder = tmp_path / f"corpus{len(list(tmp_path.iterdir()))}"
        shards.write_shards(samples(n, **changed), folder, classes=list("0123456789"), kind="test", shard_samples=6)
        return folder

    return pack


@pytest.fixture
def loader():
    opened = []

    def make(folder, transforms=(), workers=1, bad_sample="mask", substitute=None, spec=CLASS_NUMBER, **split):
        config = SplitConfig(shards=str(folder), transforms=list(transforms), **split)
        opened.append(
            Loader(
                Dataset.open(folder),
                config,
                workers=Threads(workers),
                prefetch=2,
                where="data.train",
                label=spec,
                augmentation_seed=lambda epoch, offset, sample_id: seed_of(epoch, sample_id),
                bad_sample=bad_sample,
                substitute=substitute,
            )
        )
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def batches(loader, n, rows_per_batch=8):
    return list(loader.stream(sequential_rows(n, b, rows_per_batch) for b in range(-(-n // rows_per_batch))))


def test_a_batch_holds_what_its_rows_name(packed, loader):
    (batch,) = loader(packed()).stream([Rows.of(np.array([3, 17, 3]))])

    assert batch.tensors["image"].shape == (3, 4, 4, 1)
    assert batch.tensors["image"][:, 0, 0, 0].tolist() == [3, 17, 3]
    assert batch.tensors["label"].tolist() == [3, 7, 3]
    assert batch.tensors["valid"].tolist() == [1, 1, 1]
    assert batch.tensors["sample_id"].tolist() == [3, 17, 3]


@pytest.mark.parametrize("workers", [0, 3])
def test_nothing_depends_on_the_number_of_threads(packed, loader, workers):
    folder = packed(200)
    augment = [{"random_crop": {"size": 4, "padding": 2}}]

    one, several = batches(loader(folder, augment), 200), batches(loader(folder, augment, workers), 200)

    for a, b in zip(one, several, strict=True):
        assert all((a.tensors[name] == b.tensors[name]).all() for name in a.tensors)


def test_without_threads_of_its_own_the_caller_s_does_the_work_when_the_batch_is_asked_for(packed, loader):
    reading, did = loader(packed(), workers=0), []
    samples = reading._filler._samples
    real = samples.example
    samples.example = lambda *given: did.append(threading.current_thread()) or real(*given)

    stream = reading.stream(sequential_rows(20, b, 8) for b in range(3))

    next(stream)
    assert did == [threading.current_thread()] * 8
    assert len(list(stream)) == 2


def test_rows_have_the_key_of_their_augmentation_where_it_is_done_on_the_device(packed, loader):
    folder = packed(s1={"png": b"not an image"})
    rows = [Rows.of(np.array([3, 1, 7]))]

    (plain,) = loader(folder, ["flip"]).stream(rows)
    (keyed,) = loader(folder, ["flip", {"brightness": [0.5, 1.5]}], 3).stream(rows)

    assert "augment_key" not in plain.tensors
    assert keyed.tensors["augment_key"].tolist() == [seed_of(0, 3), 0, seed_of(0, 7)]
    assert torch.equal(keyed.tensors["image"], plain.tensors["image"])  # flipped, but not brighter yet


def test_padding_rows_are_not_valid(packed, loader):
    last = batches(loader(packed(10)), 10)[-1]

    assert last.tensors["valid"].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_a_bad_sample_is_masked_and_counted(packed, loader):
    folder = packed(s3={"png": b"not an image"}, s5={"png": b""})

    first = batches(loader(folder), 20)[0]

    assert first.tensors["valid"].tolist() == [1, 1, 1, 0, 1, 0, 1, 1]
    assert first.n_bad == 2
    assert [(bad.key, bad.component, bad.sample_id, bad.done) for bad in first.problems] == [
        ("0003", "png", 3, "masked"),
        ("0005", "png", 5, "masked"),
    ]
    assert first.problems[0].shard == str(folder / "000000.tar")
    assert str(first.problems[1]) == "0005.png in 000000.tar: no data"


def test_a_bad_sample_is_replaced_by_the_plans_next(packed, loader):
    folder = packed(s3={"png": b"not an image"})

    first = batches(loader(folder, bad_sample="substitute", substitute=lambda epoch, offset: (offset, 11)), 20)[0]

    assert first.tensors["sample_id"].tolist()[:5] == [0, 1, 2, 11, 4]
    assert first.tensors["image"][3, 0, 0, 0] == 11
    assert first.tensors["valid"].all()
    assert [(bad.sample_id, bad.done, bad.stand_in) for bad in first.problems] == [(3, "substituted", 11)]


def test_stand_ins_that_are_bad_as_well_are_told_of_and_after_ten_the_row_is_masked(packed, loader):
    folder = packed(**{f"s{i}": {"png": b"not an image"} for i in range(1, 20)})
    reading = loader(folder, bad_sample="substitute", substitute=lambda epoch, offset: (offset + 1, offset + 1))

    (batch,) = reading.stream([Rows.of(np.array([0, 1]))])

    assert batch.tensors["valid"].tolist() == [1, 0] and batch.tensors["sample_id"].tolist() == [0, 1]
    assert [(bad.sample_id, bad.stand_in) for bad in batch.problems] == [*zip(range(1, 10), range(2, 11)), (10, None)]


def test_a_bad_sample_is_named_under_the_policy_raise(packed, loader):
    folder = packed(s3={"png": b"not an image"})

    with pytest.raises(UserError, match=r"0003.png in 000000.tar"):
        batches(loader(folder, bad_sample="raise"), 20)


def test_or_it_is_masked_for_workers_who_end_together(packed, loader):
    folder = packed(s3={"png": b"not an image"})

    (batch,) = loader(folder, bad_sample="raise").batches([Rows.of(np.array([2, 3]))])

    assert batch.tensors["valid"].tolist() == [1, 0]
    assert [(bad.sample_id, bad.done) for bad in batch.problems] == [(3, "raised")]


def test_a_flipped_bit_in_a_shard_is_a_bad_sample(packed, loader):
    folder = packed()
    tar = folder / "000000.tar"
    content = bytearray(tar.read_bytes())
    content[content.index(png(2)) + 40] ^= 1
    tar.write_bytes(content)

    assert [batch.n_bad for batch in batches(loader(folder), 20)] == [1, 0, 0]


def test_a_label_out_of_range_is_named_with_what_to_do(packed, loader):
    folder = packed(s4={"cls": b"12"})

    with pytest.raises(UserError, match=r"label 12 of 0004 in 000000.tar is out of range.*10 classes[\s\S]*classes"):
        batches(loader(folder), 20)


def test_a_label_in_words_is_a_mistake_of_packing(packed, loader):
    folder = packed(s4={"cls": b"cat"})

    with pytest.raises(UserError, match=r"label cat of 0004 in 000000\.tar is not a whole number"):
        batches(loader(folder), 20)


def test_images_of_different_sizes_need_a_transform(packed, loader):
    folder = packed(s4={"png": png(4, (5, 4))})

    with pytest.raises(UserError, match=r"0004 in 000000.tar is 5x4x1, the first is 4x4x1"):
        batches(loader(folder), 20)
    assert len(batches(loader(folder, [{"resize": [4, 4]}]), 20)) == 3


def test_grey_images_among_colour_become_colour(packed, loader):
    folder = packed(s1={"png": png(7, channels=3)})
    colour = [{"normalise": {"mean": [0.5] * 3, "std": [0.2] * 3}}]

    first = batches(loader(folder, colour), 20)[0]

    assert first.tensors["image"].shape == (8, 4, 4, 3)
    with pytest.raises(UserError, match="3 channels, 1 are expected"):
        batches(loader(folder), 20)


def test_samples_without_an_image_are_answered_at_once(tmp_path, loader):
    shards.write_shards([{"__key__": "a", "txt": b"hello", "cls": b"0"}], tmp_path / "x", classes=["0"], kind="test")

    with pytest.raises(UserError, match=r"no component for an image \(it has: .*txt"):
        loader(tmp_path / "x")


def test_other_component_names_can_be_given(tmp_path, loader):
    named = [{"__key__": "a", "left.png": png(1), "right.png": png(2), "class": b"3"}]
    shards.write_shards(named, tmp_path / "x", classes=["0"], kind="test")

    (batch,) = loader(tmp_path / "x", image="right.png", label="class").stream([Rows.of(np.array([0]))])

    assert batch.tensors["image"].flatten()[0] == 2 and batch.tensors["label"].tolist() == [3]


def test_leaving_the_stream_early_leaves_nothing_running(packed, loader):
    reading = loader(packed(200))
    stream = reading.stream(sequential_rows(200, b, 8) for b in range(25))
    next(stream)

    stream.close()
    reading.close()

    with pytest.raises(RuntimeError, match="closed"):
        list(reading.stream([Rows.of(np.array([0]))]))


def test_a_corpus_may_mix_image_formats(tmp_path, loader):
    jpeg = cv2.imencode(".jpg", np.full((4, 4), 200, np.uint8))[1].tobytes()
    mixed = [{"__key__": "a", "png": png(1), "cls": b"0"}, {"__key__": "b", "jpg": jpeg, "cls": b"1"}]
    shards.write_shards(mixed, tmp_path / "x", classes=["0", "1"], kind="test")

    (batch,) = loader(tmp_path / "x").stream([Rows.of(np.array([0, 1]))])

    assert batch.n_bad == 0
    assert batch.tensors["image"][:, 0, 0, 0].tolist() == [1, 200]


def test_labels_are_what_the_task_asks_for_and_masked_rows_hold_the_ignored_value(tmp_path, loader):
    packed = [{"__key__": str(i), "png": png(i), "cls": cls} for i, cls in enumerate(("0 2", [1], ""))]
    packed.append({"__key__": "3", "png": b"not an image", "cls": "1"})
    shards.write_shards(packed, tmp_path / "x", classes=None, kind="test")

    (batch,) = loader(tmp_path / "x", spec=labels.class_set(3)).stream([Rows.of(np.arange(4))])

    assert batch.tensors["label"].tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert batch.tensors["valid"].tolist() == [1, 1, 1, 0]


def test_a_task_without_labels_reads_images_alone(tmp_path, loader):
    shards.write_shards([{"__key__": "a", "png": png(7)}], tmp_path / "x", classes=None, kind="test")

    (batch,) = loader(tmp_path / "x", spec=None).stream([Rows.of(np.array([0]))])

    assert set(batch.tensors) == {"image", "valid", "sample_id"}
    with pytest.raises(UserError, match=r"no component for 'cls' \(it has: png\)"):
        loader(tmp_path / "x")
