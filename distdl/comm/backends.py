"""Which libraries gradients can be sent by on this machine."""

import importlib.util
import shutil

import torch.distributed as dist


def available() -> dict[str, bool]:
    """gloo and nccl as torch was built; MPI, for which torch need not be, by mpi4py and a launcher."""
    has_mpi = bool(importlib.util.find_spec("mpi4py") and (shutil.which("mpirun") or shutil.which("mpiexec")))
    if not dist.is_available():
        return {"gloo": False, "nccl": False, "mpi": False}
    return {"gloo": dist.is_gloo_available(), "nccl": dist.is_nccl_available(), "mpi": has_mpi}
