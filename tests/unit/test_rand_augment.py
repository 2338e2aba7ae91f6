"""RandAugment: each operation beside Pillow's, and how they are drawn."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from test_colour import batch, levels, pictures

from distdl.data.pictures import transforms
from distdl.data.pictures.rand_augment import OPERATIONS, RandAugment, applied, inverse_matrices
from distdl.data.pictures.row_draws import RowDraws
from distdl.data.pictures.transforms import Normalise
from distdl.errors import UserError

GREY = (128, 128, 128)


def affine(image, *coefficients):
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=GREY)


# What AutoAugment's reference does by Pillow, at a strength of -1 to 1 (only strengths from 0 on where it has no sign).
REFERENCE = {
    "identity": lambda image, s: image,
    "autocontrast": lambda image, s: ImageOps.autocontrast(image),
    "equalize": lambda image, s: ImageOps.equalize(image),
    "solarize": lambda image, s: ImageOps.solarize(image, round(256 * (1 - abs(s)))),
    "posterize": lambda image, s: ImageOps.posterize(image, 8 - round(4 * abs(s))),
    "color": lambda image, s: ImageEnhance.Color(image).enhance(1 + 0.9 * s),
    "contrast": lambda image, s: ImageEnhance.Contrast(image).enhance(1 + 0.9 * s),
    "brightness": lambda image, s: ImageEnhance.Brightness(image).enhance(1 + 0.9 * s),
    "sharpness": lambda image, s: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * s),
    "rotate": lambda image, s: image.rotate(30 * s, Image.Resampling.BILINEAR, fillcolor=GREY),
    "shear_x": lambda image, s: affine(image, 1, 0.3 * s, 0, 0, 1, 0),
    "shear_y": lambda image, s: affine(image, 1, 0, 0, 0.3 * s, 1, 0),
    "translate_x": lambda image, s: affine(image, 1, 0, 150 / 331 * image.width * s, 0, 1, 0),
    "translate_y": lambda image, s: affine(image, 1, 0, 0, 0, 1, 150 / 331 * image.height * s),
}


def test_these_are_the_fourteen_of_the_paper():
    assert set(REFERENCE) == set(OPERATIONS) and len(OPERATIONS) == 14


@pytest.mark.parametrize("signed", [-1.0, -0.3, 0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pillows_within_rounding(name, signed):
    images = pictures(height=40, width=56)
    n = len(images)
    operation = np.full(n, OPERATIONS.index(name))

    found = levels(applied(batch(images), operation, np.full(n, abs(signed)), np.full(n, np.sign(signed)), fill=128))

    expected = np.stack([np.asarray(REFERENCE[name](Image.fromarray(each), signed)) for each in images]).astype(int)
    difference = abs(found - expected)
    assert np.array_equal(found, np.floor(found)) and found.min() >= 0 and found.max() <= 255
    if name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        # In a source exactly on the border of the image, fp32 and Pillow's fixed point may differ on which side it is.
        assert np.mean(difference.max(axis=3) > 1) < 0.005
    else:
        assert difference.max() <= 1


def test_all_operations_of_a_batch_at_once_are_those_of_each_row():
    images = batch(pictures(n=14))
    operation, strength, sign = np.arange(14), np.linspace(0.2, 1, 14), np.tile([1.0, -1.0], 7)

    together = applied(images, operation, strength, sign, fill=128)

    for row in range(14):
        at = slice(row, row + 1)
        alone = applied(images[at], operation[at], strength[at], sign[at], fill=128)
        assert torch.equal(alone[0], together[row])


def augment(images, keys, **arguments):
    return RandAugment(**arguments).of_batch(images, RowDraws(np.asarray(keys, np.uint64)), Normalise([0.0], [1.0]))


def test_the_pixels_of_a_sample_depend_on_its_key_alone():
    images, keys = batch(pictures(n=12)), np.arange(12)

    whole = augment(images, keys, deviation=5)

    parts = [augment(images[at], keys[at], deviation=5) for at in (slice(0, 5), slice(5, 6), slice(6, 12))]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, augment(images, keys + 1, deviation=5))


def test_every_operation_is_drawn_alike_often():
    drawn = RowDraws(np.arange(28_000, dtype=np.uint64)).below(len(OPERATIONS))

    assert np.bincount(drawn) / 2000 == pytest.approx(np.ones(14), abs=0.1)


def test_a_magnitude_of_0_leaves_all_but_contrast_and_histogram():
    images = batch(pictures(n=14))
    operation = np.arange(14)

    found = applied(images, operation, np.zeros(14), np.ones(14), fill=128)

    same = [bool(torch.equal(found[row], images[row])) for row in range(14)]
    assert [OPERATIONS[row] for row in range(14) if not same[row]] == ["autocontrast", "equalize"]


def test_fractions_of_levels_are_rounded_before_anything_else():
    images = batch(pictures())

    assert torch.equal(augment(images + 0.3, range(4)), augment(images, range(4)))


def test_a_turn_leaves_the_middle_and_a_shear_the_corner():
    matrices = inverse_matrices(np.array([OPERATIONS.index(n) for n in ("rotate", "shear_x")]), np.ones(2), 10, 20)

    for matrix, point in zip(matrices, [(10, 5), (0, 0)]):
        moved = matrix.reshape(2, 3) @ [*point, 1]
        assert moved == pytest.approx(point, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "rand_augment: n is a whole number from 1 to 14"),
        ({"n": 2.5}, "rand_augment: n is a whole number"),
        ({"magnitude": 31}, "rand_augment: magnitude is a number from 0 to 30"),
        ({"deviation": -1}, "rand_augment: deviation is a number from 0 to 30"),
        ({"fill": 300}, "rand_augment: fill is a number from 0 to 255"),
        ({"strength": 3}, "transform 'rand_augment' takes no argument 'strength'"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused_with_its_place(arguments, message):
    with pytest.raises(UserError, match=rf"data\.train\.transforms\[0\]: {message}"):
        transforms.build([{"rand_augment": arguments}], "data.train")
