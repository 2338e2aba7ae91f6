"""torch's own tests of torch.distributed, which its wheel contains, on the backend of this repository.

    python tests/dist/torch_own.py benchmarks/results/comm/mpi_torch_tests.txt

An mpirun starts 4 processes, and each runs every test, as torch does it with its own MPI. A test that fails may leave
the others in the middle of something: all of them end, and new ones go on with the next. torch skips by the backend's
name, and knows none but its own: a test runs if it would over MPI or else over gloo. There are no CUDA devices.
"""

import argparse
import contextlib
import faulthandler
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import unittest
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

TESTS = "torch.testing._internal.distributed.distributed_test"
N_PROCESSES = 4
TEST_S = 60
GRACE_S = 5.0  # after the first process is through with a test, for the others
JOB_S = 1200
_SHORT = re.compile(r"https://github.com/(\S+)/issues/")

# --- in the process that starts the others ---


def run(mpirun: list[str], environment: dict[str, str]) -> dict[str, list[str]]:
    """[outcome, reason] of each test, by name. `outcome`: passed, failed or skipped."""
    folder = Path(tempfile.mkdtemp())
    outcomes: dict[str, list[str]] = {}
    try:
        while True:
            told = _run_job(mpirun, environment, folder, list(outcomes))
            if "end" in told:
                return outcomes
            for test, by_rank in told.items():
                outcomes[test] = _together(by_rank)
    finally:
        shutil.rmtree(folder)


def _run_job(
    mpirun: list[str], environment: dict[str, str], folder: Path, done: list[str]
) -> dict[str, dict[int, list[str]]]:
    """What each rank tells of the tests that are not done; at least of one."""
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "done").write_text(json.dumps(done))
    shared = {
        "BACKEND": "mpi",
        "WORLD_SIZE": str(N_PROCESSES),
        "TEMP_DIR": str(folder),
        "INIT_METHOD": f"file://{folder}/init_file",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",  # for a test that looks at it
    }
    command = [*mpirun, "-n", str(N_PROCESSES), sys.executable, __file__]
    job = subprocess.Popen(command, env=os.environ | environment | shared, stdin=subprocess.DEVNULL)
    try:
        job.wait(JOB_S)
    finally:
        job.terminate()  # which ends the others as well
        job.wait()
    told: dict[str, dict[int, list[str]]] = defaultdict(dict)
    for path in folder.glob("told.*"):
        for line in path.read_text().splitlines():
            test, *outcome = json.loads(line)
            told[test][int(path.suffix[1:])] = outcome
    if not told:
        raise RuntimeError("no test has begun")
    return told


def _together(by_rank: dict[int, list[str]]) -> list[str]:
    """One outcome for those of all ranks. A rank that has only begun hung, or was ended because another one failed."""
    for outcome in ("failed", "begun"):
        for rank, told in sorted(by_rank.items()):
            if told[0] == outcome:
                reason = told[1] if outcome == "failed" else f"does not end within {TEST_S} s"
                return ["failed", f"rank {rank}: {reason}"]
    skipped = [_SHORT.sub(r"\1#", reason) for outcome, reason in by_rank.values() if outcome == "skipped"]
    return ["skipped", skipped[0]] if skipped else ["passed", ""]


def report(title: str, outcomes: dict[str, list[str]]) -> str:
    names: dict[str, list[str]] = {outcome: [] for outcome in ("passed", "failed", "skipped")}
    by_reason: dict[str, list[str]] = defaultdict(list)
    for test, (outcome, reason) in sorted(outcomes.items()):
        names[outcome].append(test)
        if outcome != "passed":
            by_reason[f"{outcome}: {reason}"].append(test)
    lines = [title, ", ".join(f"{len(tests)} {outcome}" for outcome, tests in names.items())]
    for reason, tests in [*sorted(by_reason.items()), ("passed", names["passed"])]:
        lines += ["", reason, *(f"    {test}" for test in tests)]
    return "\n".join(lines) + "\n"


def passed_in(text: str) -> set[str]:
    """The names in a report."""
    return set(text.partition("\npassed\n")[2].split())


# --- in each of the others ---


def work() -> None:
    import torch.distributed as dist

    from distdl.comm import mpi, mpi_library

    world = mpi_library.load().COMM_WORLD
    here = world.Dup()
    folder = Path(os.environ["TEMP_DIR"])
    dist.is_mpi_available = lambda: True
    modules = [_module(name) for name in ("mpi", "gloo")]
    done = json.loads((folder / "done").read_text())
    suite = vars(modules[0].DistributedTest._DistTestBase)
    tests = [name for name in suite if name.startswith("test_") and name not in done]
    with (folder / f"told.{world.rank}").open("w", buffering=1) as told:
        for test in tests:
            if world.rank == 0:
                for name in ("barrier", "test_dir"):
                    shutil.rmtree(folder / name, ignore_errors=True)
                    (folder / name).mkdir()
                (folder / "init_file").unlink(missing_ok=True)
            world.Barrier()
            told.write(json.dumps([test, "begun", ""]) + "\n")
            faulthandler.dump_traceback_later(TEST_S, exit=True)
            outcome = _outcome(modules, test, world.rank, mpi.NAME)
            told.write(json.dumps([test, *outcome]) + "\n")
            if outcome[0] == "failed":
                print(f"{test}, rank {world.rank}: {outcome}", file=sys.stderr)
            _end_unless_all_are_well(here, outcome[0] != "failed")
            faulthandler.cancel_dump_traceback_later()
        told.write(json.dumps(["end", "", ""]) + "\n")
    world.Barrier()


class _Name(str):
    """Ours, which is taken for torch's as well."""

    def __new__(cls, ours: str, theirs: str) -> "_Name":
        made = super().__new__(cls, ours)
        made.theirs = theirs
        return made

    def __eq__(self, other: object) -> bool:
        return other == str(self) or other == self.theirs

    __hash__ = str.__hash__


def _module(backend: str) -> ModuleType:
    """The tests as they are for this one of torch's backends; run over ours."""
    os.environ["BACKEND"] = backend
    spec = importlib.util.find_spec(TESTS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.BACKEND = _Name("distdl_mpi", backend)
    os.environ["BACKEND"] = "mpi"
    return module


def _outcome(modules: list[ModuleType], test: str, rank: int, backend: str) -> list[str]:
    import torch.distributed as dist
    from torch.testing._internal import common_distributed, common_utils

    skips = [getattr(vars(module.DistributedTest._DistTestBase)[test], "__unittest_skip__", False) for module in modules]
    module = modules[skips.index(False) if False in skips else 0]
    suite = type("Tests", (module.DistributedTest._DistTestBase, module.TestDistBackend), {"__module__": "torch_own"})
    case: Any = suite(test)
    case.rank, case.file_name = rank, f"{os.environ['TEMP_DIR']}/file"
    case.skip_return_code_checks, case.special_return_code_checks = [], {}
    seconds = module.CUSTOM_PG_TIMEOUT.get(test, module.default_pg_timeout)
    if all(skips):
        return ["skipped", vars(modules[-1].DistributedTest._DistTestBase)[test].__unittest_skip_why__]
    sys.modules[TESTS] = module  # where pickle looks for its classes
    module.Barrier.barrier_id = 0
    try:
        dist.init_process_group(backend, init_method="mpi://", timeout=timedelta(seconds=seconds))
        case._barrier()
        common_utils.set_rng_seed()
        getattr(case, test)()
        case._barrier()
        dist.destroy_process_group()
    except unittest.SkipTest as error:
        return ["skipped", str(error)]
    except SystemExit as error:
        skip = next((each for each in common_distributed.TEST_SKIPS.values() if each.exit_code == error.code), None)
        return ["skipped", skip.message] if skip else ["failed", f"exit code {error.code}"]
    except BaseException as error:
        traceback.print_exc()
        text = " ".join(str(error).split("Exception raised from")[0].split())
        return ["failed", f"{type(error).__name__}: {re.sub(r'(/[^/ ]+)+/', '', text)[:160]}"]
    finally:
        with contextlib.suppress(Exception):
            if dist.is_initialized():
                dist.destroy_process_group()
    return ["passed", ""]


def _end_unless_all_are_well(comm: Any, is_well: bool) -> None:
    """Who still hangs in the test is not waited for longer than GRACE_S, once one is through."""
    request = comm.Ibarrier()
    until = time.monotonic() + GRACE_S
    while not request.Test():
        if time.monotonic() > until:
            comm.Abort(1)
        time.sleep(0.01)
    if comm.allreduce(0 if is_well else 1):  # the sum
        comm.Abort(1)


def main() -> None:
    import torch
    from mpis import AS_ROOT, installed

    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--library", default="Open MPI", help="a name of mpi_workers.py")
    arguments = parser.parse_args()
    library = next(each for each in installed() if each.name == arguments.library)
    outcomes = run(list(library.mpirun), AS_ROOT)
    title = f"torch {torch.__version__}'s own tests of torch.distributed on distdl_mpi: {library.name}, "
    arguments.path.write_text(report(f"{title}{N_PROCESSES} processes, no CUDA", outcomes))


if __name__ == "__main__":
    main() if len(sys.argv) > 1 else work()
