"""Several networks, or ten crops, answer with the mean of their probabilities."""

import pytest
import torch
from torch import nn

from distdl import models
from distdl.errors import UserError
from distdl.models.ensemble import Ensemble, Heard, Mirrored, TenCrop, ten_crops


class Says(nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), -1)


class SumOfPixels(nn.Module):
    """Logits (sum of the crop, 0)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        total = images.sum((1, 2, 3))
        return torch.stack([total, torch.zeros_like(total)], dim=1)


class LeftEdge(nn.Module):
    """Logits (sum of the first column, 0)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return SumOfPixels()(images[..., :1])


IMAGES = torch.arange(2 * 4 * 5, dtype=torch.float32).reshape(2, 1, 4, 5)


def test_an_ensembles_probabilities_are_the_mean_of_its_networks() -> None:
    log_3 = torch.tensor(3.0).log().item()
    network = Ensemble([Says(log_3, 0.0), Says(0.0, 0.0)])  # 3/4, and 1/2, for the first class

    logits = network(IMAGES)

    torch.testing.assert_close(logits.softmax(1), torch.tensor([[0.625, 0.375]] * 2))
    torch.testing.assert_close(logits.exp(), logits.softmax(1))


def test_one_network_alone_keeps_its_opinion_and_one_that_is_all_but_sure_leaves_it_finite() -> None:
    torch.testing.assert_close(Ensemble([Says(2.0, 1.0)])(IMAGES), torch.tensor([[2.0, 1.0]] * 2).log_softmax(1))
    assert Ensemble([Says(1000.0, 0.0), Says(900.0, 0.0)])(IMAGES).isfinite().all()


def test_half_precision_is_averaged_in_single() -> None:
    assert Ensemble([Says(2.0, 1.0).bfloat16()])(IMAGES.bfloat16()).dtype == torch.float32


def test_an_ensemble_names_the_blocks_of_all_its_networks_and_refuses_to_have_none() -> None:
    network = Ensemble([models.build("lenet5", {}), Says(1.0, 0.0), models.build("lenet5", {})])

    assert models.blocks(network) == [
        f"networks.{index}.{part}" for index in (0, 2) for part in ("features", "classifier")
    ]
    with pytest.raises(UserError, match="no networks"):
        Ensemble([])
    with pytest.raises(UserError, match=r"the same classes apart; these give \(2, 2\), \(2, 3\)"):
        Ensemble([Says(1.0, 0.0), Says(1.0, 0.0, 0.0)])(IMAGES)


def test_members_that_are_heard_one_after_another_say_what_an_ensemble_of_them_says() -> None:
    batches = [IMAGES[:1] / 10, IMAGES[1:] / 10]
    members = [SumOfPixels(), Mirrored(LeftEdge()), TenCrop(SumOfPixels(), 3)]

    heard = Heard()
    for member in members:
        heard.listen_to(member)
        answers = [heard(batch) for batch in batches]

    torch.testing.assert_close(torch.cat(answers), Ensemble(members)(torch.cat(batches)))


def test_the_mirror_image_counts_as_much_as_the_image() -> None:
    images = IMAGES / 10
    both = torch.stack([LeftEdge()(view).softmax(1) for view in (images, images.flip(3))])

    torch.testing.assert_close(Mirrored(LeftEdge())(images).exp(), both.mean(0))
    assert not torch.allclose(both[0], both[1])


def test_ten_crops_are_the_corners_and_the_centre_and_their_mirror_images() -> None:
    image = IMAGES[:1]  # rows of 0-4, 5-9, 10-14, 15-19

    crops = ten_crops(image, 2)

    assert [crop.flatten().tolist() for crop in crops[:5]] == [
        [0, 1, 5, 6],
        [3, 4, 8, 9],
        [10, 11, 15, 16],
        [13, 14, 18, 19],
        [6, 7, 11, 12],
    ]
    assert crops[5].flatten().tolist() == [1, 0, 6, 5]
    assert crops[9].flatten().tolist() == [7, 6, 12, 11]
    assert len(crops) == 10


def test_ten_crop_evaluation_averages_the_probabilities_of_all_crops() -> None:
    images = IMAGES / 10
    of_crops = [SumOfPixels()(crop).softmax(1) for crop in ten_crops(images, 3)]

    probabilities = TenCrop(SumOfPixels(), 3)(images).softmax(1)

    torch.testing.assert_close(probabilities, torch.stack(of_crops).mean(0))
    assert not torch.allclose(probabilities, SumOfPixels()(images).softmax(1))


def test_crops_that_are_larger_than_the_image_are_refused() -> None:
    with pytest.raises(UserError, match=r"crops of 5x5 .* these are 4x5"):
        TenCrop(SumOfPixels(), 5)(IMAGES)
