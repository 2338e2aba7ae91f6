"""The grid of guarantees: global batches, to the last pixel, are the same for any number of ranks and decoding threads.

Every rank is a plan and a loader of its own, in this process; nothing but the position goes from one to the next.
"""

import hashlib
import itertools
import random
from collections import Counter
from contextlib import closing

import cv2
import numpy as np
import pytest

from distdl.config.sources import SplitConfig
from distdl.data import labels
from distdl.data.corpus import shards
from distdl.data.corpus.dataset import Dataset
from distdl.data.engine import Loader
from distdl.data.order import Plan
from distdl.data.workers import Threads

N, GLOBAL_BATCH, EPOCHS = 61, 11, 3  # nothing divides anything
BAD = (7, 40)
TRANSFORMS = [{"random_resized_crop": 16}, "flip", {"rotate": 10}, {"colour_jitter": {"brightness": 0.4}}]
WORLD_SIZES = (1, 2, 3, 4, 8)


def jpeg(i):
    picture = np.random.default_rng(i).integers(0, 256, (5, 6, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(picture, (48, 40), interpolation=cv2.INTER_CUBIC))[1].tobytes()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "corpus"
    samples = [
        {"__key__": f"{i:03}", "jpg": b"unreadable" if i in BAD else jpeg(i), "cls": str(i % 10)} for i in range(N)
    ]
    shards.write_shards(samples, folder, classes=list("0123456789"), kind="test", shard_samples=9)
    return folder


def steps_of_rank(corpus, rank, world_size, workers, policy, begin=0, stop=None):
    """What a rank gets of the steps from position `begin` on: [(id, valid, label, key, pixels), ...] for each."""
    dataset = Dataset.open(corpus)
    plan = Plan(dataset.sizes, seed=3, global_batch=GLOBAL_BATCH, lanes=8, window=4)
    loader = Loader(
        dataset,
        SplitConfig(shards=str(corpus), transforms=TRANSFORMS),
        where="data.train",
        label=labels.class_number(10),
        augmentation_seed=plan.augmentation_seed,
        workers=Threads(workers),
        prefetch=3,
        bad_sample=policy,
        substitute=plan.next_in_lane,
    )
    end = plan.end_position(epochs=EPOCHS, steps=None)
    steps = plan.steps(begin, end if stop is None else stop, end=end)
    with closing(loader):
        return [rows_of(batch) for batch in loader.stream(rows.part(rank, world_size) for rows in steps)]


def rows_of(batch):
    names = ("sample_id", "valid", "label", "augment_key")
    pixels = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in batch.tensors["image"]]
    return list(zip(*(batch.tensors[name].tolist() for name in names), pixels))


def global_batches(corpus, world_size, workers, policy, begin=0, stop=None):
    """Of all ranks together; every rank has as many steps."""
    ranks = [steps_of_rank(corpus, rank, world_size, workers, policy, begin, stop) for rank in range(world_size)]
    return [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]


@pytest.fixture(scope="module")
def alone(corpus):
    return {policy: global_batches(corpus, 1, 1, policy) for policy in ("mask", "substitute")}


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_any_number_of_ranks_and_threads_makes_the_same_global_batches(corpus, alone, world_size, workers):
    policy = "substitute" if workers else "mask"

    assert global_batches(corpus, world_size, workers, policy) == alone[policy]


@pytest.mark.parametrize("seed", range(6))
def test_a_run_stopped_anywhere_goes_on_alike_on_any_other_number_of_ranks(corpus, alone, seed):
    draws = random.Random(seed)
    stop = draws.randrange(1, len(alone["substitute"])) * GLOBAL_BATCH
    before, after = draws.sample(WORLD_SIZES, 2)

    first = global_batches(corpus, before, 2, "substitute", stop=stop)
    rest = global_batches(corpus, after, 0, "substitute", begin=stop)

    assert first + rest == alone["substitute"]


def test_every_sample_comes_once_an_epoch_and_is_augmented_anew_in_each(alone):
    valid = [row for batch in alone["mask"] for row in batch if row[1]]

    times = Counter(sample_id for sample_id, *_ in valid)
    assert times == {i: EPOCHS for i in range(N) if i not in BAD}
    assert len({row[-1] for row in valid}) == len(valid)
    assert len(alone["mask"]) == -(-EPOCHS * N // GLOBAL_BATCH)
    assert {len(batch) for batch in alone["mask"]} == {GLOBAL_BATCH}
