"""What a label is: bytes of a component and values of a dataset of one's own, to the numbers a loss takes."""

import numpy as np
import pytest
import torch

from distdl.data import labels


@pytest.mark.parametrize("given", [b"7", b" 7\n", 7, np.int64(7), torch.tensor(7)])
def test_a_class_number(given):
    assert labels.class_number(10).parse(given) == 7


@pytest.mark.parametrize(
    "given, reason",
    [
        (b"10", r"is out of range: the network has 10 classes \(0 to 9\)"),
        (-1, "is out of range"),
        (b"cat", "is not a whole number"),
        (b"", "is not a whole number"),
        (b"3 4", "is not a whole number"),
        (3.0, "is not a whole number"),
        (None, "is not a whole number"),
    ],
)
def test_what_is_no_class_number(given, reason):
    with pytest.raises(ValueError, match=reason):
        labels.class_number(10).parse(given)


def test_without_a_known_number_of_classes_there_is_no_bound():
    assert labels.class_number(None).parse(b"123456") == 123456


@pytest.mark.parametrize(
    "given",
    [
        b"0 2",
        b"2,0",
        b"[0, 2]",
        [2, 0],
        np.array([0, 2]),
        torch.tensor([0, 2]),
        np.array([True, False, True, False]),
        torch.tensor([1.0, 0, 1, 0]),
    ],
)
def test_a_set_of_classes_is_a_vector_of_zeros_and_ones(given):
    assert labels.class_set(4).parse(given).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("given", [b"", b"[]", [], np.array([])])
def test_no_class_may_apply(given):
    assert labels.class_set(3).parse(given).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "given, reason",
    [
        (b"0 4", "is out of range: the network has 4 classes"),
        (b"0 1 0 1", "names class 0 twice"),  # a vector, written as if it were class numbers
        (torch.tensor([0, 1, 0, 1]), "names class 0 twice"),
        (np.array([1.0, 0.0]), "is not a vector of 4 zeros and ones"),
        (np.array([0.5, 0, 0, 0]), "is not a vector of 4 zeros and ones"),
        (b"cat", "is not a whole number"),
    ],
)
def test_what_is_no_set_of_classes(given, reason):
    with pytest.raises(ValueError, match=reason):
        labels.class_set(4).parse(given)


@pytest.mark.parametrize("given", [b"0.5 -1e3", b"[0.5, -1000]", (0.5, -1000), torch.tensor([0.5, -1000])])
def test_numbers(given):
    assert labels.numbers(2).parse(given).tolist() == [0.5, -1000]


def test_one_number_needs_no_list():
    assert labels.numbers(1).parse(0.25).tolist() == [0.25]


@pytest.mark.parametrize(
    "given, reason",
    [
        (b"1 2 3", "has 3 numbers: the network has 2 outputs"),
        (b"1 nan", "is not finite"),
        (b"one two", "is not made of numbers"),
        (None, "has 1 numbers"),
    ],
)
def test_what_is_not_those_numbers(given, reason):
    with pytest.raises(ValueError, match=reason):
        labels.numbers(2).parse(given)
