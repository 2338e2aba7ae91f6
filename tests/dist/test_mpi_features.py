"""Over MPI works what torch.distributed promises beyond its collectives, and what is built upon it."""

from collections.abc import Iterator

import pytest
from mpi_workers import MPIWorkers

pytestmark = [pytest.mark.timeout(180), pytest.mark.needs("mpi")]

@pytest.fixture(scope="module")
def new_workers(mpi) -> Iterator[MPIWorkers]:
    """That have done nothing yet, and may be broken by the last test."""
    with MPIWorkers(3, mpi) as workers:
        yield workers


OURS = "distdl_mpi"  # importing distdl.comm.mpi would start MPI in this process


def test_futures_chain(mpi_workers):
    results = mpi_workers(2).run("mpi_futures")

    assert results == [[[20, 24, 28, 32], [30, 36, 42, 48], True, True]] * 2


def test_objects_travel(mpi_workers):
    results = mpi_workers(4).run("mpi_objects")

    for rank, (gathered, at_root, told, given) in enumerate(results):
        assert gathered == [[each, 1000 * each] for each in range(4)]
        assert at_root == ([0, 1, 2, 3] if rank == 3 else None)
        assert told == [1, 1]
        assert given == f"for {rank}"


def test_some_of_the_workers_are_a_group_also_of_gloo(mpi_workers):
    results = mpi_workers(4).run("mpi_sub_groups")

    assert results == [[2, 3, 2], [4, 3, 3], [2, 3, 2], [4, 3, 3]]


def test_two_threads_use_two_groups(mpi_workers):
    results = mpi_workers(2).run("mpi_threads", n_rounds=30)

    assert results == [[[2.0 * (i + number) for i in range(30)] for number in (0, 1)]] * 2


def test_a_mesh_has_a_group_along_each_dimension(mpi_workers):
    results = mpi_workers(4).run("mpi_mesh")

    assert results == [[1 + 4, 1 + 2, 15], [2 + 8, 1 + 2, 15], [1 + 4, 4 + 8, 15], [2 + 8, 4 + 8, 15]]


def test_functional_collectives(mpi_workers):
    results = mpi_workers(4).run("mpi_functional")

    for rank, (reduced, gathered, scattered, exchanged) in enumerate(results):
        assert reduced == [1 + 2 + 3 + 4]
        assert gathered == [[0, 1, 2, 3]]
        assert scattered == [4 * rank + 0 + 1 + 2 + 3]
        assert exchanged == [rank, 10 + rank, 20 + rank, 30 + rank]


@pytest.mark.parametrize("is_async", [False, True])
def test_collectives_are_coalesced(mpi_workers, is_async):
    results = mpi_workers(2).run("mpi_coalesced", is_async=is_async)

    for rank, (sums, wholes, shares) in enumerate(results):
        assert sums == [[1], [3], [5]]
        assert wholes == [[0, 1], [0, 1, 10, 11]]
        assert shares == [[2 * rank], [4 * rank, 4 * rank + 2]]


def test_a_sum_is_premultiplied(mpi_workers):
    results = mpi_workers(2).run("mpi_premultiplied", factor=0.5)

    assert results == [[[5, 6], 5], [[5, 6], 6]]


def test_sparse_tensors_are_summed(mpi_workers):
    results = mpi_workers(4).run("mpi_sparse")

    assert results == [[2, 2, 2, 0, 3]] * 4


def test_nobody_leaves_a_barrier_before_all_have_come(mpi_workers):
    results = mpi_workers(4).run("mpi_barrier")

    assert min(went_on for _, went_on in results) >= max(came for came, _ in results)


@pytest.mark.parametrize(("n", "n_more"), [(1, 0), (30_000, 0), (60_000, 5_000)])
def test_who_waits_otherwise_or_has_more_takes_part(mpi_workers, n, n_more):
    results = mpi_workers(4).run("mpi_unlike", n=n, n_more=n_more)

    numbers = [n + rank * n_more for rank in range(4)]
    of_all = sum(rank * number for rank, number in enumerate(numbers))
    for rank, found in enumerate(results):
        assert found == [4 * n, rank * n, of_all, 4 * numbers[rank], 6 * n if rank == 0 else None]


def test_messages_are_told_apart_by_source_and_tag(mpi_workers):
    results = mpi_workers(4).run("mpi_messages")

    assert results[0] == [[1, 2, 3], [True] * 3, [7, 5]]
    assert results[1:] == [[rank] * 3 for rank in (1, 2, 3)]


def test_a_batch_of_messages_from_all_to_all(mpi_workers):
    results = mpi_workers(4).run("mpi_batch")

    for rank, came in enumerate(results):
        assert came == {str(each): [10 * each + rank] * (each + 1) for each in range(4) if each != rank}


@pytest.mark.parametrize("form", ["plain", "static graph", "uneven"])
def test_ddp_trains_as_over_gloo(mpi_workers, form):
    results = mpi_workers(2).run("mpi_ddp", form=form)

    for from_gloo, from_the_start in results:
        assert from_gloo < 1e-6 < 1e-3 < from_the_start


N_WEIGHTS = 16 * 32 + 32 + 32 * 32 + 32 + 32 * 4 + 4


@pytest.mark.parametrize(("n", "is_hybrid"), [(2, False), (4, True)], ids=["2 shards", "2x2"])
def test_fsdp_trains_as_one_process(mpi_workers, n, is_hybrid):
    results = mpi_workers(n).run("mpi_fsdp", is_hybrid=is_hybrid, is_half=False)

    for from_one, n_mine in results:
        assert from_one < 1e-6
        assert n_mine == N_WEIGHTS / 2


def test_fsdp_trains_in_bfloat16(mpi_workers):
    results = mpi_workers(2).run("mpi_fsdp", is_hybrid=False, is_half=True)

    for from_one, _ in results:
        assert from_one < 2 * 3e-3  # AdamW's steps are as long as the rate, whatever the gradient


@pytest.mark.parametrize("is_async", [False, True])
def test_a_checkpoint_of_shards_comes_back(mpi_workers, tmp_path, is_async):
    results = mpi_workers(2).run("mpi_checkpoint", folder=str(tmp_path), is_async=is_async)

    assert results == [[True, False]] * 2


@pytest.mark.parametrize(
    ("backend", "options"),
    [(OURS, {}), (OURS, {"init_method": "mpi://"}), ("gloo", {"init_method": "mpi://"}), ("gloo", {})],
    ids=["nothing told", "mpi", "gloo by mpi", "gloo by env"],
)
def test_workers_meet_and_meet_again(mpi_workers, backend, options):
    results = mpi_workers(2).run("mpi_meeting", backend=backend, options=options)

    assert results == [[backend, 2, 3, True, 1]] * 2


def test_the_first_sum_may_be_of_some_of_the_workers(new_workers):
    assert new_workers.run("mpi_sum_of_some") == [3, 3, 4]


def test_who_does_not_come_is_not_waited_for_longer_than_allowed(new_workers):
    *there, gone = new_workers.run("mpi_timeouts", seconds=0.5)

    assert gone == {}
    for found in there:
        assert len(found) == 5
        for error, seconds, *then in found.values():
            assert "Timed out after 0.5 s" in error
            assert 0.4 < seconds < 5
            assert all("nothing more can be done" in error for error in then)
        assert sum(len(then) for _, _, *then in found.values()) == 3
