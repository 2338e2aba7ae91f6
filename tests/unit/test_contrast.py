"""Contrast normalisation, as the columns of the traffic sign committee differ in it."""

import cv2
import numpy as np
import pytest

from distdl.data.pictures.contrast import METHODS, Contrast
from distdl.data.pictures.transforms import Draws
from distdl.errors import UserError


def a_dim_picture(channels=3):
    """A slope from dark to less dark, 40 to 90, with a brighter square: uint8 (48, 48, channels)."""
    slope = np.linspace(40, 90, 48, dtype=np.float32)[None, :, None]
    image = np.broadcast_to(slope, (48, 48, channels)).copy()
    image[20:30, 20:30] += 20
    return image.astype(np.uint8)


def lightness(image):
    return image[:, :, 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[:, :, 0]


def by(method, image):
    return Contrast(method)(image, Draws(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_dim_picture_gets_more_contrast_and_keeps_its_shape_and_itself(method, channels):
    image = a_dim_picture(channels)
    before = image.copy()

    adjusted = by(method, image)

    assert adjusted.shape == image.shape and adjusted.dtype == np.uint8 and (image == before).all()
    assert np.ptp(lightness(adjusted)) > 1.5 * np.ptp(lightness(image))


def test_imadjust_spans_all_levels_and_histeq_uses_them_alike():
    image = a_dim_picture(channels=1)

    assert by("imadjust", image).min() == 0 and by("imadjust", image).max() == 255
    counts, _ = np.histogram(by("histeq", image), bins=8, range=(0, 256))
    assert counts.max() < 1.5 * counts.min()


def test_an_even_picture_has_no_edges_and_a_step_has_two_that_are_opposite():
    step = np.full((16, 16, 1), 50, np.uint8)
    assert (by("conorm", step) == 127).all()
    step[:, 8:] = 200

    row = by("conorm", step)[8, :, 0].astype(int)

    assert row.argmin() == 7 and row.argmax() == 8
    assert abs((row.min() - 127) + (row.max() - 127)) <= 2 and row[0] == row[-1] == 127


def test_hues_stay():
    red = np.zeros((48, 48, 3), np.uint8)
    red[..., 0] = np.arange(48)[None] + 60

    adjusted = by("imadjust", red)

    assert (adjusted[..., 0].astype(int) >= adjusted[..., 1]).all() and adjusted[24, 24, 0] > adjusted[24, 24, 2] + 20


def test_an_unknown_method_and_images_of_two_channels_are_mistakes():
    with pytest.raises(UserError, match="imadjust, histeq, adapthisteq, conorm"):
        Contrast("gamma")
    with pytest.raises(UserError, match="this one has 2"):
        by("histeq", np.zeros((4, 4, 2), np.uint8))
