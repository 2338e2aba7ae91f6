"""Stages: generators of one's own, or webdataset's, between reading and decoding. Order and seeds stay the plan's."""

import random

import cv2
import numpy as np
import pytest
import tiny
import webdataset as wds

from distdl.config.schema import SplitConfig
from distdl.data import labels
from distdl.data.corpus.dataset import Dataset
from distdl.data.corpus.shards import write_shards
from distdl.data.engine import Loader
from distdl.data.order import Rows, seed_of
from distdl.data.workers import Threads
from distdl.errors import UserError


def png(value, size=(4, 4), channels=1):
    return cv2.imencode(".png", np.full((*size, channels), value, np.uint8))[1].tobytes()


@pytest.fixture
def folder(tmp_path):
    """Sample i is a grey image of value i, with label i % 10."""
    samples = [{"__key__": f"{i:04}", "png": png(i), "cls": i % 10} for i in range(40)]
    write_shards(samples, tmp_path / "corpus", classes=None, kind="test", shard_samples=6)
    return tmp_path / "corpus"


@pytest.fixture
def read():
    """Call it with a folder and stages, for the batch of the first `n` samples."""
    loaders = []

    def batch(folder, *stages, n=40, workers=1, epoch=0, bad_sample="mask", **split):
        config = SplitConfig(shards=str(folder), stages=[named(stage) for stage in stages], **split)
        loader = Loader(
            Dataset.open(folder),
            config,
            where="data.train",
            label=labels.class_number(10),
            augmentation_seed=lambda epoch, offset, sample_id: seed_of(7, epoch, sample_id),
            workers=Threads(workers),
            prefetch=2,
            bad_sample=bad_sample,
        )
        loaders.append(loader)
        rows = Rows.of(np.arange(n))
        (found,) = loader.stream([Rows(rows.sample_id, rows.epoch + epoch, rows.offset, rows.valid)])
        return found

    yield batch
    for each in loaders:
        each.close()


def named(stage):
    """A function of this file, by its name; anything else as it would stand in a config."""
    return f"test_stages:{stage.__name__}" if callable(stage) else stage


def values(batch):
    return batch.tensors["image"][:, 0, 0, 0].tolist()


# --- stages, as a user would write them ---


def brighter(samples):
    """Works on pixels, so that later stages and the loader get an array."""
    for sample in samples:
        yield sample | {"png": cv2.imdecode(np.frombuffer(sample["png"], np.uint8), cv2.IMREAD_GRAYSCALE) + 100}


def relabelled(samples):
    for sample in samples:
        sample["cls"] = (int(sample["cls"]) + 1) % 10  # a value instead of bytes
        yield sample


def even(samples):
    for sample in samples:
        if int(sample["cls"]) % 2 == 0:
            yield sample


def noisy(samples):
    for sample in samples:
        value = random.Random(sample["__seed__"]).randrange(256)
        yield sample | {"png": np.full((4, 4), value, np.uint8)}


def at_least(least):
    """Makes a stage."""
    return wds.select(lambda sample: int(sample["cls"]) >= least)


def failing_at_seven(samples):
    for sample in samples:
        if sample["cls"] == b"7":
            raise LookupError("seven is missing from the table")
        yield sample


def twice(samples):
    for sample in samples:
        yield sample
        yield sample


def not_a_generator(samples):
    return next(samples)


def all_components(samples):
    for sample in samples:
        assert sample["__key__"] == "0000" or sample["__url__"].endswith(".tar")
        yield {"image": sample["png"], "class": sample["cls"]}


class Darker:
    """A stage that has to be made first."""

    def __init__(self, by=1):
        self.by = by

    def __call__(self, samples):
        for sample in samples:
            yield sample | {"png": png(max(0, int(sample["__key__"]) - self.by))}


# --- what comes of them ---


def test_stages_stand_one_behind_another_and_may_give_pixels_and_values(folder, read):
    batch = read(folder, brighter, relabelled)

    assert values(batch) == [100 + i for i in range(40)]
    assert batch.tensors["label"].tolist() == [(i + 1) % 10 for i in range(40)]
    assert batch.n_bad == 0


def test_the_image_may_stay_the_bytes_of_a_file_under_any_name(folder, read):
    batch = read(folder, all_components, image="image", label="class")

    assert values(batch) == list(range(40))


def test_a_class_or_a_function_with_arguments_makes_a_stage(folder, read):
    assert values(read(folder, Darker))[5] == 4
    assert values(read(folder, {"test_stages:Darker": {"by": 3}}))[5] == 2
    assert read(folder, {"test_stages:at_least": 5}).tensors["valid"].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1] * 4


@pytest.mark.parametrize("workers", [1, 3])
def test_random_numbers_depend_on_the_sample_and_the_epoch_alone(folder, read, workers):
    first = values(read(folder, noisy))

    assert values(read(folder, noisy, workers=workers)) == first
    assert values(read(folder, noisy, n=20, workers=workers)) == first[:20]
    assert values(read(folder, noisy, workers=workers, epoch=1)) != first
    assert len(set(first)) > 20


def test_what_a_stage_leaves_out_is_a_bad_sample(folder, read):
    batch = read(folder, even, n=10)

    assert batch.tensors["valid"].tolist() == [1, 0] * 5
    assert batch.tensors["sample_id"].tolist() == list(range(10))  # each keeps its place
    assert str(batch.problems[0]) == "0001 in 000000.tar: left out by stage test_stages:even"


def test_an_exception_in_a_stage_is_a_bad_sample_and_names_both(folder, read):
    batch = read(folder, failing_at_seven, n=10)

    problem = "0007 in 000001.tar: stage test_stages:failing_at_seven: LookupError: seven is missing from the table"
    assert [str(each) for each in batch.problems] == [problem]


def test_under_raise_the_traceback_of_a_stage_is_shown_and_the_stage_to_be_mended(folder, read):
    with pytest.raises(UserError, match=r"bad sample: 0007 in 000001\.tar: stage") as raised:
        read(folder, failing_at_seven, bad_sample="raise")
    with pytest.raises(UserError, match=r"bad sample: 0001 in 000000\.tar: left out by stage test_stages:even") as left:
        read(folder, even, bad_sample="raise")

    assert "in failing_at_seven" in raised.value.what and "in _passed" not in raised.value.what
    assert raised.value.what.endswith("\nLookupError: seven is missing from the table")
    for error in (raised.value, left.value):
        assert error.fix.startswith("Mend this code") and "data.bad_sample: mask" in error.fix


@pytest.mark.parametrize(
    "stage, mistake",
    [
        (twice, "made more than one sample of it"),
        (not_a_generator, "returned a dict"),
        ({"webdataset:to_tuple": "png cls"}, "made a tuple of it"),
    ],
)
def test_what_would_break_the_order_is_a_mistake(folder, read, stage, mistake):
    with pytest.raises(UserError, match=rf"0000 in 000000.tar: stage \S+ {mistake}[\s\S]*samples are picked by their"):
        read(folder, stage)


def test_webdatasets_decoding_gives_the_same_pixels_as_ours(tmp_path, read):
    random_ = np.random.default_rng(0)
    images = [random_.integers(0, 256, (5, 6, 3), dtype=np.uint8) for _ in range(6)]
    samples = [
        {"__key__": str(i), "png": cv2.imencode(".png", image)[1].tobytes(), "cls": i} for i, image in enumerate(images)
    ]
    write_shards(samples, tmp_path / "colour", classes=None, kind="test")

    theirs, ours = read(tmp_path / "colour", {"webdataset:decode": "pil"}, n=6), read(tmp_path / "colour", n=6)

    assert all((theirs.tensors[name] == ours.tensors[name]).all() for name in ours.tensors)
    assert theirs.tensors["image"][0].tolist() == images[0][:, :, ::-1].tolist()  # BGR when it was written


def test_webdatasets_stages_rename_and_map(folder, read):
    stages = [{"webdataset:rename": {"left.png": "png"}}, {"test_stages:mapped": {}}]

    assert values(read(folder, *stages, image="left.png")) == [255 - i for i in range(40)]


def mapped():
    return wds.map_dict(**{"left.png": lambda data: 255 - cv2.imdecode(np.frombuffer(data, np.uint8), 0)})


def test_a_component_that_the_stages_leave_none_of_is_named(folder, read):
    with pytest.raises(UserError, match=r"0000 in 000000.tar: it has no component for left.png \(it has: cls, png\)"):
        read(folder, even, image="left.png")


@pytest.mark.parametrize(
    "stage, problem",
    [
        ("test_stages:none_such", "module 'test_stages' has no attribute 'none_such'"),
        ({"test_stages:at_least": {"most": 3}}, "unexpected keyword argument 'most'"),
        ({"builtins:len": [1]}, "what 'builtins:len' returns is a int, not a stage"),
    ],
)
def test_a_stage_that_cant_be_made_is_answered_with_its_place(folder, read, stage, problem):
    with pytest.raises(UserError, match=problem) as caught:
        read(folder, brighter, stage)

    assert caught.value.where == "data.train.stages[1]"


def test_a_run_with_stages_goes_on_with_the_same_batches(corpus, opened):
    split = {"shards": str(corpus), "stages": ["test_stages:noisy"]}
    configured = tiny.config(corpus, {"data.train": split, "data.eval": split})
    whole = [batch.tensors["image"] for batch in opened(tiny.build(configured)).host_batches()]

    resumed = opened(tiny.build(configured))
    resumed.state.advance(3 * 8)
    rest = [batch.tensors["image"] for batch in resumed.host_batches()]

    assert len(whole) == 5 and len(rest) == 2
    assert all((a == b).all() for a, b in zip(whole[3:], rest, strict=True))


def test_a_dataset_of_ones_own_has_no_stages():
    with pytest.raises(ValueError, match="a dataset does that by itself"):
        SplitConfig(dataset="mine:dataset", stages=["mine:stage"])
