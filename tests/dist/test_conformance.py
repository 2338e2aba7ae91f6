"""Every form of the exchange sums exactly what one process would: drawn shapes, types, buckets and unused weights."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.timeout(180)

DTYPES = ["float32", "float64", "bfloat16", "float16"]
# (form, workers, workers a node, leaves)
FORMS = [
    ("fast", 2, 2, 1),
    ("fast", 3, 3, 1),
    ("fast", 4, 2, 1),
    ("tree", 2, 2, 8),
    ("tree", 3, 3, 4),
    ("tree", 4, 2, 16),
    ("tree", 4, 4, 4),
]

shapes = st.lists(st.integers(0, 7), max_size=3)
networks = st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), min_size=1, max_size=6)


@pytest.mark.parametrize(("form", "n_workers", "per_node", "leaves"), FORMS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(network=networks, bucket_bytes=st.integers(1, 600), n_others=st.integers(0, 5), data=st.data())
def test_sums_are_those_of_one_process(workers, form, n_workers, per_node, leaves, network, bucket_bytes, n_others, data):
    n_parts = leaves if form == "tree" else n_workers
    some = st.sets(st.integers(0, len(network) - 1))
    uses = data.draw(st.lists(some.map(sorted), min_size=n_parts, max_size=n_parts), label="weights that each part uses")

    wrong = workers(n_workers).run(
        "exchanged",
        form=form,
        per_node=per_node,
        leaves=leaves,
        network=network,
        bucket_mib=bucket_bytes / 2**20,
        n_others=n_others,
        uses=uses,
    )

    assert wrong == [[]] * n_workers
