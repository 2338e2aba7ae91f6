"""Transforms: sizes, and randomness that is a function of the key."""

import numpy as np
import pytest

from distdl.data.order import augmentation_key
from distdl.data.pictures import transforms
from distdl.data.pictures.transforms import Draws
from distdl.errors import UserError


def an_image(height=6, width=8, channels=1):
    return np.arange(height * width * channels, dtype=np.uint8).reshape(height, width, channels)


def apply(config, image, key=0):
    built, _ = transforms.build([config], "data.train")
    return built[0](image, Draws(key))


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"resize": 12}, (12, 16, 1)),
        ({"resize": [5, 7]}, (5, 7, 1)),
        ({"resize": {"size": 3}}, (3, 4, 1)),
        ({"center_crop": 4}, (4, 4, 1)),
        ({"center_crop": 10}, (10, 10, 1)),
        ({"random_crop": {"size": 6, "padding": 2}}, (6, 6, 1)),
        ({"random_resized_crop": 5}, (5, 5, 1)),
        ({"flip": {}}, (6, 8, 1)),
        ({"pad": 2}, (10, 12, 1)),
    ],
)
def test_sizes(config, shape):
    assert apply(config, an_image()).shape == shape


def test_pad_surrounds_with_zeros():
    padded = apply({"pad": 2}, an_image())

    assert padded[2:-2, 2:-2].tolist() == an_image().tolist()
    assert not padded[:2].any() and not padded[:, -2:].any()


def test_center_crop_takes_the_middle():
    assert apply({"center_crop": 2}, an_image()).tolist() == an_image()[2:4, 3:5].tolist()


def test_flip_mirrors_about_half_of_the_time():
    flipped = [apply({"flip": 0.5}, an_image(), key)[0, 0, 0] != 0 for key in range(400)]

    assert 150 < sum(flipped) < 250
    assert apply({"flip": 1.0}, an_image()).tolist() == an_image()[:, ::-1].tolist()


def test_an_alternating_flip_mirrors_each_image_every_other_time():
    flip = {"flip": {"alternate": True}}
    mirrored = [
        [apply(flip, an_image(), augmentation_key(7, epoch, sample))[0, 0, 0] != 0 for epoch in range(4)]
        for sample in range(400)
    ]

    assert {tuple(each) for each in mirrored} == {(True, False, True, False), (False, True, False, True)}
    assert 150 < sum(each[0] for each in mirrored) < 250


@pytest.mark.parametrize(("border", "edge"), [("black", 0), ("edge", 8), ("mirror", 9)])
def test_what_is_cropped_from_outside_is_the_border(border, edge):
    crop = {"random_crop": {"size": [10, 12], "padding": 2, "border": border}}

    padded = apply(crop, an_image())

    assert padded.shape == (10, 12, 1) and padded[2:-2, 2:-2].tolist() == an_image().tolist()
    assert padded[3, 1, 0] == edge  # left of the second row, which begins with 8, 9


@pytest.mark.parametrize("config", [{"random_crop": 3}, {"random_resized_crop": 4}, {"flip": 0.5}])
def test_the_same_key_draws_the_same_and_others_differ(config):
    images = [apply(config, an_image(), key).tolist() for key in range(20)]

    assert images == [apply(config, an_image(), key).tolist() for key in range(20)]
    assert len({str(image) for image in images}) > 1


def test_draws_never_change():
    draws = Draws(1)

    assert [round(draws.uniform(), 12) for _ in range(3)] == [0.566561575172, 0.745781757263, 0.971002753587]


def test_normalise_is_left_to_the_device_and_must_come_last():
    normalise = {"normalise": {"mean": [0.5], "std": [0.25]}}

    built, kept = transforms.build([{"flip": {}}, normalise], "data.train")

    assert len(built) == 1 and kept.mean == (0.5,) and kept.std == (0.25,)
    with pytest.raises(UserError, match="must be the last"):
        transforms.build([normalise, {"flip": {}}], "data.train")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"resize": {"sise": 3}}, r"data.train.transforms\[0\]: transform 'resize' takes no argument 'sise'"),
        ({"center_crop": "big"}, "a number of pixels"),
        ({"normalise": {"mean": [0.5], "std": [0]}}, "each std above 0"),
    ],
)
def test_wrong_arguments_are_answered_with_their_place(config, message):
    with pytest.raises(UserError, match=message):
        transforms.build([config], "data.train")
