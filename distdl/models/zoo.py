"""What `distdl zoo` shows: each network's paper, size, work and published accuracy.

What can be counted is counted, by one forward pass on the meta device, where tensors have shapes and no contents; what
can't is in ENTRIES. MACs are multiply-accumulates of convolutions and matrix products for one sample, half the FLOPs
that torch counts. Every result is plain data (dataclasses, dicts of JSON's types); the `format_` functions make text.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distdl import models, registry
from distdl.errors import UserError, did_you_mean


@dataclass(frozen=True, slots=True)
class Paper:
    title: str
    year: int


@dataclass(frozen=True, slots=True)
class Reference:
    """A published top-1 accuracy, as a fraction: one network, one crop, the validation or test set of `dataset`."""

    top1: float
    dataset: str
    source: str


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """`name` is the registry's; `input_size` is (channels, height, width), with which MACs are counted."""

    name: str
    family: str
    paper: Paper
    input_size: tuple[int, int, int]
    reference: Reference | None


@dataclass(frozen=True, slots=True)
class Layer:
    """A module without children that the forward pass called; its output's shape leaves the batch out."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int


class Count(NamedTuple):
    parameters: int
    macs: int


BACK_PROPAGATION = Paper("Learning representations by back-propagating errors", 1986)
LENET = Paper("Gradient-based learning applied to document recognition", 1998)
AUTOENCODER = Paper("Reducing the dimensionality of data with neural networks", 2006)
RESNET = Paper("Deep residual learning for image recognition", 2015)

# In the registry's order. An accuracy is here only if its source was looked at.
ENTRIES = (
    ZooEntry("mlp", "MLP", BACK_PROPAGATION, (1, 28, 28), None),
    ZooEntry("lenet5", "LeNet", LENET, (1, 32, 32), Reference(0.9905, "MNIST", "the paper, section III.B")),
    ZooEntry("resnet18", "ResNet", RESNET, (3, 224, 224), Reference(0.69758, "ImageNet-1k", "torchvision, V1 weights")),
    ZooEntry("resnet34", "ResNet", RESNET, (3, 224, 224), Reference(0.73314, "ImageNet-1k", "torchvision, V1 weights")),
    ZooEntry("resnet50", "ResNet", RESNET, (3, 224, 224), Reference(0.7613, "ImageNet-1k", "torchvision, V1 weights")),
    ZooEntry(
        "resnet50_v1", "ResNet", RESNET, (3, 224, 224), Reference(0.753, "ImageNet-1k", "the authors' released weights")
    ),
    ZooEntry("resnet20_cifar", "ResNet", RESNET, (3, 32, 32), Reference(0.9125, "CIFAR-10", "the paper, table 6")),
    ZooEntry(
        "resnet110_cifar", "ResNet", RESNET, (3, 32, 32), Reference(0.9357, "CIFAR-10", "the paper, table 6, best of 5")
    ),
    ZooEntry("autoencoder", "Autoencoder", AUTOENCODER, (1, 28, 28), None),
)


def entries() -> list[ZooEntry]:
    return list(ENTRIES)


def find(name: str) -> ZooEntry:
    """The entry of that name. Raises UserError, with a suggestion, when there is none."""
    by_name = {entry.name: entry for entry in ENTRIES}
    if name not in by_name:
        raise UserError(
            f"no network '{name}' in the zoo{did_you_mean(name, by_name)}", fix=f"It has: {', '.join(by_name)}."
        )
    return by_name[name]


def count(network: str | nn.Module, input_size: Sequence[int] | None = None) -> Count:
    """Parameters, and MACs for one sample of `input_size` (channels, height, width), in evaluation mode.

    A name is built with its default arguments, and its own input size is the default. A module stays as it is: a copy
    without contents is counted. Raises UserError for an unknown name, or no input size where there is no default.
    """
    on_meta, size = _without_contents(network, input_size)
    return Count(_n_elements(on_meta.parameters()), _flops_by_module(on_meta, size)["Global"] // 2)


def layer_table(network: str | nn.Module, input_size: Sequence[int] | None = None) -> list[Layer]:
    """The leaf layers in the order of the forward pass; arguments and errors as in `count`.

    A layer that is called several times has one row: MACs of all calls, the shape of the last.
    """
    on_meta, size = _without_contents(network, input_size)
    shapes: dict[str, tuple[int, ...]] = {}

    def remember_shape(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            shapes[name] = tuple(output.shape[1:]) if isinstance(output, torch.Tensor) else ()

        return hook

    leaves = {name: module for name, module in on_meta.named_modules() if not list(module.children())}
    for name, module in leaves.items():
        module.register_forward_hook(remember_shape(name))
    flops = _flops_by_module(on_meta, size)
    return [
        Layer(
            name=name,
            kind=type(leaves[name]).__name__,
            output_shape=shape,
            parameters=_n_elements(leaves[name].parameters()),
            macs=flops.get(f"{type(on_meta).__name__}.{name}", 0) // 2,
        )
        for name, shape in shapes.items()
    ]


def summary() -> list[dict[str, Any]]:
    """A row for each network: its entry, `parameters` and `macs`. What `distdl zoo --json` prints."""
    return [asdict(entry) | count(entry.name)._asdict() for entry in ENTRIES]


def describe(name: str) -> dict[str, Any]:
    """The network's row of the summary, its `blocks` and its `layers`. What `distdl zoo NAME --json` prints."""
    entry = find(name)
    network, _ = _without_contents(name, None)
    layers = [asdict(layer) for layer in layer_table(name)]
    return asdict(entry) | count(name)._asdict() | {"blocks": models.blocks(network), "layers": layers}


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The text of `distdl zoo`, from `summary()`."""
    header = ["name", "parameters", "MACs", "input", "top-1", "on", "paper"]
    lines = [
        [
            row["name"],
            f"{row['parameters']:,}",
            _short(row["macs"]),
            _by(row["input_size"]),
            _percent(row["reference"]["top1"]) if row["reference"] else "-",
            row["reference"]["dataset"] if row["reference"] else "-",
            f"{row['paper']['title']}, {row['paper']['year']}",
        ]
        for row in rows
    ]
    return _aligned([header, *lines], right={1, 2, 4})


def format_network(row: Mapping[str, Any]) -> str:
    """The text of `distdl zoo NAME`, from `describe(NAME)`."""
    reference = row["reference"]
    head = [
        f"{row['name']}: {row['paper']['title']}, {row['paper']['year']}",
        f"{row['parameters']:,} parameters, {_short(row['macs'])} MACs for an input of {_by(row['input_size'])}",
        f"top-1 {_percent(reference['top1'])} on {reference['dataset']} ({reference['source']})" if reference else "",
        f"blocks: {' '.join(row['blocks'])}" if row["blocks"] else "",
    ]
    lines = [
        [
            layer["name"],
            layer["kind"],
            _by(layer["output_shape"]),
            f"{layer['parameters']:,}" if layer["parameters"] else "",
            _short(layer["macs"]) if layer["macs"] else "",
        ]
        for layer in row["layers"]
    ]
    table = _aligned([["layer", "kind", "output", "parameters", "MACs"], *lines], right={3, 4})
    return "\n".join([*filter(None, head), "", table])


def _without_contents(network: str | nn.Module, input_size: Sequence[int] | None) -> tuple[nn.Module, tuple[int, ...]]:
    """A network on the meta device in evaluation mode, and the size of its input."""
    if isinstance(network, str):
        with torch.device("meta"):
            on_meta = models.build(network, {})
        if input_size is None and network in registry.MODELS:
            input_size = find(network).input_size
    else:
        # deepcopy takes what the memo holds for an object's id, so that no tensor's contents are ever copied.
        memo: dict[int, Any] = {
            id(weight): nn.Parameter(torch.empty_like(weight, device="meta"), weight.requires_grad)
            for weight in network.parameters()
        }
        memo |= {id(buffer): torch.empty_like(buffer, device="meta") for buffer in network.buffers()}
        on_meta = copy.deepcopy(network, memo)
    if input_size is None:
        raise UserError("a network of one's own has no usual input size", fix="Give it: (channels, height, width).")
    return on_meta.eval(), tuple(input_size)


def _flops_by_module(on_meta: nn.Module, input_size: tuple[int, ...]) -> dict[str, int]:
    """FLOPs of a forward pass of one sample, under "Global" and under "Class.dotted.name" of each module called."""
    weight = next(on_meta.parameters(), None)
    sample = torch.empty(1, *input_size, device="meta", dtype=None if weight is None else weight.dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        on_meta(sample)
    return {module: sum(by_operation.values()) for module, by_operation in counter.get_flop_counts().items()}


def _n_elements(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _short(number: int) -> str:
    """4089184256 -> 4.089 G"""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:#.4g} {unit}"
    return str(number)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _aligned(lines: Sequence[Sequence[str]], right: set[int]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )
