"""Every network of the zoo at its own input size: what training asks of it, and exporting, compiling and saving."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters

from distdl import models, registry
from distdl.catalogue import ENTRIES, counts
from distdl.trainer import setup

CLASSIFIERS = [name for name, entry in ENTRIES.items() if name != "autoencoder" and not entry.is_acoustic]
N_CLASSES = 7
# The smallest; the others have their turn in the long grids. Every other one of them is compiled, and the rest are
# exported: to trace a network takes longer than all else, and what can't be traced stumbles in both.
ONE_OF_EACH_FILE = list(
    {ENTRIES[name].file: name for name in sorted(CLASSIFIERS, key=lambda n: -counts()[n][0])}.values()
)
COMPILED, EXPORTED = ONE_OF_EACH_FILE[::2], ONE_OF_EACH_FILE[1::2]


def images(name: str) -> torch.Tensor:
    return torch.randn(2, *ENTRIES[name].input_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ONE_OF_EACH_FILE)
def test_a_step_gives_finite_logits_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    network = models.build(name, {"classes": N_CLASSES}).train()

    logits = network(images(name))
    F.cross_entropy(logits, torch.tensor([3, 5])).backward()

    assert logits.shape == (2, N_CLASSES) and logits.isfinite().all()
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in learning)


@pytest.mark.parametrize("name", EXPORTED)
def test_it_is_exported_whole_and_its_weights_fill_another_one(name: str) -> None:
    network = models.build(name, {"classes": N_CLASSES}).eval()
    with torch.device("meta"):
        other = models.build(name, {"classes": N_CLASSES}).eval()

    program = torch.export.export(other, (images(name).to("meta"),))  # one graph without a break, as compiling asks
    other.load_state_dict(network.state_dict(), strict=True, assign=True)

    assert program.graph_module is not None
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values()))


def keep_statistics(network: nn.Module, batch: torch.Tensor) -> None:
    """Of this batch, in batch norms: with those of a fresh network values double from block to block in evaluation."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(batch)
    network.eval()


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_it_says_the_same_in_the_memory_order_of_training(name: str) -> None:
    """Without the code generator, whose work is the same for all: what is tried is that the blocks can be traced.
    That memory order changes nothing is tried in fp64: tests/unit/test_models.py, and below."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = models.build(name, {"classes": N_CLASSES}).to(memory_format=torch.channels_last)
    batch = images(name).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        keep_statistics(network, batch)
        expected = network(batch)
    counters.clear()

    setup.compile_blocks(network, "eager")
    with torch.inference_mode():
        logits = network(batch)

    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# --- of sounds ---

ACOUSTIC = [name for name, entry in ENTRIES.items() if entry.is_acoustic]
SMALL = {"width": 24, "layers": 2, "channels": 4}  # of the arguments that a network has


def acoustic(name: str) -> nn.Module:
    known = inspect.signature(registry.resolve(name, registry.MODELS, "model")).parameters
    return models.build(name, {key: size for key, size in SMALL.items() if key in known}).eval()


def sounds(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 50, ENTRIES[name].input_size[1], generator=generator), torch.tensor([50, 31])


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # of torch's recurrences, by export
@pytest.mark.parametrize("name", ACOUSTIC)
def test_one_of_sounds_is_exported_whole_and_says_the_same_compiled(name: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    network, features_lengths = acoustic(name), sounds(name)
    with torch.device("meta"):
        other = acoustic(name)
    with torch.inference_mode():
        expected = network(*features_lengths)

    program = torch.export.export(other, tuple(each.to("meta") for each in features_lengths))
    other.load_state_dict(network.state_dict(), strict=True, assign=True)
    setup.compile_blocks(network, "eager")
    with torch.inference_mode():
        compiled = network(*features_lengths)
        loaded = other(*features_lengths)

    assert program.graph_module is not None
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(loaded, expected)


@pytest.mark.matrix
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_memory_order_does_not_change_what_it_says(name: str) -> None:
    """In fp64: in fp32 a hundred batch norms over few values make much of rounding."""
    torch.manual_seed(0)
    network, batch = models.build(name, {"classes": N_CLASSES}).double(), images(name).double()
    with torch.inference_mode():
        keep_statistics(network, batch)
        expected = network(batch)
        logits = network.to(memory_format=torch.channels_last)(batch.contiguous(memory_format=torch.channels_last))

    torch.testing.assert_close(logits, expected)


@pytest.mark.matrix
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_so_it_is_for_all_others(name: str) -> None:
    if name not in ONE_OF_EACH_FILE:
        test_a_step_gives_finite_logits_and_gradients(name)
    if name not in EXPORTED:
        test_it_is_exported_whole_and_its_weights_fill_another_one(name)
    if name not in COMPILED:
        test_compiled_it_says_the_same_in_the_memory_order_of_training(name)
