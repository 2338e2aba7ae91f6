"""Who am I among the workers: torchrun's variables; MPI's and Slurm's: test_mpi_library.py and test_slurm.py."""

import pytest

from distdl.comm.world import detect
from distdl.errors import UserError


def test_a_process_without_variables_is_no_worker():
    assert detect({}) is None


def test_the_place_is_that_of_torchruns_variables():
    environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}

    world = detect(environment)

    assert world is not None and world.host
    assert (world.rank, world.world_size, world.local_rank, world.local_world_size) == (5, 8, 1, 4)


def test_without_the_local_variables_all_workers_are_taken_to_be_on_one_host():
    world = detect({"RANK": "0", "WORLD_SIZE": "2"})

    assert world is not None and (world.local_rank, world.local_world_size) == (0, 2)


@pytest.mark.parametrize(
    "changed, what",
    [
        ({"RANK": "2"}, "rank 2 of 2 workers"),
        ({"RANK": "-1"}, "rank -1 of 2 workers"),
        ({"RANK": "first"}, "not a number"),
        ({"LOCAL_RANK": ""}, "not a number"),
    ],
)
def test_variables_that_clash_are_the_users_mistake(changed, what):
    with pytest.raises(UserError, match=what):
        detect({"RANK": "1", "WORLD_SIZE": "2", **changed})


@pytest.mark.parametrize(
    "environment",
    [
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "0"},
        {"SLURM_NTASKS": "4"},  # a batch script: it has the allocation of four tasks, but is one process
        {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "4294967290"},  # a shell of salloc's
    ],
)
def test_one_process_of_another_launcher_is_just_a_process(environment):
    assert detect(environment) is None


def test_under_mpirun_with_torchruns_variables_those_count():
    world = detect({"OMPI_COMM_WORLD_SIZE": "2", "RANK": "1", "WORLD_SIZE": "2"})

    assert world is not None and world.rank == 1
