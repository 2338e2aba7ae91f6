"""Mixtures of images and of their losses."""

import pytest
import tiny
import torch
from torch.nn import functional

from distdl.comm.world import WorldInfo
from distdl.data.labels import IGNORED
from distdl.errors import UserError
from distdl.trainer import mixup, setup
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


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        ({"task.name": "autoencode", "model.name": "autoencoder", "train.global_batch": 16}, "has none"),
        ({"train.adversarial": {"epsilon": 0.1}, "train.global_batch": 16}, "don't go together"),
        ({"train.micro_batch": 1, "train.global_batch": 16}, "two rows"),
        ({"train.global_batch": 8}, "two rows"),
    ],
)
def test_where_nothing_can_be_mixed_it_is_refused(corpus, overrides, what):
    labels = overrides.get("task.name") != "autoencode"

    with pytest.raises(UserError, match=what):
        mixup.check(tiny.config(corpus, {"train.mixup": 0.2, **overrides}), n_parts=8, has_labels=labels)
