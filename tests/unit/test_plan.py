"""What a worker is told through its environment, and how devices are counted without torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distdl.errors import UserError
from distdl.launch import plan
from distdl.run.folder import RunFolder

FOLDER = RunFolder(Path("runs/lenet5"))


def environment(base: dict[str, str] | None = None, **changes) -> dict[str, str]:
    arguments = {"rank": 1, "places": range(4), "attempt": 2, "folder": FOLDER, "base": base or {}}
    return plan.worker_environment(**(arguments | changes))


def test_a_worker_finds_its_place_in_torchruns_variables():
    told = environment()

    assert {name: told[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")} == {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "4",
        "GROUP_RANK": "0",
    }
    assert told["TORCHELASTIC_RESTART_COUNT"] == "2"


def test_the_device_of_a_place_that_is_left_out_is_invisible():
    assert environment(places=[0, 2, 3])["CUDA_VISIBLE_DEVICES"] == "0,2,3"
    assert environment({"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, places=[0, 2])["CUDA_VISIBLE_DEVICES"] == "4,6"
    assert "CUDA_VISIBLE_DEVICES" not in environment()


def test_a_worker_knows_its_supervisor_and_an_absolute_run_folder():
    told = environment(fence=7)

    assert told["DISTDL_SUPERVISOR_PID"] == str(os.getpid())
    assert Path(told["DISTDL_RUN_FOLDER"]) == Path.cwd() / "runs/lenet5"
    assert told["DISTDL_FENCE"] == "7"
    assert told["PYTHONUNBUFFERED"] == "1"


def test_a_run_without_a_lease_has_no_fence():
    assert "DISTDL_FENCE" not in environment()


def test_the_cores_are_shared_among_the_workers(monkeypatch):
    monkeypatch.setattr(plan, "cores", lambda: 10)

    assert environment(places=range(4))["OMP_NUM_THREADS"] == "2"
    assert environment(places=range(16))["OMP_NUM_THREADS"] == "1"


def test_what_the_user_has_set_is_kept():
    told = environment({"OMP_NUM_THREADS": "5", "GLOO_SOCKET_IFNAME": "eth0", "HOME": "/home/me"})

    assert (told["OMP_NUM_THREADS"], told["GLOO_SOCKET_IFNAME"], told["HOME"]) == ("5", "eth0", "/home/me")


@pytest.mark.parametrize(
    ("is_terminal", "base", "screen"),
    [(True, {}, "tty"), (True, {"NO_COLOR": "1"}, "plain"), (True, {"NO_COLOR": ""}, "tty"), (False, {}, "plain")],
)
def test_a_live_line_is_for_terminals_that_want_one(monkeypatch, is_terminal, base, screen):
    monkeypatch.setattr(os, "isatty", lambda descriptor: is_terminal)

    assert environment(base)["DISTDL_SCREEN"] == screen


@pytest.mark.parametrize(
    ("visible", "n_devices"),
    [
        ("0", 1),
        ("2,0,1", 3),
        ("GPU-8932f937,MIG-5c89", 2),
        ("", 0),
        ("-1", 0),
        ("0,-1,1", 1),  # CUDA hides what follows an invalid entry
        ("NoDevFiles", 0),  # Slurm, in a job without GPUs
    ],
)
def test_visible_devices_are_counted_as_cuda_does(visible, n_devices):
    assert plan.local_devices({"CUDA_VISIBLE_DEVICES": visible}) == n_devices


def test_without_the_variable_the_device_files_are_counted(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia0-copy"):
        (tmp_path / name).touch()

    assert plan.local_devices({}, dev=tmp_path) == 3


def test_the_launcher_starts_without_importing_torch():
    program = "import sys, distdl.launch.local, distdl.launch.worker; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 0


def test_workers_of_another_launcher_are_not_as_many_as_nproc_says():
    plan.check_started(2, None)
    plan.check_started(2, 2)
    with pytest.raises(UserError, match="another launcher has started 2 workers here") as refused:
        plan.check_started(2, 4)
    assert refused.value.where == "command line --nproc 4"
