"""The task `metric`: the triplet loss, against the definition written out, and beside the cross-entropy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distdl import registry
from distdl.data.labels import IGNORED
from distdl.data.order import Plan
from distdl.errors import UserError
from distdl.tasks.classify import Classify
from distdl.tasks.metric import Metric, triplet_loss


def points(*degrees: float) -> torch.Tensor:
    """On the unit circle."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def squared_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().sum()


def by_definition(embedding: torch.Tensor, label: list[int], margin: float) -> torch.Tensor:
    losses = []
    for i, anchor in enumerate(embedding):
        rows = [row for row in range(len(label)) if IGNORED not in (label[row], label[i])]
        negatives = [squared_distance(anchor, embedding[row]) for row in rows if label[row] != label[i]]
        of_anchor = []
        for row in rows:
            if row != i and label[row] == label[i] and negatives:
                to_positive = squared_distance(anchor, embedding[row])
                farther = [distance for distance in negatives if distance > to_positive]
                negative = min(farther) if farther else max(negatives)
                of_anchor.append((to_positive - negative + margin).relu())
        losses.append(torch.stack(of_anchor).mean() if of_anchor else torch.tensor(0.0))
    return torch.stack(losses)


def test_triplet_loss_is_what_its_definition_says() -> None:
    embedding = F.normalize(torch.randn(14, 3, generator=torch.Generator().manual_seed(0)))
    label = [0, 0, 0, 1, 1, 1, 1, 2, 2, 3, IGNORED, 0, IGNORED, 2]

    loss = triplet_loss(embedding, torch.tensor(label), margin=0.5)

    expected = by_definition(embedding, label, margin=0.5)
    torch.testing.assert_close(loss, expected)
    assert (expected > 0).sum() > 5  # most anchors have something to learn from


def test_the_nearest_of_the_negatives_behind_the_positive_is_taken() -> None:
    embedding, label = points(0, 20, 10, 30, 90), torch.tensor([0, 0, 1, 2, 3])

    loss = triplet_loss(embedding, label, margin=1.0)

    to_positive, to_negative = squared_distance(*points(0, 20)), squared_distance(*points(0, 30))
    torch.testing.assert_close(loss[0], to_positive - to_negative + 1.0)


def test_where_all_negatives_are_nearer_the_farthest_of_them_is_taken() -> None:
    embedding, label = points(0, 90, 10, 30), torch.tensor([0, 0, 1, 2])

    loss = triplet_loss(embedding, label, margin=0.2)

    to_positive, to_negative = squared_distance(*points(0, 90)), squared_distance(*points(0, 30))
    torch.testing.assert_close(loss[0], to_positive - to_negative + 0.2)


@pytest.mark.parametrize("label", [[0, 0, 0], [0, 1, 2], [0, 1, IGNORED], [IGNORED] * 3])
def test_without_a_positive_or_a_negative_there_is_no_loss_and_the_gradient_is_zero(label: list[int]) -> None:
    embedding = points(0, 90, 180).requires_grad_()

    loss = triplet_loss(embedding, torch.tensor(label))
    loss.sum().backward()

    assert not loss.any()
    assert embedding.grad is not None and not embedding.grad.any()


def test_descending_the_loss_parts_the_persons() -> None:
    embedding = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    label = torch.arange(12) % 3
    for _ in range(200):
        (gradient,) = torch.autograd.grad(triplet_loss(F.normalize(embedding), label, 1.0).sum(), embedding)
        embedding = (embedding - 0.2 * gradient).detach().requires_grad_()

    distances = torch.cdist(F.normalize(embedding), F.normalize(embedding))
    same = label[:, None] == label
    assert distances[same].max() < distances[~same].min()


def test_near_points_keep_their_distance_under_autocast() -> None:
    embedding, label = points(0, 2, 3, 90), torch.tensor([0, 0, 1, 1])

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = triplet_loss(embedding, label)

    torch.testing.assert_close(loss, triplet_loss(embedding, label))


# --- the task ---

BATCH = {"label": torch.tensor([0, 0, 1, IGNORED]), "valid": torch.tensor([1, 1, 1, 0])}


def outputs(classes: int = 3) -> torch.Tensor:
    return torch.cat([torch.randn(4, classes, generator=torch.Generator().manual_seed(1)), points(0, 40, 50, 45)], 1)


def test_the_loss_is_the_cross_entropy_and_weighted_beside_it_the_triplet_loss() -> None:
    loss, count = Metric(classes=3, margin=0.3, weight=0.5, label_smoothing=0.1).loss(outputs(), BATCH)

    cross_entropy, n_valid = Classify(0.1).loss(outputs()[:, :3], BATCH)
    of_triplets = triplet_loss(outputs()[:, 3:], BATCH["label"], 0.3).sum()
    assert of_triplets > 0 and count == n_valid == 3
    torch.testing.assert_close(loss, cross_entropy + 0.5 * of_triplets)


def test_in_evaluation_there_are_logits_only_and_it_is_classification() -> None:
    logits = outputs()[:, :3]

    with torch.inference_mode():
        assert torch.equal(Metric(classes=3).loss(logits, BATCH)[0], Classify().loss(logits, BATCH)[0])
    with pytest.raises(UserError, match="no embeddings"):
        Metric(classes=3).loss(logits, BATCH)


def test_labels_are_those_of_its_own_classes() -> None:
    with pytest.raises(ValueError, match="out of range"):
        Metric(classes=3).label(10).parse(b"3")


def test_accuracy_is_counted_among_logits_and_not_in_the_embedding() -> None:
    sure_of_the_embedding = torch.cat([outputs()[:, :3], torch.full((4, 2), 100.0)], 1)

    counted = Metric(classes=3).metrics(sure_of_the_embedding, BATCH)

    assert counted == Classify().metrics(outputs()[:, :3], BATCH)
    assert counted["top5"] == 3


def test_a_config_names_it_and_its_arguments() -> None:
    made = registry.resolve("metric", registry.TASKS, "task")

    assert made is Metric
    for key, args in {"margin": {"margin": -1}, "weight": {"weight": "much"}, "classes": {"classes": 0}}.items():
        with pytest.raises(UserError, match=rf"task\.args\.{key}"):
            Metric(**{"classes": 3} | args)


def test_fewer_outputs_than_classes_are_refused() -> None:
    with pytest.raises(UserError, match=r"3 values for a sample.*\n?.*task\.args\.classes"):
        Metric(classes=9).loss(outputs()[:, :3], BATCH)


def test_few_lanes_through_a_folder_of_classes_give_each_worker_several_pictures_of_a_person() -> None:
    """200 people with 20 pictures each, as a folder has them: one after another."""
    settings = {"seed": 0, "global_batch": 256, "lanes": 16, "window": 16}
    plan = Plan(np.array([1000] * 4), **settings)

    for epoch in range(3):
        rows = plan.step_rows(4000 * epoch + 512, 20_000).parts(range(1), 2)  # of the first of two workers
        _, counts = np.unique(rows.sample_id // 20, return_counts=True)
        others = (counts * (counts - 1)).sum() / counts.sum()
        assert others > 7 and len(counts) >= 8
