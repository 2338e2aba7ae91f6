"""distdl.run.places: what paths of a config, or of the site's file, mean on this machine."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from distdl.config.cluster import PathsConfig
from distdl.errors import UserError
from distdl.run import folder, places
from distdl.run.places import located, runs_root, use, user_cache

COMPILERS = (
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "TORCH_EXTENSIONS_DIR",
    "CUDA_CACHE_PATH",
    "WANDB_CACHE_DIR",
)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch, tmp_path):
    for name in (*COMPILERS, "DISTDL_RUNS", "DISTDL_DATASETS", "DISTDL_CACHE", "DISTDL_SITE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "x")  # so that it is put back, whatever a test does
        monkeypatch.delenv(name)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def site(tmp_path: Path, monkeypatch, text: str) -> None:
    (tmp_path / "site.yaml").write_text(text)
    monkeypatch.setenv("DISTDL_SITE", str(tmp_path / "site.yaml"))


def test_runs_are_in_this_folder_or_where_the_environment_the_site_or_a_config_says(tmp_path, monkeypatch):
    assert runs_root() == Path("runs")
    site(tmp_path, monkeypatch, "paths: {runs: $STORE/runs}")
    monkeypatch.setenv("STORE", "/store")
    assert runs_root() == Path("/store/runs")
    monkeypatch.setenv("DISTDL_RUNS", "/mine")
    assert runs_root() == Path("/mine")
    use(PathsConfig(runs="${STORE}/others"))
    assert runs_root() == Path("/store/others")


def test_a_run_is_found_by_name_where_runs_are(tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="no run 'a' here"):
        folder.find("a")
    use(PathsConfig(runs=str(tmp_path / "runs")))
    assert folder.find("a").path == tmp_path / "runs" / "a"


@pytest.mark.parametrize("text", ["- paths\n", "paths: [runs]\n", "paths: {runs: 3}\n", "{", "optim: {lr: 1}\n"])
def test_a_damaged_file_of_a_site_is_told_where_a_config_is_read_and_stops_nothing_else(tmp_path, monkeypatch, text):
    site(tmp_path, monkeypatch, text)
    assert runs_root() == Path("runs")


def test_data_is_here_or_in_the_folder_of_data(tmp_path):
    (tmp_path / "sets" / "digits").mkdir(parents=True)
    assert located("digits") == Path("digits")
    use(PathsConfig(data=str(tmp_path / "sets")))
    assert located("digits") == tmp_path / "sets" / "digits"
    assert located("others") == Path("others")
    assert located("/others") == Path("/others")
    Path("digits").mkdir()
    assert located("digits") == Path("digits")


def test_variables_and_home_are_filled_in_and_what_is_not_set_is_told(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    use(PathsConfig(runs="~/runs"))
    assert runs_root() == Path("/home/me/runs")
    with pytest.raises(UserError, match=r"\$NO_SUCH is not set on this machine") as told:
        use(PathsConfig(cache="$NO_SUCH/cache"))
    assert told.value.where == "paths.cache: $NO_SUCH/cache"


def test_compiled_code_is_kept_where_the_cache_is_unless_the_user_has_said_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", "/of/the/user")
    use(PathsConfig(cache=str(tmp_path / "cache")))
    assert user_cache() == tmp_path / "cache" / "distdl"
    assert os.environ["TRITON_CACHE_DIR"] == "/of/the/user"
    for name in set(COMPILERS) - {"TRITON_CACHE_DIR"}:
        assert Path(os.environ[name]).is_relative_to(tmp_path / "cache")


def test_scratch_is_made_and_is_where_temporary_files_go(tmp_path):
    use(PathsConfig(scratch=str(tmp_path / "local" / "job")))
    with tempfile.NamedTemporaryFile() as file:
        assert Path(file.name).parent == tmp_path / "local" / "job"
    assert subprocess.run(
        [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"], capture_output=True, text=True
    ).stdout.strip() == str(tmp_path / "local" / "job")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be made: Not a directory"):
        use(PathsConfig(scratch=str(tmp_path / "file" / "job")))


def test_the_cache_is_not_in_the_home_and_is_this_users_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_cache() == tmp_path / "tmp" / f"distdl-{os.getuid()}"
    assert user_cache().stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert user_cache() == Path("/cache/distdl")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("TMPDIR")
    assert places.user_cache().parent == Path("/var/tmp")


@pytest.mark.parametrize("kind", ["link", "open to all", "of another"])
def test_a_folder_that_somebody_else_has_put_there_is_refused(tmp_path, monkeypatch, kind):
    path = tmp_path / "tmp" / f"distdl-{os.getuid()}"
    if kind == "link":
        path.symlink_to(tmp_path)
    else:
        path.mkdir()
        path.chmod(0o777 if kind == "open to all" else 0o700)
    if kind == "of another":
        path.rename(tmp_path / "tmp" / "distdl-12345")
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(UserError, match="not this user's alone"):
        user_cache()
