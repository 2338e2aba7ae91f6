"""What the families share: the initialisation of convolutional networks, and checks that speak the config's words.

The checks of the input compare shapes, which are plain numbers: they wait for no device and vanish when compiled.
"""

import torch
from torch import nn

from distdl.errors import UserError


def initialise_relu_convolutions(network: nn.Module) -> None:
    """Normal with variance 2 / fan-out, which keeps the gradient's scale through ReLUs: He et al. 2015, "Delving deep
    into rectifiers", equation 14. Batch norms (weight 1, bias 0) and linear layers keep torch's own start."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def check_sizes(**sizes: int) -> None:
    """Raises UserError unless each argument of a network is a whole number of at least 1."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(f"{size!r} is not a whole number of at least 1", where=f"model.args.{name}")


def check_channels(images_NCHW: torch.Tensor, channels: int) -> None:
    """Raises UserError when the images have another number of channels than the network was built for."""
    if images_NCHW.shape[1] != channels:
        raise UserError(
            f"the network takes images of {channels} channel(s), these have {images_NCHW.shape[1]}",
            where="model.args.channels",
            fix=f"Set model.args.channels={images_NCHW.shape[1]}, or convert the images.",
        )
