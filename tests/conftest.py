"""What tests need of a machine, and what all of them share.

A test marked `needs("data")` is skipped where the machine lacks it, and fails there if DISTDL_REQUIRE names it. Tests
marked `matrix` are the long grids: only `make matrix` runs them, and draws ten times as many examples of each property.
"""

import importlib.util
import os
import shutil
import signal
from pathlib import Path

import hypothesis
import mpis
import namespaces
import pytest
import slurm_cluster
import ssh_hosts

from distdl.data import native

_EXAMPLES, _EXAMPLES_OF_MATRIX = 30, 300  # of each property
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_HAS = {
    "namespaces": lambda: namespaces.are_possible(),
    "mpi": lambda: mpis.are_tested(),
    "slurm": lambda: slurm_cluster.is_possible() and namespaces.are_possible(),
    "ssh": lambda: ssh_hosts.are_possible() and namespaces.are_possible(),
    "data": lambda: bool(os.environ.get("DISTDL_DATA")),
    "root": lambda: os.geteuid() == 0,
    "gpu": lambda: any(Path("/dev").glob("nvidia[0-9]*")),
    "tensorboard": lambda: importlib.util.find_spec("tensorboard") is not None,
    "chromium": lambda: any(map(shutil.which, _BROWSERS)),
    "native": lambda: native.library is not None,
    "libraries": lambda: (Path(__file__).parents[1] / ".libraries/timm").is_dir(),
}
_LACK = {
    "namespaces": "network namespaces can't be made: that takes root with CAP_SYS_ADMIN, and iproute2",
    "libraries": "neither torchvision nor timm in .libraries, where `make test` puts them",
    "mpi": "no Open MPI and MPICH, which `make mpi` installs",
    "slurm": "no Slurm, which `make slurm` installs as root, or no network namespaces",
    "ssh": "no sshd, which `make slurm` installs as root, or no network namespaces",
    "data": "DISTDL_DATA does not name a folder with the real datasets",
    "root": "not root",
    "gpu": "no CUDA device",
    "tensorboard": "the package tensorboard is not installed",
    "chromium": "neither Chromium nor Chrome is installed",
    "native": "the decoder in C was not built: install a C compiler and libjpeg-turbo's headers, then distdl",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", action="store_true", help="run the long grids as well")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"needs(*what): of the machine: {', '.join(_HAS)}")
    config.addinivalue_line("markers", "matrix: a long grid, run by `make matrix`")
    n_examples = _EXAMPLES_OF_MATRIX if config.getoption("--matrix") else _EXAMPLES
    hypothesis.settings.register_profile("distdl", max_examples=n_examples, deadline=None)
    hypothesis.settings.load_profile("distdl")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started with & by a script: programs under test inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # started with nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("matrix") and not item.config.getoption("--matrix"):
        pytest.skip("a long grid: `make matrix` runs it")
    required = set(filter(None, os.environ.get("DISTDL_REQUIRE", "").split(",")))
    for marker in item.iter_markers("needs"):
        for what in marker.args:
            if not _HAS[what]():
                (pytest.fail if what in required else pytest.skip)(_LACK[what])


@pytest.fixture(scope="session", autouse=True)
def _state_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What distdl remembers of the runs that its user started, it remembers of the tests' somewhere else."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture
def real_data() -> Path:
    """The folder of the real datasets; use it with `needs("data")`."""
    return Path(os.environ["DISTDL_DATA"])


@pytest.fixture
def chromium() -> str:
    """The program of the browser; use it with `needs("chromium")`."""
    return next(filter(None, map(shutil.which, _BROWSERS)))
