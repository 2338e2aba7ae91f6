"""The collectives that `distdl bench comm` measures give the right numbers, and wrong ones are noticed."""

import pytest

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(("n_workers", "per_node", "dtype"), [(2, 2, "float32"), (3, 3, "bfloat16"), (4, 2, "float32")])
def test_every_operation_is_right_after_it_was_called_and_not_before(workers, n_workers, per_node, dtype):
    results = workers(n_workers).run("measured_operations", per_node=per_node, dtype=dtype)

    assert ("hierarchical" in results[0]) == (per_node < n_workers)
    for name in results[0]:
        before, after = zip(*(result[name] for result in results))
        assert all(after), name
        assert not all(before) or name == "barrier"  # which has no numbers
