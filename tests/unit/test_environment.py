"""environment.json: what a run ran on."""

import json
import os
import subprocess
import sys
from importlib import metadata

import pytest

from distdl.run.environment import DIFF_LIMIT_BYTES, git_commit, git_diff, write_environment
from distdl.run.folder import create_or_reopen

WORKERS = [{"host": "a", "device": "cpu", "threads": 1}]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Of a run that is started outside of any checkout."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    return create_or_reopen(tmp_path / "run", resume=False)


def content(folder):
    return json.loads(folder.environment.read_text())


def test_it_names_versions_command_workers_and_what_else_is_given(folder):
    write_environment(folder, WORKERS, backend="gloo")

    written = content(folder)

    assert written["workers"] == WORKERS and written["backend"] == "gloo"
    assert written["packages"]["torch"] and written["python"] and written["command"]
    assert "earlier" not in written


def test_a_second_start_keeps_the_first_and_a_third_both(folder):
    for backend in ("first", "second", "third"):
        write_environment(folder, WORKERS, backend=backend)

    written = content(folder)

    assert written["backend"] == "third"
    assert [before["backend"] for before in written["earlier"]] == ["first", "second"]
    assert not any("earlier" in before for before in written["earlier"])


@pytest.mark.parametrize("damaged", ["", "{", "[]", "3", '"text"'])
def test_a_damaged_file_is_replaced(folder, damaged):
    folder.environment.write_text(damaged)

    write_environment(folder, WORKERS)

    assert content(folder)["workers"] == WORKERS


def test_every_installed_package_is_named_with_its_version(folder):
    write_environment(folder, WORKERS)

    packages = content(folder)["packages"]

    assert {"distdl", "torch", "numpy", "pydantic"} <= packages.keys()
    assert packages["torch"] == metadata.version("torch")
    assert list(packages) == sorted(packages)


def test_the_machine_is_described(folder):
    write_environment(folder, WORKERS)

    machine = content(folder)["machine"]

    assert machine["cores"] == os.cpu_count() and machine["memory_bytes"] > 1e8 and "cpu" in machine


def test_of_the_variables_those_that_change_training_are_kept_and_never_a_secret(folder, monkeypatch):
    kept = {"CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "1", "NCCL_DEBUG": "INFO", "SLURM_JOB_ID": "7"}
    secret = {"NCCL_TOKEN": "a", "SLURM_JWT": "b", "WANDB_API_KEY": "c", "TORCH_HUB_PASSWORD": "d", "CUDA_KEY": "e"}
    for name, value in {**kept, **secret, "MY_NOTES": "f", "DISTDL_STORE": "http://me:abc@host/x"}.items():
        monkeypatch.setenv(name, value)

    write_environment(folder, WORKERS)

    variables = content(folder)["variables"]
    assert kept.items() <= variables.items()
    assert not {*secret, "MY_NOTES", "HOME"} & variables.keys()
    assert variables["DISTDL_STORE"] == "http://***@host/x"


def test_the_command_is_kept_without_its_secrets(folder, monkeypatch):
    monkeypatch.setenv("DISTDL_COMMAND", "distdl train a.yaml data.train.args.api_key=abc optim.lr=0.1")

    write_environment(folder, WORKERS)

    assert content(folder)["command"] == "distdl train a.yaml data.train.args.api_key=*** optim.lr=0.1"
    assert "abc" not in folder.environment.read_text()


# --- git ---


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit of one file, `a`; call it with the arguments of git."""
    path = tmp_path / "checkout"
    path.mkdir()

    def git(*arguments):
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *name, *arguments], cwd=path, check=True, capture_output=True, text=True)

    git.path = path
    git("init")
    (path / "a").write_text("1\n")
    git("add", "a")
    git("commit", "-m", "one")
    return git


def test_the_commit_is_marked_when_files_differ_from_it(checkout):
    commit = checkout("rev-parse", "HEAD").stdout.strip()

    clean = git_commit(checkout.path)
    (checkout.path / "a").write_text("2\n")

    assert (clean, git_commit(checkout.path)) == (commit, f"{commit}+changes")


def test_outside_of_a_git_checkout_there_is_neither_commit_nor_diff(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    assert git_commit(tmp_path) is None and git_diff(tmp_path) == ""


def test_the_diff_can_be_applied_to_the_commit(checkout, folder, monkeypatch):
    (checkout.path / "a").write_text("2\n")
    monkeypatch.chdir(checkout.path)

    write_environment(folder, WORKERS)
    checkout("checkout", "a")
    checkout("apply", str(folder.git_diff.absolute()))

    assert (checkout.path / "a").read_text() == "2\n"
    assert content(folder)["git_diff"] == "git.diff"


def test_staged_changes_are_changes_too(checkout):
    (checkout.path / "b").write_text("new\n")
    checkout("add", "b")

    assert "+new" in git_diff(checkout.path)


def test_a_clean_checkout_has_no_diff_and_takes_away_that_of_an_earlier_start(checkout, folder, monkeypatch):
    monkeypatch.chdir(checkout.path)
    (checkout.path / "a").write_text("2\n")
    write_environment(folder, WORKERS)
    checkout("checkout", "a")

    write_environment(folder, WORKERS)

    assert not folder.git_diff.exists() and content(folder)["git_diff"] is None


def test_a_secret_in_the_changes_does_not_reach_the_diff(checkout):
    (checkout.path / "a").write_text("password = 'hunter2'\n")

    assert "+password = '***'" in git_diff(checkout.path)


def test_a_long_diff_is_cut_off_and_says_so(checkout):
    (checkout.path / "a").write_text("a line of the file\n" * 200_000)

    *_, last = (diff := git_diff(checkout.path)).splitlines()

    assert DIFF_LIMIT_BYTES - 100 < len(diff) < DIFF_LIMIT_BYTES + 100
    assert last.startswith("[cut off after 1,048,")


@pytest.mark.parametrize("shift", range(0, 42, 6))
def test_no_secret_is_cut_in_two_at_the_end_of_a_long_diff(checkout, shift):
    token = f"ghp_{'Ab0' * 12}"
    (checkout.path / "a").write_text("x" * shift + f"\n{token}" * 30_000)

    assert "ghp_" not in git_diff(checkout.path)


def test_changes_of_files_that_are_not_text_do_no_harm(checkout):
    (checkout.path / "a").write_bytes(b"caf\xe9\n")

    assert "+caf" in git_diff(checkout.path)


def test_a_git_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    (tmp_path / "git").write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("distdl.run.environment._GIT_TIMEOUT_S", 0.2)

    assert git_commit(tmp_path) is None and git_diff(tmp_path) == ""
