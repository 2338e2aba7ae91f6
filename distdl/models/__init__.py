"""The zoo: one file per family of networks, and `build`, which makes any of them from the `model` section of a config.

A network is a function of keyword arguments that returns an nn.Module; its name in distdl.registry, or
`package.module:function` for one of your own, is what a config writes. It maps an image batch in NCHW, in either
memory order, to logits (batch, classes).

**Blocks.** Every network here has a method `blocks() -> list[str]`: the dotted names of the submodules that compiling,
parameter sharding and activation checkpointing treat as units, and that communication statistics report by. Its rules:
each is called once in a forward pass (as a module, not through its children), in the order of the list; none lies
inside another; and each is of a class written for it, because Module.compile() silently leaves torch.nn's own classes
(a Linear, a Sequential) as they are. Blocks need not cover the network: what is left over, such as a stem or a
classifier, belongs to its root. A network that has to call a submodule `blocks`, as timm's transformers do, calls the
method `block_names`. A network of your own does not need either: `blocks(network)` then says [], and the whole of it is
one unit.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from distdl import registry
from distdl.errors import UserError


def build(name: str, args: Mapping[str, Any]) -> nn.Module:
    """Makes a network with fresh weights from torch's global generator, on the current default device.

    Raises UserError for an unknown name or argument (with a suggestion), a value that the network refuses, and a
    function of the user's that returns something else than a module.
    """
    function = registry.resolve(name, registry.MODELS, "model")
    network = registry.call_with_args(function, args, f"model '{name}'", where="model.args")
    if not isinstance(network, nn.Module):
        raise UserError(
            f"model '{name}' is a {type(network).__name__}, not a torch.nn.Module",
            where="model.name",
            fix="Name a class of networks, or a function that returns one.",
        )
    return network


def blocks(network: nn.Module) -> list[str]:
    """The network's blocks, as the module's docstring defines them; [] if it does not name any."""
    for name in ("blocks", "block_names"):
        method = getattr(network, name, None)
        if inspect.ismethod(method):  # many a network has a submodule of that name
            return list(method())
    return []
