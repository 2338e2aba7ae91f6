"""Every collective over MPI gives exactly what one process calculates: drawn types, shapes and memory layouts."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.timeout(300), pytest.mark.needs("mpi")]

FLOATS = ["float32", "float64", "bfloat16", "float16"]
WHOLE = ["int8", "int16", "int32", "int64", "uint8", "bool"]
EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
REDUCTIONS = ["all_reduce", "reduce", "reduce_scatter", "reduce_scatter_tensor"]
MOVES = [
    *("broadcast", "all_gather", "all_gather_into_tensor", "gather", "scatter"),
    *("all_to_all", "all_to_all_single", "ring"),
]

shapes = st.lists(st.integers(0, 6), min_size=1, max_size=3) | st.sampled_from([[1000], [3, 7, 101], [70_000]])
layouts = st.sampled_from(["plain", "transposed", "every second"])
ops = st.sampled_from(["SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR"])


@pytest.fixture(params=[2, 3, 4], ids=lambda n: f"{n} workers")
def n_workers(request):
    return request.param


@pytest.mark.parametrize("form", REDUCTIONS)
@EXAMPLES
@given(
    kind=st.tuples(st.sampled_from(FLOATS + WHOLE), ops).filter(
        lambda kind: not (kind[0] in FLOATS and kind[1].startswith("B")) and kind != ("bool", "AVG")
    ),
    shape=shapes,
    layout=layouts,
    is_async=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_reductions(mpi_workers, n_workers, form, kind, shape, layout, is_async, seed):
    dtype, op = kind

    wrong = mpi_workers(n_workers).run(
        "mpi_reduction", form=form, dtype=dtype, op=op, shape=shape, layout=layout, is_async=is_async, seed=seed
    )

    assert wrong == [[]] * n_workers


@pytest.mark.parametrize("form", MOVES)
@EXAMPLES
@given(
    dtype=st.sampled_from([*FLOATS, *WHOLE, "complex64"]),
    shape=shapes,
    layout=layouts,
    is_async=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_moves(mpi_workers, n_workers, form, dtype, shape, layout, is_async, seed):
    wrong = mpi_workers(n_workers).run(
        "mpi_move", form=form, dtype=dtype, shape=shape, layout=layout, is_async=is_async, seed=seed
    )

    assert wrong == [[]] * n_workers
