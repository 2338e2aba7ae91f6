"""Arithmetic on the colours of a batch, beside Pillow's ImageEnhance and ImageOps and Python's colorsys."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from distdl.data.pictures import colour

ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


def pictures(n=4, height=17, width=23, channels=3):
    """uint8 NHWC: noise of different spreads, and one that is all of one level."""
    random = np.random.default_rng(0)
    spreads = [(0, 256), (40, 200), (120, 136), (77, 78)]
    shape = (height, width, channels)
    return np.stack([random.integers(*spreads[i % len(spreads)], shape, dtype=np.uint8) for i in range(n)])


def batch(images_NHWC):
    return torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).float()


def levels(image_NCHW):
    return image_NCHW.permute(0, 2, 3, 1).double().numpy()


def column(values):
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)


def pillow(images_NHWC, function):
    """`function(image, row)` of each image by itself."""
    shape = images_NHWC.shape
    images = [Image.fromarray(each if shape[3] == 3 else each[:, :, 0]) for each in images_NHWC]
    return np.stack([np.asarray(function(image, row)).reshape(shape[1:]) for row, image in enumerate(images)])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ENHANCERS)
def test_to_enhance_is_what_pillow_does_within_its_rounding(name, channels):
    images, factors = pictures(channels=channels), [0.1, 0.7, 1.0, 1.9]

    found = getattr(colour, name)(batch(images), column(factors))

    expected = pillow(images, lambda image, row: ENHANCERS[name](image).enhance(factors[row]))
    assert abs(np.floor(levels(found)) - expected).max() <= 1
    assert np.array_equal(levels(found)[2], images[2])  # a factor of 1


@pytest.mark.parametrize("channels", [1, 3])
def test_equalize_is_pillows_to_the_last_level(channels):
    images = pictures(channels=channels)

    found = colour.equalize(batch(images))

    assert np.array_equal(levels(found), pillow(images, lambda image, _: ImageOps.equalize(image)))


def test_autocontrast_is_pillows_within_rounding():
    images = pictures()

    found = colour.autocontrast(batch(images))

    expected = pillow(images, lambda image, _: ImageOps.autocontrast(image))
    assert abs(levels(found) - expected).max() <= 1
    assert levels(found)[1].min() == 0 and levels(found)[1].max() == 255


def test_solarize_is_pillows():
    images, thresholds = pictures(), [0, 128, 130, 256]

    found = colour.solarize(batch(images), column(thresholds))

    expected = pillow(images, lambda image, row: ImageOps.solarize(image, thresholds[row]))
    assert np.array_equal(levels(found), expected)


def test_posterize_is_pillows():
    images, bits = pictures(), [8, 6, 4, 1]

    found = colour.posterize(batch(images), column([2.0 ** (8 - each) for each in bits]))

    expected = pillow(images, lambda image, row: ImageOps.posterize(image, bits[row]))
    assert np.array_equal(levels(found), expected)


def test_hue_is_turned_as_colorsys_would():
    images, turns = pictures(), [0.1, -0.25, 0.5, 0.3]

    found = levels(colour.hue(batch(images), column(turns)))

    for row, turn in enumerate(turns):
        for pixel, was in zip(found[row].reshape(-1, 3)[:50], images[row].reshape(-1, 3)):
            hue, saturation, value = colorsys.rgb_to_hsv(*(was / 255))
            expected = np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)) * 255
            assert pixel == pytest.approx(expected, abs=1e-2)


def test_grey_images_have_neither_hue_nor_saturation():
    grey = batch(pictures(channels=1))

    assert torch.equal(colour.hue(grey, column([0.3] * 4)), grey)
    assert torch.equal(colour.saturation(grey, column([0.3] * 4)), grey)


def test_images_too_small_to_be_smoothed_stay():
    tiny = batch(pictures(height=2, width=5))

    assert torch.equal(colour.sharpness(tiny, column([0.1] * 4)), tiny)


VALUES = column([0.3, 1.7, 0.5, 1.2])
ALL = {
    **{name: (lambda image, rows, name=name: getattr(colour, name)(image, VALUES[rows])) for name in ENHANCERS},
    "hue": lambda image, rows: colour.hue(image, VALUES[rows] - 1),
    "autocontrast": lambda image, rows: colour.autocontrast(image),
    "equalize": lambda image, rows: colour.equalize(image),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_bits_of_a_row_do_not_depend_on_its_batch(name, memory_format):
    image = batch(pictures(height=31, width=33)).contiguous(memory_format=memory_format)

    together = ALL[name](image, [0, 1, 2, 3])

    for row in range(4):
        assert torch.equal(ALL[name](image[row : row + 1], [row])[0], together[row])
