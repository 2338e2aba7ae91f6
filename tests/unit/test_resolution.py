"""Training images that grow: a function of the position, whatever was done before."""

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from distdl.comm.world import WorldInfo
from distdl.config.schema import ResolutionConfig
from distdl.data.order import Rows
from distdl.data.pictures import resolution, transforms
from distdl.errors import UserError
from distdl.trainer import setup
from distdl.trainer.state import TrainState
from distdl.trainer.step import train_step

GROWING = {"start": 2, "end": 6, "epochs": [0, 2], "multiple": 2}
POOLED = "tiny:pooled"


@pytest.fixture
def build(corpus, opened):
    """A run on 20 images of 4x4 pixels, with images that grow."""

    def make(overrides=None, position=0):
        state = TrainState(position=position, step=position // 5)
        settings = {"train.global_batch": 5, "train.steps": 12, "train.resolution": GROWING, "model.name": POOLED}
        config = tiny.config(corpus, {**settings, **(overrides or {})})
        return opened(setup.build(config, WorldInfo(), torch.device("cpu"), state))

    return make


def sides(run):
    return [batch.tensors["image"].shape[1] for batch in run.host_batches()]


# --- the schedule ---


def test_sizes_grow_linearly_between_two_epochs():
    growing = ResolutionConfig(start=128, end=224, epochs=(10, 70), multiple=32)

    found = [resolution.side_at(growing, epoch) for epoch in (0, 10, 25, 40, 55, 69.99, 70, 90)]

    assert found == [128, 128, 160, 192, 192, 224, 224, 224]


@given(st.integers(1, 300), st.integers(0, 300), st.floats(0, 50), st.floats(0, 50), st.integers(1, 64))
def test_sizes_never_shrink_and_stay_within_their_bounds(start, more, first, length, multiple):
    growing = ResolutionConfig(start=start, end=start + more, epochs=(first, first + length), multiple=multiple)

    found = [resolution.side_at(growing, epoch) for epoch in np.linspace(0, 110, 200)]

    assert found == sorted(found) and found[-1] == start + more
    assert all(side in (start, start + more) or side % multiple == 0 for side in found)
    assert first == 0 or found[0] == start


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": 8}, "start is at most end"),
        ({"epochs": [3, 2]}, r"epochs is \[first, last\]"),
        ({"epochs": [-1, 2]}, "greater than or equal to 0"),
        ({"multiple": 0}, "greater than or equal to 1"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        ResolutionConfig(**{**GROWING, **values})


# --- the transforms ---


def build_list(*configs):
    written = [{each: {}} if isinstance(each, str) else each for each in configs]
    return transforms.build(written, "data.train")[0]


def names(chain):
    return [type(each).__name__ for each in chain]


def test_a_random_resized_crop_makes_the_smaller_images_itself():
    chain = build_list({"random_resized_crop": [8, 12]}, {"flip": 0.5}, {"rotate": 5})

    shape, smaller = resolution.sized(chain, (8, 12, 3), 4)

    assert shape == (4, 6, 3) and names(smaller) == names(chain)
    assert smaller[0].size == (4, 6) and chain[0].size == (8, 12)
    picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert smaller[0](picture, transforms.Draws(3)).shape == shape
    assert smaller[0].box(20, 20, transforms.Draws(3)) == chain[0].box(20, 20, transforms.Draws(3))


def test_after_anything_else_images_are_resized():
    chain = build_list({"resize": 10}, {"random_crop": 8})

    shape, smaller = resolution.sized(chain, (8, 8, 1), 4)

    assert shape == (4, 4, 1) and names(smaller) == ["Resize", "RandomCrop", "FromFullSize"]
    picture = np.full((9, 9, 1), 7, np.uint8)
    for transform in smaller:
        picture = transform(picture, transforms.Draws(1))
    assert picture.shape == shape and (picture == 7).all()


def test_images_of_different_sizes_are_not_hidden_by_it():
    _, smaller = resolution.sized(build_list("flip"), (8, 8, 1), 4)

    assert smaller[-1](np.zeros((8, 9, 1), np.uint8), transforms.Draws(0)).shape == (8, 9, 1)


def test_at_their_own_size_the_transforms_stay():
    chain = build_list({"random_resized_crop": 8})

    assert resolution.sized(chain, (8, 8, 1), 8) == ((8, 8, 1), chain)


# --- a run ---


def test_a_run_begins_with_small_images_and_ends_with_large_ones(build):
    assert sides(build()) == [2, 2, 4, 4, 4, 4, 4, 6, 6, 6, 6, 6]


def test_a_resumed_run_goes_on_with_the_sizes_of_its_position(build):
    whole = [batch.tensors["image"] for batch in build().host_batches()]
    resumed = [batch.tensors["image"] for batch in build(position=30).host_batches()]

    assert len(resumed) == 6
    assert all(torch.equal(*pair) for pair in zip(whole[6:], resumed, strict=True))


def test_it_trains_in_micro_batches_and_evaluates_at_full_size(build, corpus):
    run = build({"train.micro_batch": 2, "data.eval": {"shards": str(corpus)}})
    run.state.micro_batch = 2

    seen = []
    run.engine.model.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    for batch in run.host_batches():
        train_step(run, batch, 0.01)
        run.state.advance(5)

    assert seen[:3] == [(2, 2)] * 3 and seen[-3:] == [(6, 6)] * 3 and len(seen) == 36
    (evaluated,) = run.eval_loaders["eval"].stream([Rows.of(np.arange(3))])
    assert evaluated.tensors["image"].shape == (3, 4, 4, 1)


def test_what_probes_the_network_gets_the_largest_images(build):
    run = build()

    (batch,) = run.train_loader.stream([Rows.of(np.arange(3))])

    assert batch.tensors["image"].shape == (3, 6, 6, 1) and run.train_loader.image_shape == (6, 6, 1)


def test_a_network_of_one_size_is_refused(build):
    growing = {**GROWING, "end": 4}

    with pytest.raises(
        UserError, match=r"train\.resolution\.start: 'tiny:perceptron' takes images of 4x4, but not of 2x2"
    ):
        build({"model.name": "tiny:perceptron", "train.resolution": growing})
