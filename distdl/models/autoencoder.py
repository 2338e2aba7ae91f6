"""A fully connected autoencoder: the input's values through a bottleneck and back; 2.8 million parameters on MNIST."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from distdl.models.layers import check_inputs, check_sizes


def autoencoder(*, inputs: int = 784, hidden: Sequence[int] = (1000, 500, 250), bottleneck: int = 30) -> nn.Module:
    """inputs -> hidden ... -> bottleneck -> hidden in reverse ... -> inputs (Hinton and Salakhutdinov 2006, figure 1),
    with ReLUs instead of pretrained sigmoid layers, and none behind the bottleneck and the output."""
    check_sizes(inputs=inputs, bottleneck=bottleneck)
    for size in hidden:
        check_sizes(hidden=size)
    return Autoencoder([inputs, *hidden, bottleneck])


class Autoencoder(nn.Module):
    """`sizes`: from the input's to the bottleneck's."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.inputs = sizes[0]
        self.encoder = Coder(sizes)
        self.decoder = Coder(sizes[::-1])

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Any shape (batch, ...) with `inputs` values per sample -> the same shape."""
        values = images_NCHW.flatten(1)
        check_inputs(values, self.inputs)
        again: torch.Tensor = self.decoder(self.encoder(values)).view(images_NCHW.shape)
        return again

    def blocks(self) -> list[str]:
        return ["encoder", "decoder"]


class Coder(nn.Module):
    """Linear layers with ReLUs between them."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            values = layer(values).relu()
        last: torch.Tensor = self.layers[-1](values)
        return last
