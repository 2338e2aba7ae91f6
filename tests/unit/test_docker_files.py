"""The files of docker/: pinned, not root, alike where they should be."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = ("Dockerfile", "Dockerfile.cpu")
PINS = dict(line.split("==") for line in (DOCKER / "constraints.txt").read_text().split("\n")[1:] if line)


def steps(name):
    """(instruction, what follows it), of the last stage alone."""
    text = (DOCKER / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    last = max(i for i, line in enumerate(lines) if line.startswith("FROM"))
    return [tuple(line.split(None, 1)) for line in lines[last:]]


def args(name):
    return dict(re.findall(r"^ARG (\w+)=(\S+)", (DOCKER / name).read_text(), re.M))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_is_not_roots_is_looked_after_and_leaves_the_home_alone(name):
    last = dict(steps(name))
    assert last["USER"] == "1000:1000"
    assert last["HEALTHCHECK"].endswith('"distdl", "doctor"]')
    assert last["ENTRYPOINT"] == '["distdl"]'
    assert "PYTHONNOUSERSITE=1" in last["ENV"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_has_nothing_to_say(name):
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if not hadolint:
        pytest.skip("no hadolint here")
    done = subprocess.run([hadolint, "--no-color", str(DOCKER / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", DOCKERFILES)
def test_base_and_torch_are_pinned(name):
    given = args(name)
    assert re.fullmatch(r"docker\.io/library/python:3\.1[12]\.\d+-slim-bookworm", given["BASE"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", given["TORCH"])


def test_the_pins_are_what_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pins = {**PINS, "torch": args("Dockerfile.cpu")["TORCH"]}
    wanted = [
        *project["dependencies"],
        *(each for name in ("wandb", "s3", "audio", "mpi", "mpich") for each in extras[name]),
    ]
    for requirement in map(Requirement, wanted):
        name = requirement.name.lower().replace("_", "-")
        if name != "distdl":
            assert requirement.specifier.contains(pins[name]), requirement


def test_all_ways_to_build_take_the_same_versions():
    cpu, cuda = args("Dockerfile.cpu"), args("Dockerfile")
    definition = (DOCKER / "distdl.def").read_text()
    assert cpu["TORCH"] == cuda["TORCH"]
    assert f"torch=={cuda['TORCH']}\n" in definition
    assert f"From: {cuda['BASE'].rpartition('/')[2]}\n" in definition


def test_what_is_copied_is_let_in():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in DOCKERFILES:
        for copied in re.findall(r"^COPY (?!--)(.+) \S+$", (DOCKER / name).read_text(), re.M):
            for source in copied.split():
                assert source in allowed and (ROOT / source).exists(), source
    files = re.search(r"%files\n(.*?)\n\n", (DOCKER / "distdl.def").read_text(), re.S)
    assert files and all((ROOT / line.split()[0]).exists() for line in files[1].splitlines())


def test_the_nodes_of_the_compose_file_are_ranks_of_one_run():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert [services[name]["command"][0] for name in ("node0", "node1")] == ["--node-rank=0", "--node-rank=1"]
    for each in services.values():
        assert "--nnodes=2" in each["entrypoint"] and each["command"][1:] == services["node0"]["command"][1:]
        assert (ROOT / "docker" / each["build"]["context"] / each["build"]["dockerfile"]).exists()
        assert (ROOT / each["command"][4]).exists()
