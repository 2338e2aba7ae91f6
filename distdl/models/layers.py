"""What the families share: initialisation, units left out at random, and checks that speak the config's words.

The checks of the input compare shapes, which are plain numbers: they wait for no device and vanish when compiled.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from distdl.errors import UserError


def initialise_relu_convolutions(network: nn.Module) -> None:
    """Normal with variance 2 / fan-out, which keeps the gradient's scale through ReLUs: He et al. 2015, "Delving deep
    into rectifiers", equation 14. Batch norms (weight 1, bias 0) and linear layers keep torch's own start."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class Chain(nn.Sequential):
    """A Sequential that can be a block: torch compiles a class's own forward, and not that of nn.Sequential."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for layer in self:
            values = layer(values)
        return values


def drop_units(units: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """In training, zeroes each unit with that probability and scales the others by 1 / (1 - probability) (Srivastava
    et al. 2014, "Dropout"). At 0 it is no part of the graph, and draws nothing."""
    return F.dropout(units, probability) if training and probability else units


def drop_residual(residual: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Stochastic depth: the same for all of a row's residual at once (Huang et al. 2016, "Deep networks with stochastic
    depth", equation 2, but scaled in training, as is usual today, and not in evaluation). (batch, ...) to the same."""
    if not training or not probability:
        return residual
    # Compared and divided by, and not given to bernoulli_, a probability does not make each block a graph of its own.
    kept = torch.rand(len(residual), *[1] * (residual.ndim - 1), device=residual.device) >= probability
    return residual * (kept / (1 - probability)).to(residual.dtype)


def set_stochastic_depth(blocks: Sequence[nn.Module], last: float) -> None:
    """Gives each residual block the probability `drop` of its residual, which rises linearly with depth, up to `last`
    (Huang et al. 2016, equation 4)."""
    for number, block in enumerate(blocks):
        block.drop = last * (number + 1) / len(blocks)  # type: ignore[assignment]  # typed as a tensor


def check_probabilities(**probabilities: float) -> None:
    """Raises UserError unless each argument of a network is a number from 0 up to, but not including, 1."""
    for name, probability in probabilities.items():
        if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 <= probability < 1:
            raise UserError(f"{probability!r} is not a number from 0 to below 1", where=f"model.args.{name}")


def check_sizes(**sizes: int) -> None:
    """Raises UserError unless each argument of a network is a whole number of at least 1."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(f"{size!r} is not a whole number of at least 1", where=f"model.args.{name}")


def check_factors(**factors: float) -> None:
    """Raises UserError unless each argument of a network is a number above 0."""
    for name, factor in factors.items():
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise UserError(f"{factor!r} is not a number above 0", where=f"model.args.{name}")


def check_channels(images_NCHW: torch.Tensor, channels: int) -> None:
    """Raises UserError when the images have another number of channels than the network was built for."""
    if images_NCHW.shape[1] != channels:
        raise UserError(
            f"the network takes images of {channels} channel(s), these have {images_NCHW.shape[1]}",
            where="model.args.channels",
            fix=f"Set model.args.channels={images_NCHW.shape[1]}, or convert the images.",
        )


def check_inputs(values: torch.Tensor, inputs: int) -> None:
    """Raises UserError when samples (batch, values) have another number of values than the network was built for."""
    if values.shape[1] != inputs:
        raise UserError(
            f"the network takes {inputs} values per sample, these have {values.shape[1]}",
            where="model.args.inputs",
            fix=f"Set model.args.inputs={values.shape[1]}, or resize the images.",
        )


def check_smallest(images_NCHW: torch.Tensor, side: int) -> None:
    """Raises UserError when the images are smaller than `side` x `side`."""
    height, width = images_NCHW.shape[2:]
    if min(height, width) < side:
        raise UserError(
            f"the network takes images of at least {side}x{side}, these are {height}x{width}",
            where="data",
            fix=f"Add {{resize: {side}}} to the transforms of each split.",
        )
