"""A dataset of one's own: any object with a length and items, read like shards and by the same rules."""

import numpy as np
import pytest
import tiny
import torch

from distdl.config.sources import SplitConfig
from distdl.data.order import Rows
from distdl.data.own import OwnDataset
from distdl.data.samples import BadSample
from distdl.errors import UserError


class Squares(torch.utils.data.Dataset):
    """Item i is a 4x4 image of grey value 10 * i with label i % 10."""

    def __init__(self, n=20, bad=()):
        self.n, self.bad = n, bad

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i in self.bad:
            raise OSError("the scanner was off")
        return np.full((4, 4), 10 * i, np.uint8), i % 10


class Items(list):
    """A list is a dataset."""


def opened_split(name, **args):
    return OwnDataset.open(SplitConfig(dataset=f"test_own_dataset:{name}", args=args), "data.train")


def example(item):
    return OwnDataset(Items([item]), "mine:items", "identity").example(0)


@pytest.fixture
def build(corpus, opened):
    def make(args=None, overrides=None):
        split = {"dataset": "test_own_dataset:Squares", "args": args or {}}
        return opened(tiny.build(tiny.config(corpus, {"data.train": split, "data.eval": split, **(overrides or {})})))

    return make


def test_a_run_reads_it_as_it_reads_shards(build):
    run = build(overrides={"train.steps": None, "train.epochs": 1})

    batches = [batch.tensors for batch in run.host_batches()]

    rows = {
        int(sample_id): (int(image.max()), int(label))
        for batch in batches
        for sample_id, image, label, valid in zip(*(batch[k] for k in ("sample_id", "image", "label", "valid")))
        if valid
    }
    assert rows == {i: (10 * i, i % 10) for i in range(20)}


def test_an_item_that_raises_is_a_bad_sample(build):
    run = build({"bad": [3]}, {"train.steps": None, "train.epochs": 1})

    assert sum(batch.n_bad for batch in run.host_batches()) == 1
    trace = r"Traceback .*\n +File .*, in __getitem__\n(.|\n)*OSError: the scanner was off\n  Mend this code"
    with pytest.raises(UserError, match=rf"item 3 in test_own_dataset:Squares: OSError: the scanner was off\n{trace}"):
        list(build({"bad": [3]}, {"data.bad_sample": "raise"}).train_loader.stream([Rows.of(np.arange(8))]))


def test_a_label_out_of_range_names_the_item(build):
    with pytest.raises(UserError, match=r"the label [5-9] of item \d+ of test_own_dataset:Squares is out of range"):
        list(build(overrides={"model.args": {"classes": 5}}).host_batches())


@pytest.mark.parametrize(
    "image",
    [
        np.full((2, 3), 7, np.uint8),
        np.full((2, 3, 1), 7, np.uint8),
        torch.full((2, 3), 7, dtype=torch.uint8),
    ],
)
def test_grey_images_are_arrays_or_tensors_with_or_without_a_channel(image):
    assert example((image, 0)).content.tolist() == [[[7]] * 3] * 2


def test_items_may_be_mappings():
    found = example({"label": 3, "image": np.zeros((1, 1, 3), np.uint8)})

    assert (found.label, found.content.shape) == (3, (1, 1, 3))


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGB", 3), ("RGBA", 3), ("P", 3), ("1", 3)])
def test_pil_images_become_grey_or_rgb(mode, channels):
    image = pytest.importorskip("PIL.Image").new("RGB", (5, 4), (255, 255, 255)).convert(mode)

    pixels = example((image, 0)).content

    assert pixels.shape == (4, 5, channels) and (pixels == 255).all()


@pytest.mark.parametrize(
    "image, shown",
    [
        (torch.zeros(3, 4, 4), r"float32 of shape \(3, 4, 4\)"),  # after a ToTensor
        (torch.zeros(3, 4, 5, dtype=torch.uint8), r"uint8 of shape \(3, 4, 5\)"),  # channels first
        (np.zeros((0, 4), np.uint8), r"uint8 of shape \(0, 4, 1\)"),
        ("a.png", "of shape"),
        (None, "object of shape"),
    ],
)
def test_what_is_no_image_is_a_mistake_and_not_a_bad_sample(image, shown):
    with pytest.raises(UserError, match=rf"the image of item 0 of mine:items is .*{shown}[\s\S]*Images are uint8"):
        example((image, 0))


def test_an_item_of_another_form_is_a_mistake():
    with pytest.raises(UserError, match="item 0 of mine:items is a int"):
        example(3)


@pytest.mark.parametrize("name, problem", [("no_dataset", "without __len__ or __getitem__"), ("Items", "no samples")])
def test_what_is_no_dataset_is_answered_with_its_key(name, problem):
    with pytest.raises(UserError, match=problem) as caught:
        opened_split(name)

    assert caught.value.where == f"data.train.dataset: test_own_dataset:{name}"


def no_dataset():
    return 3


def test_an_unknown_argument_is_the_users_mistake():
    with pytest.raises(UserError, match=r"takes no argument 'm' - did you mean n\?|takes no argument 'm'"):
        opened_split("Squares", m=3)


def test_name_arguments_and_length_are_its_identity():
    squares = opened_split("Squares", n=5)

    assert squares.identity == opened_split("Squares", n=5).identity
    assert squares.identity != opened_split("Squares", n=6).identity
    assert (squares.n_samples, squares.sizes.tolist(), squares.classes) == (5, [5], None)


def test_labels_of_bad_items_are_unknown():
    assert opened_split("Squares", n=4, bad=[2]).labels() == [0, 1, None, 3]
    with pytest.raises(BadSample):
        opened_split("Squares", n=4, bad=[2]).example(2)
