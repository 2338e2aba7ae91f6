"""What a report shows of a network's predictions, and of the images that it was trained on."""

import base64
import re

import cv2
import numpy as np
import pytest
import tiny
import torch
from torch import nn

from distdl.report import batches, pictures, predictions
from distdl.report.calibration import calibration
from distdl.tasks.autoencode import Autoencode
from distdl.tasks.classify import Classify
from distdl.tasks.regress import Regress
from distdl.trainer.trained import Trained

N_SAMPLES = 20
FAVOURITE = 3


class Brightness(nn.Module):
    """Takes every image for class 3, the more surely the brighter it is."""

    def __init__(self, classes: int = tiny.CLASSES) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, image):
        brightness = image.flatten(1).mean(dim=1, keepdim=True)
        return 10 * brightness * nn.functional.one_hot(torch.tensor(FAVOURITE), self.classes)


@pytest.fixture
def trained(corpus):
    def make(model, task=None, task_name="classify", **overrides):
        wanted = {"data.eval": {"shards": str(corpus)}, "task": {"name": task_name}, **overrides}
        return Trained(tiny.config(corpus, wanted), torch.device("cpu"), model, task or Classify(), step=5)

    return make


def brightness(image) -> float:
    return float(np.asarray(image).mean() / 255)


def test_the_confusion_matrix_counts_each_pair(trained):
    found = predictions.look(trained(Brightness()), 100).what

    expected = np.zeros((tiny.CLASSES, tiny.CLASSES), int)
    expected[:, FAVOURITE] = N_SAMPLES // tiny.CLASSES
    assert found.matrix.tolist() == expected.tolist()
    assert (found.n_right, found.n_samples) == (2, N_SAMPLES)


def test_the_most_confident_mistakes_come_first(trained):
    found = predictions.look(trained(Brightness()), 100).what

    confidences = [example.confidence for example in found.wrong]
    assert len(confidences) == 18 and confidences == sorted(confidences, reverse=True)
    for example in found.wrong:
        power = np.exp(10 * brightness(example.image))
        assert example.confidence == pytest.approx(power / (power + tiny.CLASSES - 1), rel=1e-5)
    assert {example.truth for example in found.right} == {str(FAVOURITE)}


def test_the_most_frequent_confusions_are_named_with_examples(trained):
    found = predictions.look(trained(Brightness()), 100).what

    assert len(found.pairs) == predictions.N_PAIRS
    for pair in found.pairs:
        assert (pair.prediction, pair.count, pair.n_of_truth) == (str(FAVOURITE), 2, 2)
        assert {example.truth for example in pair.examples} == {pair.truth} and len(pair.examples) == 2


def test_more_classes_than_a_matrix_can_show_leave_the_pairs(trained):
    found = predictions.look(trained(Brightness(classes=51)), 100).what

    assert found.matrix is None and found.pairs


def test_fewer_samples_are_taken_evenly(trained):
    found = predictions.look(trained(Brightness()), 5)

    assert (found.n_in_set, found.n_looked_at, found.what.n_samples) == (20, 5, 5)
    assert predictions.spread(20, 5).tolist() == [0, 4, 8, 12, 16]
    assert predictions.spread(3, 5).tolist() == [0, 1, 2]


def test_samples_that_can_not_be_decoded_do_not_count(trained, tmp_path):
    damaged = tiny.write_corpus(tmp_path / "damaged", 10, bad=[4])

    found = predictions.look(trained(Brightness(), **{"data.eval": {"shards": str(damaged)}}), 100)

    assert (found.n_looked_at, found.what.n_samples) == (10, 9)


def test_a_regression_is_shown_with_its_error(trained):
    class Mean(nn.Module):
        def forward(self, image):
            return torch.full((len(image), 1), 4.5)  # the labels are 0 .. 9

    found = predictions.look(trained(Mean(), Regress(values=1), "regress"), 100).what

    assert found.mean_absolute_error == pytest.approx(2.5)
    assert found.r2 == pytest.approx(0.0)
    assert found.truth.tolist() == [i % 10 for i in range(N_SAMPLES)]


def test_what_an_autoencoder_makes_of_its_input_is_shown_as_pixels(trained):
    normalise = [{"normalise": {"mean": [0.5], "std": [0.25]}}]

    def look(corpus_split):
        return predictions.look(trained(nn.Flatten(), Autoencode(), "autoencode", **corpus_split), 100).what

    found = look({"data.eval.transforms": normalise})

    for given, made in zip(found.inputs, found.outputs, strict=True):
        assert abs(given.astype(int) - made).max() <= 1  # it hands on what it gets; 1 for rounding


def test_training_images_are_those_of_the_run_in_two_epochs(trained):
    first = batches.first_batch(trained(tiny.perceptron(), **{"data.train.transforms": ["flip"]}))

    assert len(first) == 8
    for seen in first:
        before, after = seen.images
        assert np.array_equal(before, after) or np.array_equal(before, after[:, ::-1])
    assert any(not np.array_equal(*seen.images) for seen in first)


# --- as HTML ---


@pytest.mark.parametrize(("shape", "kind"), [((4, 4, 1), "png"), ((32, 20, 3), "png"), ((300, 200, 3), "jpeg")])
def test_an_image_is_put_into_the_page_at_a_small_size(shape, kind):
    image = np.full(shape, 200, np.uint8)
    image[..., 0] = 90

    tag = pictures.picture(image, "a <b>")

    found, data = re.search('src="data:image/(png|jpeg);base64,([^"]*)"', tag).groups()
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    assert found == kind and max(decoded.shape[:2]) <= 128
    assert decoded.reshape(-1, shape[2])[0][::-1] == pytest.approx(image[0, 0], abs=3)  # OpenCV's order is BGR
    assert 'alt="a &lt;b&gt;"' in tag


def test_a_scatter_plot_has_a_point_for_each_pair_of_numbers():
    truth, prediction = np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0, np.nan])
    what = predictions.Regressed(truth=truth, prediction=prediction, mean_absolute_error=0.5, r2=0.25)

    html = pictures.render_findings(what)

    points = [(float(x), float(y)) for x, y in re.findall('<circle cx="([^"]*)" cy="([^"]*)"', html)]
    assert points == [(40.0, 360.0), (200.0, 40.0)]  # 400 wide and high, 40 at the edges, 0 to 2 on both axes


@pytest.mark.parametrize("n_classes", [10, 30])
def test_a_matrix_says_in_words_what_each_cell_is(trained, n_classes):
    found = predictions.look(trained(Brightness(n_classes)), 100).what

    html = str(pictures.render_findings(found))

    assert html.count("<td") == n_classes * (n_classes + 1)
    assert 'title="5, taken for 3: 2 of 2"' in html
    assert ("matrix dense" in html) == (n_classes == 30)


def test_names_of_classes_are_escaped(trained):
    hostile = trained(Brightness())
    loader = hostile.eval_loaders()["eval"]
    loader.dataset.classes = ["<script>alert(1)</script>"] * tiny.CLASSES

    html = pictures.render_findings(predictions.classified(hostile, loader, np.arange(N_SAMPLES)))
    loader.close()

    assert "<script" not in html and "&lt;script&gt;" in html


def test_training_images_have_what_is_done_to_them_on_the_device(trained):
    darkened = [{"brightness": [0.0, 0.0]}, {"normalise": {"mean": [0.5], "std": [0.25]}}]

    first = batches.first_batch(trained(tiny.perceptron(), **{"data.train.transforms": darkened}))

    assert all(image.dtype == np.uint8 and image.shape == (4, 4, 1) for seen in first for image in seen.images)
    assert not any(image.any() for seen in first for image in seen.images)


# --- how sure ---


def test_calibration_is_the_mean_distance_between_how_sure_and_how_right():
    """Two bins: 4 samples at 0.9 of which 2 are right, 1 at 0.3 that is right."""
    found = calibration(np.array([0.9, 0.9, 0.9, 0.9, 0.3]), np.array([True, True, False, False, True]))

    assert [(each.n_samples, round(each.confidence, 6), each.accuracy) for each in found.bins] == [
        (1, 0.3, 1.0),
        (4, 0.9, 0.5),
    ]
    assert found.error == pytest.approx((4 * 0.4 + 1 * 0.7) / 5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_ends_of_the_scale_have_a_bin(share):
    assert calibration(np.array([share]), np.array([share == 1])).error == 0


def test_the_hardest_classes_come_first_and_the_best_five_are_counted(trained):
    found = predictions.look(trained(Brightness()), 100).what

    assert found.hardest[-1].n_right == found.hardest[-1].n_samples or len(found.classes) > predictions.N_HARDEST
    assert all(each.n_right == 0 for each in found.hardest[: min(9, len(found.hardest) - 1)])
    assert found.n_right <= found.n_in_best_five <= found.n_samples


def test_many_classes_are_shown_by_the_hardest_instead_of_a_matrix(trained):
    found = predictions.look(trained(Brightness(classes=60)), 100).what

    html = str(pictures.render_findings(found))

    assert "The hardest classes" in html and "Confusion matrix" not in html and "expected calibration error" in html
