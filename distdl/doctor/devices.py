"""GPUs and their driver, the PyTorch that is to use them, and the libraries that carry gradients."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from distdl.doctor import check
from distdl.doctor.check import Check

_TIMEOUT_S = 8.0  # nvidia-smi takes seconds where no daemon keeps the driver loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """NVIDIA's. `cuda`: the newest version of CUDA that it runs; "" if it does not say."""

    version: str
    cuda: str = ""
    gpus: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """`cuda`, `hip`: what it was built for. `n_devices`: that it can use. `problem`: why it can't be imported."""

    version: str = ""
    cuda: str | None = None
    hip: str | None = None
    n_devices: int = 0
    backends: Mapping[str, bool] | None = None
    problem: str = ""


def all_checks() -> list[Check]:
    torch = find_torch()
    n_gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    required = metadata.requires("distdl") or []
    checks = [check_torch(torch, required), check_devices(find_driver(), torch, n_gpus)]
    if torch.backends is not None:
        checks.append(check_backends(torch.backends, has_gpu=torch.n_devices > 0))
    return checks


# --- finding out ---


def find_driver(proc: Path = Path("/proc/driver/nvidia/version"), program: str | None = None) -> Driver | None:
    """None if there is none."""
    said = _ask(program or shutil.which("nvidia-smi") or "")
    loaded = re.search(r"\b\d+\.\d+(?:\.\d+)*\b", proc.read_text(errors="replace")) if proc.exists() else None
    if not said.startswith(("GPU ", "Driver")) and "Driver Version" not in said:
        if loaded is None:
            return None
        return Driver(version=loaded[0], problem=" ".join(said.split())[:200])
    version = re.search(r"Driver Version\s*:\s*(\S+)", said)
    cuda = re.search(r"CUDA Version\s*:\s*(\d+\.\d+)", said)
    gpus = re.findall(r"^GPU \d+: (.+?)(?: \(UUID.*)?$", said, re.MULTILINE)
    found = version[1] if version else loaded[0] if loaded else ""
    return Driver(version=found, cuda=cuda[1] if cuda else "", gpus=tuple(gpus))


def _ask(program: str) -> str:
    """The list of GPUs, and the head of nvidia-smi's table, where it says versions; or what is wrong."""
    if not program:
        return ""
    said = []
    for arguments in (["-L"], []):
        try:
            done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"nvidia-smi: {error}"
        said.append(done.stdout + done.stderr)
    return "\n".join(said)


def find_torch() -> Torch:
    try:
        import torch

        from distdl.comm import backends
    except (ImportError, OSError) as error:  # OSError: a shared library that is missing or of another system
        return Torch(problem=str(error))
    return Torch(
        version=torch.__version__,
        cuda=torch.version.cuda,
        hip=torch.version.hip,
        n_devices=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        backends=backends.available(),
    )


# --- judging ---


def check_torch(torch: Torch, required: Sequence[str]) -> Check:
    """`required`: what distdl's installation says, as "torch<2.14,>=2.11"."""
    if torch.problem:
        fix = "Install it again, for this system: https://pytorch.org/get-started/locally/"
        return check.failed("torch", f"can't be imported: {torch.problem}", fix)
    bounds = next((line.removeprefix("torch") for line in required if re.match(r"torch[<>=! ]", line)), "")
    built_for = f"CUDA {torch.cuda}" if torch.cuda else f"ROCm {torch.hip}" if torch.hip else "the CPU"
    text, values = f"{torch.version}, built for {built_for}", {"version": torch.version, "cuda": torch.cuda}
    if not is_within(torch.version, bounds):
        fix = f"pip install 'torch{bounds}', from the index of the build that you need."
        return check.failed("torch", f"{text}; distdl needs {bounds}", fix, values=values)
    return check.ok("torch", text, values=values)


def is_within(version: str, bounds: str) -> bool:
    """Of `>=2.11,<2.14` and the like; what is behind the numbers of a version (+cpu, a0) does not count."""
    mine = _numbers(version)
    compare = {
        ">=": lambda a, b: a >= b,
        "<=": lambda a, b: a <= b,
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        ">": lambda a, b: a > b,
        "<": lambda a, b: a < b,
    }
    signs = re.findall(r"([<>=!]=|[<>])\s*([\d.]+)", bounds)
    return all(compare[sign](mine, _numbers(number)) for sign, number in signs)


def _numbers(version: str) -> tuple[int, int, int]:
    found = [int(number) for number in re.findall(r"\d+", re.match(r"[\d.]*", version)[0])]  # type: ignore[index]
    first, second, third = (*found, 0, 0, 0)[:3]
    return first, second, third


def check_devices(driver: Driver | None, torch: Torch, n_gpus: int) -> Check:
    """`n_gpus`: the device files that are here."""
    if driver is None:
        if torch.n_devices:
            return check.ok("devices", f"{torch.n_devices} by {torch.version}", values={"devices": torch.n_devices})
        if n_gpus:
            fix = "Is the driver installed, and loaded? lsmod | grep nvidia; in Docker: --gpus all."
            return check.failed("devices", f"{n_gpus} GPUs in /dev, but no NVIDIA driver answers", fix)
        return check.ok("devices", "no GPU: it trains on the CPU", values={"devices": 0})
    names = " + ".join(f"{driver.gpus.count(name)} x {name}" for name in dict.fromkeys(driver.gpus))
    text = f"{names or 'no GPU'}, driver {driver.version}" + (f" for CUDA up to {driver.cuda}" if driver.cuda else "")
    values = {"devices": torch.n_devices, "driver": driver.version, "driver_cuda": driver.cuda}
    if driver.problem:
        fix = "nvidia-smi says more. A driver that was updated needs a restart, or its modules loaded anew."
        return check.failed("devices", f"driver {driver.version}: {driver.problem}", fix, values=values)
    if torch.cuda is None and torch.n_devices == 0:
        fix = "For the GPUs, install the build for CUDA: https://pytorch.org/get-started/locally/"
        return check.warning(
            "devices", f"{text}; this torch is built without CUDA and uses none of it", fix, values=values
        )
    if torch.cuda and driver.cuda and int(torch.cuda.partition(".")[0]) > int(driver.cuda.partition(".")[0]):
        fix = f"Update the driver, or install a torch built for CUDA {driver.cuda.partition('.')[0]}."
        return check.failed("devices", f"{text}; this torch is built for CUDA {torch.cuda}", fix, values=values)
    if torch.n_devices < len(driver.gpus):
        what = f"{text}; this torch can use {torch.n_devices} of {len(driver.gpus)}"
        fix = "Look at CUDA_VISIBLE_DEVICES, and at python -c 'import torch; torch.zeros(1).cuda()'."
        return (check.warning if torch.n_devices else check.failed)("devices", what, fix, values=values)
    return check.ok("devices", text, values=values)


def check_backends(available: Mapping[str, bool], *, has_gpu: bool) -> Check:
    text = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in available.items())
    if not available.get("gloo"):
        return check.failed(
            "backends", text, "This torch was built without gloo; take an official one.", values=available
        )
    if has_gpu and not available.get("nccl"):
        fix = "Gradients of several GPUs will go through the CPU; take an official build of torch for CUDA."
        return check.warning("backends", text, fix, values=available)
    return check.ok("backends", text, values=available)
