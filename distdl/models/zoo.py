"""What `distdl zoo` shows: each network's paper, size, work and published accuracy.

What can be counted is counted, by one forward pass on the meta device, where tensors have shapes and no contents; the
rest is in distdl/catalogue.py. MACs are multiply-accumulates of convolutions and matrix products for one sample, half
the FLOPs that torch counts. Every result is plain data (dataclasses, dicts of JSON's types); the `format_` functions
make text.
"""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distdl import models
from distdl.catalogue import COUNTS_FILE, ENTRIES, ZooEntry, counts
from distdl.errors import UserError, did_you_mean


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


def find(name: str) -> ZooEntry:
    """The entry of that name. Raises UserError, with a suggestion, when there is none."""
    if name not in ENTRIES:
        raise UserError(
            f"no network '{name}' in the zoo{did_you_mean(name.lower(), ENTRIES)}", fix="`distdl zoo` lists them."
        )
    return ENTRIES[name]


def count(network: str | nn.Module, input_size: Sequence[int] | None = None) -> Count:
    """Parameters, and MACs for one sample of `input_size` (channels, height, width; or frames, features), in
    evaluation mode.

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
            output = output[0] if isinstance(output, tuple) and output else output
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


def summary(pattern: str = "*", family: str | None = None) -> list[dict[str, Any]]:
    """A row for each network: its entry, `parameters` and `macs`. What `distdl zoo --json` prints.

    `pattern`: of names, as a shell's (resnet*). Raises UserError where nothing fits.
    """
    families = {entry.family.lower(): entry.family for entry in ENTRIES.values()}
    if family is not None and family.lower() not in families:
        raise UserError(
            f"no family '{family}' in the zoo{did_you_mean(family.lower(), families)}",
            fix=f"It has: {', '.join(families.values())}.",
        )
    wanted = list(families.values()) if family is None else [families[family.lower()]]
    fitting = [entry for entry in ENTRIES.values() if fnmatchcase(entry.name, pattern) and entry.family in wanted]
    if not fitting:
        raise UserError(f"no network of the zoo is called '{pattern}'", fix="`distdl zoo` lists them.")
    return [asdict(entry) | Count(*counts()[entry.name])._asdict() for entry in fitting]


def describe(name: str) -> dict[str, Any]:
    """The network's row of the summary, its `blocks` and its `layers`. What `distdl zoo NAME --json` prints."""
    entry = find(name)
    network, _ = _without_contents(name, None)
    layers = [asdict(layer) for layer in layer_table(name)]
    return asdict(entry) | count(name)._asdict() | {"blocks": models.blocks(network), "layers": layers}


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The text of `distdl zoo`, from `summary()`."""
    header = ["name", "family", "parameters", "MACs", "input", "top-1", "top-5", "on", "here", "paper"]
    lines = [
        [
            row["name"],
            row["family"],
            f"{row['parameters']:,}",
            _short(row["macs"]),
            _by(row["input_size"]),
            *_accuracy(row["reference"]),
            f"{_percent(row['measured']['top1'])} {row['measured']['dataset']}" if row["measured"] else "-",
            f"{row['paper']['title']}, {row['paper']['year']}",
        ]
        for row in rows
    ]
    return _aligned([header, *lines], right={2, 3, 5, 6})


def _accuracy(found: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """top-1, top-5, dataset."""
    if found is None:
        return "-", "-", "-"
    return _percent(found["top1"]), "-" if found["top5"] is None else _percent(found["top5"]), found["dataset"]


def format_network(row: Mapping[str, Any]) -> str:
    """The text of `distdl zoo NAME`, from `describe(NAME)`."""
    reference, measured = row["reference"], row["measured"]
    top5 = f", top-5 {_percent(reference['top5'])}" if reference and reference["top5"] is not None else ""
    head = [
        f"{row['name']}: {row['paper']['title']}, {row['paper']['year']}",
        f"{row['parameters']:,} parameters, {_short(row['macs'])} MACs for an input of {_by(row['input_size'])}",
        f"top-1 {_percent(reference['top1'])}{top5} on {reference['dataset']} ({reference['source']})"
        if reference
        else "",
        f"here: top-1 {_percent(measured['top1'])} on {measured['dataset']} ({measured['source']})" if measured else "",
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
        if input_size is None and network in ENTRIES:
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
        raise UserError(
            "a network of one's own has no usual input size",
            fix="Give it: (channels, height, width), or (frames, features).",
        )
    return on_meta.eval(), tuple(input_size)


def _flops_by_module(on_meta: nn.Module, input_size: tuple[int, ...]) -> dict[str, int]:
    """FLOPs of a forward pass of one sample, under "Global" and under "Class.dotted.name" of each module called."""
    weight = next(on_meta.parameters(), None)
    sample = torch.empty(1, *input_size, device="meta", dtype=None if weight is None else weight.dtype)
    inputs = [sample]
    if len(input_size) == 2:  # of a sound: all frames are its own
        inputs.append(torch.empty(1, dtype=torch.int64, device="meta"))
    recurrent: dict[str, int] = {}
    for name, module in on_meta.named_modules():
        if isinstance(module, nn.RNNBase):
            module.forward = partial(_all_steps_at_once, module, name, recurrent)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        on_meta(*inputs)
    flops = {str(module): sum(found.values()) for module, found in counter.get_flop_counts().items()}
    flops.setdefault("Global", 0)
    for name, more in recurrent.items():
        inside = [".".join([type(on_meta).__name__, *name.split(".")[:depth]]) for depth in range(name.count(".") + 2)]
        for module_name in ("Global", *inside):
            flops[module_name] = flops.get(module_name, 0) + more
    return flops


def _all_steps_at_once(
    cell: nn.RNNBase, name: str, flops: dict[str, int], values: torch.Tensor, state: object = None
) -> tuple[torch.Tensor, object]:
    """In place of a recurrence's forward, step by step, over thousands of them: each multiplies by all weights once."""
    n_weights = _n_elements(weight for key, weight in cell.named_parameters() if key.startswith("weight"))
    flops[name] = flops.get(name, 0) + 2 * n_weights * (values.numel() // values.shape[-1])
    width = (cell.proj_size or cell.hidden_size) * (2 if cell.bidirectional else 1)
    return values.new_empty(*values.shape[:-1], width), state


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


if __name__ == "__main__":
    counted = {name: list(count(name)) for name in ENTRIES}
    COUNTS_FILE.write_text(
        "{\n" + ",\n".join(f'"{name}": {json.dumps(two)}' for name, two in counted.items()) + "\n}\n"
    )
