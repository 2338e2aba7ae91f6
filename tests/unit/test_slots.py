"""Slots: memory that batches lie in, taken again when nobody looks at a batch any more."""

import gc
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distdl.data.slots import Field, Slots, arrays_in

FIELDS = {"image": Field((3, 5, 7, 1), "uint8"), "valid": Field((3,), "float32"), "sample_id": Field((3,), "int64")}


@pytest.fixture
def slots():
    made = Slots()
    yield made
    made.close()


def test_a_slot_is_taken_again_once_nothing_lies_in_it(slots):
    first, arrays = slots.take(FIELDS)
    tensor = torch.from_numpy(arrays["image"])[1:]
    del arrays

    second, others = slots.take(FIELDS)
    assert second != first, "a tensor lies in the first"
    del tensor
    third, _ = slots.take(FIELDS)

    assert third == first and others is not None


def test_a_larger_batch_gets_a_slot_of_its_own_and_a_smaller_one_fits_into_it(slots):
    small, _ = slots.take(FIELDS)
    gc.collect()
    large, arrays = slots.take({"image": Field((100, 100, 100, 3), "uint8")})
    assert large.offset != small.offset and large.size >= 3_000_000
    del arrays

    again, _ = slots.take({"image": Field((50, 100, 100, 3), "uint8")})

    assert again == large


def test_another_process_would_see_what_is_written(slots):
    place, arrays = slots.take(FIELDS)
    arrays["sample_id"][:] = [7, 8, 9]

    seen = np.frombuffer(os.pread(slots.file, place.size, place.offset), np.uint8)

    assert arrays_in(seen, FIELDS)["sample_id"].tolist() == [7, 8, 9]


def test_what_is_kept_outlives_the_slots():
    slots = Slots()
    _, arrays = slots.take(FIELDS)
    slots.close()

    arrays["image"][:] = 5

    assert arrays["image"].sum() == 5 * 3 * 5 * 7
    with pytest.raises(RuntimeError, match="closed"):
        slots.take(FIELDS)


@given(
    st.dictionaries(
        st.text("abc", min_size=1),
        st.tuples(st.lists(st.integers(0, 5), max_size=3).map(tuple), st.sampled_from(["uint8", "int64", "float32"])),
    )
)
def test_arrays_lie_apart_and_in_place(chosen):
    fields = {name: Field(*field) for name, field in chosen.items()}
    slots = Slots()
    _, arrays = slots.take(fields)
    for number, array in enumerate(arrays.values()):
        array[...] = number

    assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == chosen
    assert all((array == number).all() for number, array in enumerate(arrays.values()))
    assert all(array.ctypes.data % 64 == 0 for array in arrays.values() if array.size)
    slots.close()
