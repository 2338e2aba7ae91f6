"""MFU against its definition, and what is known of devices."""

from pathlib import Path

import pytest
import torch
from torch import nn

from distdl import models
from distdl.trainer import throughput
from distdl.trainer.throughput import Throughput, flops_per_sample, known_peak, measured_peak, peak_memory_bytes

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch):
    """Call it with the name of a GPU that this machine then has."""
    return lambda name: monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)


def test_flops_of_a_step_are_three_forward_passes_of_two_operations_per_multiply_accumulate():
    one_layer = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))

    assert flops_per_sample(one_layer, (2, 2, 3)) == 3 * 2 * 12 * 5


def test_flops_of_resnet50_are_three_times_the_published_ones():
    # He et al. 2015, table 1: 3.8e9 multiply-adds; with the stride in the 3x3 convolution (ours) 4.1e9.
    assert flops_per_sample(models.build("resnet50", {}), (224, 224, 3)) == pytest.approx(6 * 4.09e9, rel=0.01)


def test_mfu_is_the_share_of_all_devices_peaks():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))  # 360 FLOPs a sample

    row = Throughput(network, (2, 2, 3), CPU, "fp32", world_size=4, peak_flops_per_s=9e6).row(samples_per_s=1e4)

    assert row["mfu"] == pytest.approx(360 * 1e4 / (4 * 9e6))


def test_a_network_that_cant_be_counted_has_no_mfu_and_trains_all_the_same():
    class LooksAtValues(nn.Module):
        def forward(self, image):
            return image if image.sum().item() > 0 else -image

    row = Throughput(LooksAtValues(), (2, 2, 3), CPU, "fp32", 1, peak_flops_per_s=1e9).row(100.0)

    assert row.keys() == {"peak_memory_bytes"}


def test_images_that_grow_leave_no_mfu():
    row = Throughput(nn.Linear(1, 1), None, CPU, "fp32", 1, peak_flops_per_s=1e9).row(100.0)

    assert row.keys() == {"peak_memory_bytes"}


def test_a_cpus_row_has_no_mfu_and_its_network_is_not_counted(monkeypatch):
    monkeypatch.setattr(throughput.zoo, "count", lambda *_: pytest.fail("was counted"))

    assert Throughput(nn.Linear(1, 1), (2, 2, 3), CPU, "fp32", 1).row(100.0).keys() == {"peak_memory_bytes"}


@pytest.mark.parametrize(
    ("name", "precision", "tflops_per_s"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H200", "fp16", 989.4),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100 80GB PCIe", "fp32", 156),  # TF32, which torch allows in convolutions by default
        ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("Tesla V100-SXM2-16GB", "fp32", 15.7),
        ("Tesla T4", "fp16", 65),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
    ],
)
def test_peaks_of_known_devices(gpu, name, precision, tflops_per_s):
    gpu(name)

    assert known_peak(CUDA, precision) == pytest.approx(1e12 * tflops_per_s)


def test_without_tf32_the_peak_is_that_of_the_cuda_cores(gpu):
    gpu("NVIDIA A100-SXM4-80GB")
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        torch.backends.cudnn.conv.fp32_precision = "ieee"

        assert known_peak(CUDA, "fp32") == pytest.approx(19.5e12)
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("NVIDIA GeForce GTX 1080", "fp32"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16"),
        ("NVIDIA GH200 480GB", "bf16"),
        ("NVIDIA A10G", "bf16"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16"),
        ("Tesla T4", "bf16"),  # has no units for it
    ],
)
def test_a_device_or_precision_that_is_not_known_has_no_peak(gpu, name, precision):
    gpu(name)

    assert known_peak(CUDA, precision) is None


def test_the_measured_peak_of_a_cpu_is_a_sensible_number():
    assert 1e8 < measured_peak(CPU, "fp32", seconds=0.02) < 1e14  # FLOP/s


def test_peak_memory_of_a_cpu_process_is_its_largest_resident_size():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    high_water_mark_kib = int(line.split()[1])

    assert peak_memory_bytes(CPU) >= 0.99 * 1024 * high_water_mark_kib
