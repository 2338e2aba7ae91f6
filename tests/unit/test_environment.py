"""environment.json: what a run ran on."""

import json
import subprocess

import pytest

from distdl.run.environment import git_commit, write_environment
from distdl.run.folder import create_or_reopen

WORKERS = [{"host": "a", "device": "cpu", "threads": 1}]


@pytest.fixture
def folder(tmp_path):
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


def test_the_commit_is_marked_when_files_differ_from_it(tmp_path):
    def git(*arguments):
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD").stdout.strip()

    clean = git_commit(tmp_path)
    (tmp_path / "a").write_text("2")

    assert (clean, git_commit(tmp_path)) == (commit, f"{commit}+changes")


def test_outside_of_a_git_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    assert git_commit(tmp_path) is None
