"""The CPU image, built on this machine on a base of Debian's own, and two nodes in it: docker/try.sh."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OWN = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
ON_DEBIAN = """
FROM scratch
ADD base.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(1800)]


def run(*command, **options):
    return subprocess.run(
        list(map(str, command)),
        env={**os.environ, **OWN, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        **options,
    )


@pytest.fixture
def base(tmp_path):
    """Debian with its Python, as an image: where no registry can be reached."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("buildah", "mmdebstrap"))):
        pytest.skip("root, buildah and mmdebstrap are needed")
    packages = "--include=ca-certificates,python3,python3-venv"
    made = run("mmdebstrap", "--variant=minbase", packages, "bookworm", tmp_path / "base.tar")
    assert made.returncode == 0, made.stdout
    (tmp_path / "Dockerfile").write_text(ON_DEBIAN)
    assert run("buildah", "bud", "--quiet", "--tag", "localhost/debian-python", tmp_path).returncode == 0
    yield "localhost/debian-python"
    run("buildah", "rmi", "--force", "localhost/debian-python")


def of_this_machines_pip(folder):
    """Options that let a build reach what pip reaches here; where it has a torch for the CPU at hand, that one."""
    asked = run(sys.executable, "-m", "pip", "config", "list").stdout
    settings = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", asked, re.M))
    kept = {name: settings[name] for name in ("cert", "find-links", "extra-index-url", "index-url") if name in settings}
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in kept.items()))
    words = " ".join(kept.get(name, "") for name in ("cert", "find-links", "extra-index-url")).split()
    paths = [Path(word.removeprefix("file://")) for word in words]
    roots = {path.parent if path.name == "simple" else path for path in paths if path.exists()}
    volumes = [f"{path}:{path}:ro" for path in sorted(roots)] + [f"{folder}/pip.conf:/etc/pip.conf:ro"]
    options = [word for volume in volumes for word in ("--volume", volume)]
    has_torch = any(path.is_dir() and list(path.glob("torch-*cpu*.whl")) for path in paths)
    return [*options, *(["--build-arg", "TORCH_INDEX=https://pypi.org/simple"] if has_torch else [])]


def test_two_nodes_train_in_containers_as_a_user_who_is_not_root(base, tmp_path):
    done = run(ROOT / "docker/try.sh", "--build-arg", f"BASE={base}", *of_this_machines_pip(tmp_path))

    assert done.returncode == 0, done.stdout
    assert "users in the containers: 1000\n1000\n" in done.stdout
    assert float(re.search(r'"top1": ([\d.]+)', done.stdout)[1]) > 0.95
    assert '"host": "node0"\n"host": "node1"' in done.stdout
    size = re.search(r"distdl +cpu .* ([\d.]+) GB\s*$", done.stdout)
    assert size and float(size[1]) < 1.5, done.stdout
    if log := os.environ.get("DISTDL_TABLE"):
        Path(log).write_text(done.stdout[-3000:])
