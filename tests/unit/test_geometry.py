"""Rotate, zoom, shift and homography, beside Pillow's warps of the same points."""

import math

import cv2
import numpy as np
import pytest
from PIL import Image

from distdl.data.pictures import geometry, transforms
from distdl.data.pictures.transforms import Draws
from distdl.errors import UserError

WARPS = [{"rotate": 40}, {"zoom": [0.5, 2]}, {"shift": [0.2, 0.4]}, {"homography": {"distortion": 0.6, "p": 1.0}}]


def a_picture(height=48, width=64, channels=3):
    """Smooth, so that two bilinear samplers differ by rounding alone."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 6, channels), dtype=np.uint8)
    picture = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return picture.reshape(height, width, channels)


def build(*configs):
    built, _ = transforms.build(list(configs), "data.train")
    return built


def by_pillow(picture, matrix):
    """Warped by `matrix`, between the middles of pixels; Pillow counts from the corner."""
    to_middle, to_corner = np.eye(3), np.eye(3)
    to_middle[:2, 2], to_corner[:2, 2] = -0.5, 0.5
    inverse = np.linalg.inv(to_corner @ matrix @ to_middle)
    coefficients = (inverse / inverse[2, 2]).flatten()[:8]
    size = picture.shape[1], picture.shape[0]
    image = Image.fromarray(picture).transform(
        size, Image.Transform.PERSPECTIVE, coefficients.tolist(), Image.Resampling.BILINEAR
    )
    return np.asarray(image)


def inside(matrix, shape):
    """Pixels whose source is well within the image: at the border Pillow and OpenCV differ by design."""
    height, width = shape[:2]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    source = np.linalg.inv(matrix) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    sx, sy = source[:2] / source[2]
    return ((sx > 1) & (sx < width - 2) & (sy > 1) & (sy < height - 2)).reshape(height, width)


@pytest.mark.parametrize("config", WARPS, ids=lambda config: next(iter(config)))
def test_pixels_go_where_pillow_moves_them(config):
    (warp,), picture = build(config), a_picture()

    for key in range(5):
        matrix = warp.matrix(*picture.shape[:2], Draws(key))
        there = inside(matrix, picture.shape)
        difference = warp(picture, Draws(key)).astype(int) - by_pillow(picture, matrix)
        assert there.sum() > 100
        assert abs(difference)[there].max() <= 3  # OpenCV rounds places to 1/32 of a pixel


def test_a_turn_is_counter_clockwise_about_the_middle():
    (warp,) = build({"rotate": [90, 90]})
    picture = a_picture(32, 32)

    assert np.array_equal(warp(picture, Draws(0)), np.rot90(picture))


def test_a_shift_is_a_share_of_the_height_and_of_the_width():
    (shift,) = build({"shift": [0.1, 0.25]})
    moves = np.array([shift.matrix(100, 20, Draws(key))[[1, 0], 2] for key in range(200)])

    assert (abs(moves) <= [10, 5]).all() and (moves.min(0) < [-9, -4.5]).all() and (moves.max(0) > [9, 4.5]).all()


def test_zoom_leaves_the_middle():
    doubled = build({"zoom": [2, 2]})[0].matrix(20, 20, Draws(0))
    assert (doubled @ [9.5, 9.5, 1]).tolist() == [9.5, 9.5, 1]  # the middle stays
    assert (doubled @ [10.5, 9.5, 1]).tolist() == [11.5, 9.5, 1]


def test_the_corners_of_a_homography_move_inwards_by_no_more_than_asked():
    (warp,) = build({"homography": {"distortion": 0.4, "p": 1}})
    corners = np.array([[0, 0, 1], [63, 0, 1], [63, 47, 1], [0, 47, 1]]).T

    for key in range(20):
        x, y, w = warp.matrix(48, 64, Draws(key)) @ corners
        x, y = x / w, y / w
        moves = np.stack([x * [1, -1, -1, 1] + [0, 63, 63, 0], y * [1, 1, -1, -1] + [0, 0, 47, 47]])
        assert (moves > -1e-3).all() and (moves[0] <= 0.2 * 64 + 1e-3).all() and (moves[1] <= 0.2 * 48 + 1e-3).all()


@pytest.mark.parametrize(
    ("border", "left"), [("black", [0, 0, 7, 8]), ("edge", [7, 7, 7, 8]), ("mirror", [9, 8, 7, 8])]
)
def test_what_stands_outside_of_the_image(border, left):
    row = np.arange(7, 17, dtype=np.uint8).reshape(1, 10, 1).repeat(10, axis=0)
    two_to_the_right = np.array([[1, 0, 2], [0, 1, 0], [0, 0, 1.0]])

    class Moved:
        def matrix(self, height, width, draws):
            return two_to_the_right

    moved = Moved()
    moved.border = border
    (warp,) = geometry.fused([moved])

    assert warp(row, Draws(0))[5, :4, 0].tolist() == left


def test_warps_in_a_row_are_sampled_once_and_lose_nothing_on_the_way():
    there, back = {"rotate": [30, 30]}, {"rotate": [-30, -30]}
    picture = a_picture()

    (both,) = geometry.fused(build(there, back))

    assert abs(both(picture, Draws(0)).astype(int) - picture).max() <= 1
    one_by_one = picture
    for warp in build(there, back):
        one_by_one = warp(one_by_one, Draws(0))
    assert not one_by_one[0, 0].any()  # the corner was cut off


def test_a_fused_warp_draws_what_its_parts_would():
    warps = build(*WARPS[:3])
    (fused,) = geometry.fused(warps)
    picture, draws = a_picture(), Draws(5)

    matrix = np.eye(3)
    for warp in warps:
        matrix = warp.matrix(48, 64, draws) @ matrix

    expected = cv2.warpAffine(picture, matrix[:2], (64, 48), flags=cv2.INTER_LINEAR)
    assert np.array_equal(fused(picture, Draws(5)), expected)


def test_only_neighbours_with_one_border_are_fused():
    kinds = [type(each).__name__ for each in geometry.fused(build({"rotate": 5}, {"zoom": {}}, {"flip": 1.0}))]
    borders = geometry.fused(build({"rotate": 5}, {"zoom": {"border": "edge"}}))

    assert kinds == ["Fused", "Flip"] and len(borders) == 2


@pytest.mark.parametrize("config", WARPS, ids=lambda config: next(iter(config)))
def test_grey_images_keep_their_channel_and_a_probability_of_0_changes_nothing(config):
    ((name, argument),) = config.items()
    argument = argument if isinstance(argument, dict) else {ARGUMENT[name]: argument}
    grey = a_picture(channels=1)[:, ::-1]  # as flip leaves it

    assert build(config)[0](grey, Draws(1)).shape == grey.shape
    assert build({name: {**argument, "p": 0.0}})[0](grey, Draws(1)) is grey


ARGUMENT = {"rotate": "degrees", "zoom": "factor", "shift": "share"}


def test_half_of_the_images_are_warped_at_a_probability_of_a_half():
    (warp,) = build({"homography": {"p": 0.5}})

    warped = sum(warp.matrix(8, 8, Draws(key)) is not None for key in range(400))

    assert 150 < warped < 250


def test_angles_and_factors_spread_over_their_ranges():
    (rotate,), (zoom,) = build({"rotate": 20}), build({"zoom": [0.5, 2]})
    matrices = [(rotate.matrix(8, 8, Draws(key)), zoom.matrix(8, 8, Draws(key))) for key in range(500)]

    angles = [math.degrees(math.atan2(turn[0, 1], turn[0, 0])) for turn, _ in matrices]
    factors = [scale[0, 0] for _, scale in matrices]
    assert min(angles) < -19 and max(angles) > 19 and abs(np.mean(angles)) < 1.5
    assert min(factors) > 0.5 and max(factors) < 2 and np.mean(np.log(factors)) == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rotate": 200}, "rotate: degrees is a number from 0 to 180"),
        ({"rotate": [10, -10]}, r"rotate: degrees is \[low, high\], in this order"),
        ({"zoom": [0, 1]}, "zoom: factor is 2 numbers, each from 0.1 to 10"),
        ({"zoom": 2}, "zoom: factor is 2 numbers"),
        ({"shift": "far"}, "shift: share is 2 numbers, each from 0 to 1"),
        ({"homography": 1.5}, "homography: distortion is a number from 0 to 0.9"),
        ({"homography": {"p": 2}}, "homography: p is a number from 0 to 1"),
        ({"rotate": {"border": "wrap"}}, "rotate: border is one of black, edge, mirror"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused_with_its_place(config, message):
    with pytest.raises(UserError, match=rf"data\.train\.transforms\[0\]: {message}"):
        build(config)
