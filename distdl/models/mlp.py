"""A multi-layer perceptron with one hidden layer: the simplest network of the zoo, 79,510 parameters on MNIST."""

import torch
from torch import nn

from distdl.models.activations import channels_after, make_activation
from distdl.models.layers import check_inputs, check_probabilities, check_sizes, drop_units


def mlp(
    *, classes: int = 10, hidden: int = 100, inputs: int = 784, activation: str = "relu", dropout: float = 0.0
) -> nn.Module:
    """inputs -> hidden -> classes, fully connected (Rumelhart, Hinton and Williams 1986, where the activation is the
    sigmoid). Weights start as torch's linear layers do: uniform within 1 / sqrt(fan-in). `dropout`: of hidden units.

    `hidden` counts the linear units in front of the activation, of which crelu makes twice and maxout half as many."""
    check_sizes(classes=classes, hidden=hidden, inputs=inputs)
    check_probabilities(dropout=dropout)
    layer = Hidden(inputs, hidden, make_activation(activation), dropout)
    return MLP(inputs, layer, nn.Linear(channels_after(activation, hidden), classes))


class MLP(nn.Module):
    def __init__(self, inputs: int, hidden: "Hidden", output: nn.Linear) -> None:
        super().__init__()
        self.inputs = inputs
        self.hidden = hidden
        self.output = output

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Any shape (batch, ...) with `inputs` values per sample -> logits (batch, classes)."""
        values = images_NCHW.flatten(1)
        check_inputs(values, self.inputs)
        logits: torch.Tensor = self.output(self.hidden(values))
        return logits

    def blocks(self) -> list[str]:
        """The hidden layer. The output layer is left to the root."""
        return ["hidden"]


class Hidden(nn.Module):
    def __init__(self, inputs: int, outputs: int, activation: nn.Module, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.activation = activation
        self.dropout = dropout

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return drop_units(self.activation(self.linear(values)), self.dropout, self.training)
