"""Networks for traffic signs: a column, their committee, and one of two scales."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from distdl import models
from distdl.errors import UserError
from distdl.models import zoo


def fresh(name: str, **args: object) -> Any:
    torch.manual_seed(0)
    return models.build(name, args)


def test_a_column_has_the_papers_maps() -> None:
    shapes = [layer.output_shape for layer in zoo.layer_table("gtsrb_mcdnn")]

    convolutions_and_pools = [shapes[index] for index in (0, 2, 3, 5, 6, 8)]
    assert convolutions_and_pools == [
        (100, 42, 42),
        (100, 21, 21),
        (150, 18, 18),
        (150, 9, 9),
        (250, 6, 6),
        (250, 3, 3),
    ]
    assert (shapes[9], shapes[11]) == ((300,), (43,))


def test_a_columns_weights_start_uniform_within_a_twentieth() -> None:
    weight = fresh("gtsrb_mcdnn").get_parameter("features.6.weight")

    assert 0.0499 < weight.abs().max().item() <= 0.05
    assert weight.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.01)


def test_a_committee_answers_with_the_mean_of_its_columns_probabilities() -> None:
    committee = fresh("gtsrb_committee", columns=3)
    images = torch.randn(2, 3, 48, 48)

    probabilities = torch.stack([F.softmax(column(images), dim=1) for column in committee.columns]).mean(dim=0)

    logits = committee(images)
    torch.testing.assert_close(F.softmax(logits, dim=1), probabilities)
    torch.testing.assert_close(logits.exp(), probabilities)
    assert not torch.equal(committee.columns[0](images), committee.columns[1](images))


def test_columns_that_were_trained_alone_make_a_committee() -> None:
    alone, committee = fresh("gtsrb_mcdnn"), fresh("gtsrb_committee", columns=2)

    weights = {f"columns.{number}.{name}": value for number in (0, 1) for name, value in alone.state_dict().items()}
    committee.load_state_dict(weights, strict=True)

    images = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(committee(images), F.log_softmax(alone(images), dim=1))
    assert models.blocks(committee) == ["columns.0", "columns.1"]


def test_the_classifier_of_two_scales_sees_both_stages() -> None:
    network, seen = fresh("gtsrb_multiscale"), []
    network.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    stages = {}
    for name in ("stage1", "stage2"):
        network.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: stages.update({name: output})
        )

    network(torch.randn(2, 1, 32, 32))

    assert stages["stage1"].shape == (2, 108, 14, 14) and stages["stage2"].shape == (2, 108, 5, 5)
    fine, coarse = seen[0].split([108 * 7 * 7, 108 * 5 * 5], dim=1)
    torch.testing.assert_close(fine.view(2, 108, 7, 7), F.avg_pool2d(stages["stage1"], 2))
    assert torch.equal(coarse.view(2, 108, 5, 5), stages["stage2"])


def test_the_sizes_of_the_stages_can_be_set() -> None:
    with torch.device("meta"):
        network = models.build("gtsrb_multiscale", {"channels": 3, "features1": 38, "features2": 64, "hidden": 50})

    assert network.get_parameter("stage2.0.weight").shape == (64, 38, 5, 5)
    assert network.get_parameter("classifier.0.weight").shape == (50, 38 * 49 + 64 * 25)
    assert network(torch.zeros(1, 3, 32, 32, device="meta")).shape == (1, 43)


@pytest.mark.parametrize("name, side", [("gtsrb_mcdnn", 48), ("gtsrb_committee", 48), ("gtsrb_multiscale", 32)])
def test_images_of_another_size_are_refused(name: str, side: int) -> None:
    with torch.device("meta"):
        network = models.build(name, {})
    channels = zoo.find(name).input_size[0]

    with pytest.raises(UserError, match=rf"data: .*{side}x{side}, these are 40x40\n.*\{{resize: \[{side}, {side}\]\}}"):
        network(torch.zeros(1, channels, 40, 40, device="meta"))
