"""Mixtures of images and of their losses: mixup and cutmix."""

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional

from distdl.comm.world import WorldInfo
from distdl.data.labels import IGNORED
from distdl.errors import UserError
from distdl.trainer import mixup, setup
from distdl.trainer.mixup import Box
from distdl.trainer.state import TrainState
from distdl.trainer.step import loss_of


def rows(n=5, invalid=()):
    image = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    batch = {"label": torch.arange(n), "valid": torch.ones(n)}
    for row in invalid:
        batch["valid"][row], batch["label"][row] = 0, IGNORED
    return image, batch


def test_an_image_is_mixed_with_the_one_that_mirrors_it():
    image, batch = rows()

    found, partners = mixup.mixed(image, batch, 0.7)

    torch.testing.assert_close(found, 0.7 * image + 0.3 * image.flip(0))
    assert partners["label"].tolist() == [4, 3, 2, 1, 0]


def test_a_row_that_does_not_count_mixes_with_none():
    image, batch = rows(invalid=[1])

    found, partners = mixup.mixed(image, batch, 0.7)

    assert torch.equal(found[[1, 3]], image[[1, 3]])
    assert partners["label"].tolist() == [4, IGNORED, 2, 3, 0]
    assert torch.equal(partners["valid"], batch["valid"])


def test_the_loss_is_that_of_the_mixed_labels(corpus, opened):
    overrides = {"train.mixup": 0.4, "model.name": "tiny:perceptron"}
    run = opened(setup.build(tiny.config(corpus, overrides), WorldInfo(), torch.device("cpu"), TrainState()))
    image, batch = torch.rand(6, 1, 4, 4), {"label": torch.arange(6), "valid": torch.ones(6)}
    seen = []

    loss, count = loss_of(run, lambda x: seen.append(x) or run.engine.model(x), {**batch, "image": image}, 0, 0)

    share = mixup.draw_share(0.4, 0, 0, 0, 0)
    one_hot = functional.one_hot(batch["label"], 10).float()
    mixed_labels = share * one_hot + (1 - share) * one_hot.flip(0)
    outputs = run.engine.model(share * image + (1 - share) * image.flip(0))
    expected = functional.cross_entropy(outputs, mixed_labels, reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert count == 6 and len(seen) == 1


def test_the_share_is_keyed_by_the_place_and_follows_the_distribution():
    assert mixup.draw_share(0.4, 1, 2, 3, 0) == mixup.draw_share(0.4, 1, 2, 3, 0)
    places = [(0, 2, 3, 0), (1, 2, 3, 0), (1, 0, 3, 0), (1, 2, 0, 0), (1, 2, 3, 8)]
    assert len({mixup.draw_share(0.4, *place) for place in places}) == len(places)

    drawn = torch.tensor([mixup.draw_share(0.4, 0, step, 0, 0) for step in range(20_000)])

    variance = 1 / (4 * (2 * 0.4 + 1))  # of Beta(a, a)
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn.var().item() == pytest.approx(variance, rel=0.03)


# --- cutmix ---


def test_a_box_is_cut_from_the_partner():
    image, batch = rows()
    box = Box(top=1, left=0, height=2, width=3)

    found, partners = mixup.cut(image, batch, box)

    assert torch.equal(found[:, :, 1:3, :3], image.flip(0)[:, :, 1:3, :3])
    outside = torch.ones(4, 4, dtype=torch.bool)
    outside[1:3, :3] = False
    assert torch.equal(found[:, :, outside], image[:, :, outside])
    assert partners["label"].tolist() == [4, 3, 2, 1, 0]


def test_nothing_is_cut_from_or_into_a_row_that_does_not_count():
    image, batch = rows(invalid=[1])

    found, partners = mixup.cut(image, batch, Box(0, 0, 4, 4))

    assert torch.equal(found, image[[4, 1, 2, 3, 0]])
    assert partners["label"].tolist() == [4, IGNORED, 2, 3, 0]


def test_the_loss_of_cutmix_is_that_of_labels_mixed_by_area(corpus, opened):
    overrides = {"train.cutmix": 1.0, "model.name": "tiny:perceptron"}
    run = opened(setup.build(tiny.config(corpus, overrides), WorldInfo(), torch.device("cpu"), TrainState()))
    image, batch = torch.rand(6, 1, 4, 4), {"label": torch.arange(6), "valid": torch.ones(6)}
    seen = []

    loss, count = loss_of(run, lambda x: seen.append(x) or run.engine.model(x), {**batch, "image": image}, 0, 0)

    own = (seen[0] == image).flatten(1).float().mean(1)  # the share of each image that is its own
    one_hot = functional.one_hot(batch["label"], 10).float()
    mixed_labels = own[:, None] * one_hot + (1 - own[:, None]) * one_hot.flip(0)
    expected = functional.cross_entropy(run.engine.model(seen[0]), mixed_labels, reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert 0 < own[0] < 1 and count == 6


def test_boxes_are_keyed_by_their_place_and_of_all_areas():
    places = [(0, step, 0, 0) for step in range(4000)]
    boxes = [mixup.draw_box(1.0, 32, 48, *place) for place in places]

    assert boxes == [mixup.draw_box(1.0, 32, 48, *place) for place in places] and len(set(boxes)) > 3000
    assert all(0 <= b.top <= b.top + b.height <= 32 and 0 <= b.left <= b.left + b.width <= 48 for b in boxes)
    uncut = [b for b in boxes if b.top > 0 and b.left > 0 and b.top + b.height < 32 and b.left + b.width < 48]
    assert all(abs(b.width / 48 - b.height / 32) <= 1 / 32 + 1 / 48 for b in uncut)  # the image's aspect ratio
    # Of Beta(1, 1): a share of uniform area, of which what lies outside is cut off.
    side = np.sqrt(np.random.default_rng(0).uniform(size=(200_000, 1)))
    middle = np.random.default_rng(1).uniform(size=(200_000, 2))
    within = np.minimum(1, middle + side / 2) - np.maximum(0, middle - side / 2)
    assert np.mean([b.area / (32 * 48) for b in boxes]) == pytest.approx(within.prod(axis=1).mean(), abs=0.02)


@pytest.mark.parametrize(("switch", "expected"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_with_both_a_switch_decides_which(corpus, switch, expected):
    train = tiny.config(corpus, {"train.mixup": 0.2, "train.cutmix": 1.0, "train.mix_switch": switch}).train
    image, batch = torch.rand(2, 1, 4, 4), {"label": torch.arange(2), "valid": torch.ones(2)}

    def is_cut(step):
        found, _, share = mixup.mix(image, batch, train, step, 0, 0)
        return bool(((found == image) | (found == image.flip(0))).all()) and (share * 16).is_integer()

    assert np.mean([is_cut(step) for step in range(1000)]) == pytest.approx(expected, abs=0.05)


# --- where they can't be ---


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        ({"task.name": "autoencode", "model.name": "autoencoder", "train.global_batch": 16}, "can.t learn"),
        ({"train.adversarial": {"epsilon": 0.1}, "train.global_batch": 16}, "don't go together"),
        ({"train.micro_batch": 1, "train.global_batch": 16}, "two rows"),
        ({"train.global_batch": 8}, "two rows"),
    ],
)
def test_where_nothing_can_be_mixed_it_is_refused(corpus, kind, overrides, what):
    labels = overrides.get("task.name") != "autoencode"

    with pytest.raises(UserError, match=rf"train\.{kind}: 0\.2: {kind} .*{what}"):
        mixup.check(tiny.config(corpus, {f"train.{kind}": 0.2, **overrides}), n_parts=8, has_labels=labels)
