"""How well the hardware is used: model FLOPs utilisation (MFU) and the most memory that was held.

    MFU = samples/s x FLOPs per sample / (devices x peak FLOP/s of a device at the precision in use)

(Chowdhery et al. 2022, PaLM, appendix B). FLOPs per sample are those of the network's convolutions and matrix products:
2 per multiply-accumulate, and three times the forward pass, because the backward pass makes as much work twice, for the
gradients of the inputs and of the weights. What is computed besides is not counted: recomputed activations, a teacher,
adversarial examples. Without a known device or a countable network there is no MFU; nothing here stops training.
"""

import re
import resource
import sys
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import nn

from distdl.models import zoo

Precision = Literal["fp32", "bf16", "fp16"]


class _Peak(NamedTuple):
    """Dense TFLOP/s, fp32 accumulation; None where the precision has no tensor core."""

    fp32: float
    tf32: float | None
    bf16: float | None
    fp16: float


# By torch.cuda.get_device_name() without the maker. The whole name: a MIG slice or a laptop's GPU is another device.
# NVIDIA's data sheets; those that print the figure for 2:4 sparsity are halved.
_PEAKS = {
    r"B200": _Peak(80, 1100, 2250, 2250),  # Blackwell architecture brief: HGX B200
    r"H200|H100 80GB HBM3": _Peak(67, 494.7, 989.4, 989.4),  # SXM: H100 data sheet, H200 data sheet
    r"H200 NVL|H100 NVL": _Peak(60, 417.5, 835.5, 835.5),  # H200 data sheet, H100 NVL product brief
    r"H100 PCIe": _Peak(51.2, 378, 756, 756),  # Hopper architecture white paper
    r"A100-(SXM4|PCIE)-\d+GB|A100 80GB PCIe": _Peak(19.5, 156, 312, 312),  # A100 data sheet
    r"A10": _Peak(31.2, 62.5, 125, 125),  # A10 data sheet
    r"L40S": _Peak(91.6, 183, 362, 362),  # L40S data sheet
    r"L4": _Peak(30.3, 60, 121, 121),  # L4 data sheet
    r"V100-SXM\d-\d+GB": _Peak(15.7, None, None, 125),  # V100 data sheet
    r"V100-PCIE-\d+GB": _Peak(14, None, None, 112),  # the same
    r"T4": _Peak(8.1, None, None, 65),  # T4 data sheet
    r"GeForce RTX 3090": _Peak(35.6, 35.6, 71, 71),  # GA102 architecture white paper
    r"GeForce RTX 4090": _Peak(82.6, 82.6, 165.2, 165.2),  # Ada architecture white paper
}


class Throughput:
    """The hardware's part of a training row. `peak_flops_per_s`: of one device, where it is known better than here.

    A network is counted only if its device's peak is known: a start on CPUs does not wait for it. `image_shape_HWC`:
    None where images differ from step to step, which leaves no MFU.
    """

    def __init__(
        self,
        model: nn.Module,
        image_shape_HWC: Sequence[int] | None,
        device: torch.device,
        precision: Precision,
        world_size: int,
        *,
        peak_flops_per_s: float | None = None,
    ) -> None:
        self._device = device
        peak = peak_flops_per_s or known_peak(device, precision)
        self.flops_per_sample = flops_per_sample(model, image_shape_HWC) if peak and image_shape_HWC else None
        # samples/s at which the devices would be used in full
        self._bound = world_size * peak / self.flops_per_sample if peak and self.flops_per_sample else None

    def row(self, samples_per_s: float) -> dict[str, float]:
        """`mfu`, a fraction, where it is known, and `peak_memory_bytes` of this worker. `samples_per_s`: of all."""
        mfu = {"mfu": samples_per_s / self._bound} if self._bound else {}
        return {**mfu, "peak_memory_bytes": peak_memory_bytes(self._device)}


def flops_per_sample(model: nn.Module, image_shape_HWC: Sequence[int]) -> int | None:
    """Of a training step, for one image; None for a network that can't be counted."""
    height, width, channels = image_shape_HWC
    try:
        return 3 * 2 * zoo.count(model, (channels, height, width)).macs or None
    except Exception:  # a network of one's own may do what tensors without contents can't
        return None


def known_peak(device: torch.device, precision: Precision) -> float | None:
    """FLOP/s of a device at a precision. fp32 is that of TF32 where torch may use it (by default: in convolutions)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).removeprefix("NVIDIA ").removeprefix("Tesla ")
    peak = next((peak for pattern, peak in _PEAKS.items() if re.fullmatch(pattern, name)), None)
    if peak is None:
        return None
    allowed = (torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision)  # type: ignore[attr-defined]
    tflops_per_s = (peak.tf32 or peak.fp32) if precision == "fp32" and "tf32" in allowed else getattr(peak, precision)
    return 1e12 * tflops_per_s if tflops_per_s else None


def measured_peak(device: torch.device, precision: Precision, seconds: float = 0.2) -> float:
    """FLOP/s of the best matrix product within a time, on as many threads as there are: for a device of no known peak.

    What a product of 1024 x 1024 reaches is below what the hardware could do, on CPUs by little.
    """
    side, best = 1024, 0.0
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    matrix = torch.randn(side, side, device=device).to(dtype)
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until or not best:
        _ = matrix @ matrix
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process held: of its tensors on a CUDA device, else of its resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
