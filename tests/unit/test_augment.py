"""Transforms of batches: brightness, channel shift, colour jitter, erasing; and how rows are kept apart."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_colour import batch, column, pictures

from distdl.data.order import keyed
from distdl.data.pictures import augment, colour, of_batches, transforms
from distdl.data.pictures.row_draws import RowDraws
from distdl.data.pictures.transforms import Draws, Normalise
from distdl.errors import UserError

DOCS = Path(__file__).parents[2] / "docs" / "augmentation.md"
RGB = Normalise(mean=[0.5, 0.4, 0.3], std=[0.2, 0.25, 0.3])
MEAN, STD = (torch.tensor(each).view(1, 3, 1, 1) for each in (RGB.mean, RGB.std))
EVERYTHING = [
    {"brightness": [0.5, 1.5]},
    {"channel_shift": 30},
    {"colour_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}},
    {"rand_augment": {"n": 2, "magnitude": 9}},
    {"random_erasing": {"p": 0.7, "fill": "pixel"}},
]


def build(*configs):
    built, _ = transforms.build(list(configs), "data.train")
    return of_batches.split(built, "data.train")


def apply(config, images, keys=None):
    _, (transform,) = build(config)
    keys = np.arange(len(images)) if keys is None else keys
    return transform.of_batch(images, RowDraws(np.asarray(keys, np.uint64)), RGB)


def uniform(key, n):
    draws = Draws(key)
    return [draws.uniform() for _ in range(n)]


# --- one by one, with the numbers that a row draws ---


def test_brightness_multiplies():
    images = batch(pictures())
    factors = [0.5 + uniform(key, 2)[1] for key in range(4)]

    assert torch.equal(apply({"brightness": [0.5, 1.5]}, images), (images * column(factors)).clamp(0, 255))


def test_channel_shift_adds_a_number_of_its_own_to_each_channel():
    images = batch(pictures())
    shifts = torch.tensor([[60 * u - 30 for u in uniform(key, 4)[1:]] for key in range(4)])

    found = apply({"channel_shift": 30}, images)

    torch.testing.assert_close(found, (images + shifts.view(4, 3, 1, 1)).clamp(0, 255))
    assert found.min() == 0 and found.max() == 255


def test_colour_jitter_applies_its_four_in_an_order_of_each_image():
    reach = {"brightness": 0.4, "contrast": 0.3, "saturation": 0.6, "hue": 0.2}
    images, keys = batch(pictures(n=40)), np.arange(40)

    found = apply({"colour_jitter": reach}, images)

    draws = RowDraws(keys.astype(np.uint64))
    draws.uniform()
    order = draws.order(4)
    values = [draws.uniform(-x if name == "hue" else 1 - x, x if name == "hue" else 1 + x) for name, x in reach.items()]
    names = list(reach)
    for row in range(40):
        expected = images[row : row + 1]
        for place in order[row]:
            expected = getattr(colour, names[place])(expected, column([values[place][row]]))
        assert torch.equal(found[row], expected[0])
    assert len({tuple(each) for each in order.tolist()}) > 12


def test_an_order_matters():
    images = batch(pictures(n=1))
    jitters = [
        lambda image: colour.brightness(image, column([1.5])),
        lambda image: colour.contrast(image, column([0.5])),
    ]

    one, other = (b(a(images)) for a, b in itertools.permutations(jitters))

    assert not torch.equal(one, other)


def test_what_colour_jitter_is_not_asked_for_it_leaves():
    images = batch(pictures())

    assert torch.equal(apply({"colour_jitter": {}}, images), images)
    only = apply({"colour_jitter": {"brightness": 0.4}}, images)
    ratios = (only / images)[images > 0].view(-1)
    assert ratios.min() >= 0.6 and ratios.max() <= 1.4001


@pytest.mark.parametrize("name", ["brightness", "channel_shift", "colour_jitter", "random_erasing"])
def test_a_probability_of_0_changes_nothing_and_of_a_half_about_half(name):
    arguments = {"colour_jitter": {"hue": 0.4}}.get(name, {})
    images = batch(pictures(n=1, height=9, width=9)).expand(400, -1, -1, -1).contiguous()

    def changed(p):
        found = apply({name: {**arguments, "p": p}}, images)
        return (found != images).flatten(1).any(1).sum().item()

    assert changed(0.0) == 0
    assert 150 < changed(0.5) < 250


# --- erasing ---


def erased(images, **arguments):
    """What random_erasing made, normalised; and which pixels it changed, (N, H, W)."""
    found = apply({"random_erasing": {"p": 1.0, **arguments}}, images)
    return (found / 255 - MEAN) / STD, (found != images).any(1)


def test_an_erased_part_is_a_rectangle_of_an_area_and_a_ratio_as_asked():
    images = torch.full((300, 3, 60, 80), 300.0)  # no fill has this level

    _, mask = erased(images, area=[0.1, 0.3], ratio=[0.5, 2])

    for one in mask:
        y, x = one.nonzero(as_tuple=True)
        height, width = (y.max() - y.min() + 1).item(), (x.max() - x.min() + 1).item()
        assert one.sum() == height * width
        assert 0.09 <= height * width / 4800 <= 0.31 and 0.45 <= height / width <= 2.2
    assert mask.any(2).any(0).all() and mask.any(1).any(0).all()  # they come to lie everywhere


def test_const_is_0_after_normalisation():
    values, mask = erased(batch(pictures(n=8)))

    assert mask.any(2).any(1).all()
    torch.testing.assert_close(values.movedim(1, 3)[mask], torch.zeros(int(mask.sum()), 3), atol=1e-6, rtol=0)


def test_rand_is_one_normal_colour_for_a_rectangle():
    values, mask = erased(batch(pictures(n=1)).expand(500, -1, -1, -1).contiguous(), fill="rand")

    colours = torch.stack([value[:, one][:, 0] for value, one in zip(values, mask)])
    for value, one, first in zip(values, mask, colours):
        torch.testing.assert_close(value[:, one], first[:, None].expand(-1, int(one.sum())))
    assert colours.mean().item() == pytest.approx(0, abs=0.1) and colours.std().item() == pytest.approx(1, abs=0.1)


def test_pixel_is_normal_noise():
    values, mask = erased(batch(pictures(n=40, height=32, width=32)), fill="pixel", area=[0.2, 0.3])

    noise = values.movedim(1, 3)[mask]
    assert noise.mean().item() == pytest.approx(0, abs=0.02) and noise.std().item() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(noise.T.numpy()) - np.eye(3)).max() < 0.05


def test_several_rectangles():
    _, one = erased(batch(pictures(n=60)))
    _, three = erased(batch(pictures(n=60)), n=3)

    assert three.float().mean() > 1.8 * one.float().mean()


def test_an_image_into_which_no_rectangle_fits_stays():
    images = torch.full((5, 3, 1, 1), 300.0)

    assert torch.equal(apply({"random_erasing": {"p": 1.0}}, images), images)


def test_keyed_noise_has_the_bits_that_are_written_down():
    found = augment.noise(torch.tensor([1, -2]), 1, 3)[:, 0]

    words = keyed(np.array([1, 2**64 - 2], np.uint64)[:, None] ^ np.arange(3, dtype=np.uint64))
    again = keyed(words)  # of one part it is the finaliser alone
    total = sum(
        ((w >> np.uint64(s)) & np.uint64(0xFFFF)).astype(np.int64) for w in (words, again) for s in (0, 16, 32, 48)
    )
    expected = (total - 4 * 65535) / (8 * (65536**2 - 1) / 12) ** 0.5
    assert found.numpy() == pytest.approx(expected, abs=1e-6)


# --- rows and groups ---


@given(st.lists(st.integers(-1, 2), min_size=1, max_size=30))
def test_each_row_gets_the_operation_of_its_group(groups):
    image = torch.arange(len(groups), dtype=torch.float32).view(-1, 1, 1, 1)
    operations = [lambda part, rows, i=i: part * 100 + torch.from_numpy(rows).view(-1, 1, 1, 1) + i for i in range(3)]

    found = augment.by_group(image, np.array(groups), operations).flatten().tolist()

    assert found == [row if group < 0 else row * 101 + group for row, group in enumerate(groups)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_pixels_of_a_sample_depend_on_its_key_alone(memory_format):
    _, chain = build(*EVERYTHING)
    images = batch(pictures(n=12)).contiguous(memory_format=memory_format)
    keys = torch.from_numpy(keyed(np.arange(12, dtype=np.uint64)).view(np.int64))

    def augmented(rows):
        return augment.augmented(images[rows], chain, keys[rows], RGB)

    whole = augmented(list(range(12)))
    assert torch.equal(whole, torch.cat([augmented([0, 1, 2, 3, 4]), augmented([5]), augmented(list(range(6, 12)))]))
    assert torch.equal(whole[[7, 2]], augmented([7, 2]))
    assert all((whole[row] != images[row]).any() for row in range(12))


def test_transforms_of_one_kind_draw_numbers_of_their_own():
    _, chain = build({"brightness": [0.5, 1.5]}, {"brightness": [0.5, 1.5]})
    images = torch.full((50, 1, 1, 1), 1.0)
    keys = torch.arange(50)

    both = augment.augmented(images, chain, keys, RGB).flatten()
    once = augment.augmented(images, chain[:1], keys, RGB).flatten()

    assert abs(np.corrcoef(once, both / once)[0, 1]) < 0.4


# --- the list in the config ---


def test_transforms_of_images_and_of_batches_are_told_apart():
    of_images, of_batches = build({"flip": 0.5}, {"rotate": 5}, *EVERYTHING)

    assert [type(each).__name__ for each in of_images] == ["Flip", "Rotate"]
    assert [type(each).__name__ for each in of_batches] == [
        "Brightness",
        "ChannelShift",
        "ColourJitter",
        "RandAugment",
        "RandomErasing",
    ]


def test_those_of_images_come_first():
    with pytest.raises(
        UserError, match=r"transforms\[1\]: RandomCrop works on single images .* can't come after Bright"
    ):
        build({"brightness": {}}, {"random_crop": 4})


class Inverted:
    def of_batch(self, image_NCHW, draws, normalise):
        return 255 - image_NCHW


def test_a_transform_of_ones_own_that_works_on_batches_runs_on_the_device():
    of_images, of_batches = build({"test_augment:Inverted": {}}, {"normalise": {"mean": [0.5], "std": [0.5]}})

    assert not of_images
    assert (augment.augmented(torch.zeros(2, 1, 3, 3), of_batches, torch.arange(2), RGB) == 255).all()


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL))
def test_what_the_page_shows_is_a_config(text, corpus):
    shown = yaml.safe_load(text)
    overrides = {f"train.{name}": value for name, value in shown.get("train", {}).items()}
    for name, split in shown.get("data", {}).items():
        overrides[f"data.{name}"] = {"shards": str(corpus), "transforms": split["transforms"]}

    config = tiny.config(corpus, overrides)

    for split in (config.data.train, *config.data.eval_sets.values()):
        build(*split.transforms)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"brightness": [1.2, 0.8]}, r"brightness: factor is \[low, high\], in this order"),
        ({"brightness": -1}, "brightness: factor is 2 numbers, each from 0 to 10"),
        ({"channel_shift": 300}, "channel_shift: levels is a number from 0 to 255"),
        ({"colour_jitter": {"hue": 0.7}}, "colour_jitter: hue is a number from 0 to 0.5"),
        ({"colour_jitter": {"contrast": True}}, "colour_jitter: contrast is a number"),
        ({"random_erasing": {"p": 1.5}}, "random_erasing: p is a number from 0 to 1"),
        ({"random_erasing": {"area": [0.5, 0.2]}}, r"random_erasing: area is \[low, high\]"),
        ({"random_erasing": {"fill": "black"}}, "random_erasing: fill is one of const, rand, pixel"),
        ({"random_erasing": {"n": 0}}, "random_erasing: n is a whole number from 1 to 100"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused_with_its_place(config, message):
    with pytest.raises(UserError, match=rf"data\.train\.transforms\[0\]: {message}"):
        build(config)
