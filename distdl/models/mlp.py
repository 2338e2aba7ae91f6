"""A multi-layer perceptron with one hidden layer: the simplest network of the zoo, 79,510 parameters on MNIST."""

import torch
from torch import nn

from distdl.errors import UserError, did_you_mean
from distdl.models.layers import check_probabilities, check_sizes, drop_units

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def mlp(
    *, classes: int = 10, hidden: int = 100, inputs: int = 784, activation: str = "relu", dropout: float = 0.0
) -> nn.Module:
    """inputs -> hidden -> classes, fully connected (Rumelhart, Hinton and Williams 1986, where the activation is the
    sigmoid). Weights start as torch's linear layers do: uniform within 1 / sqrt(fan-in). `dropout`: of hidden units."""
    check_sizes(classes=classes, hidden=hidden, inputs=inputs)
    check_probabilities(dropout=dropout)
    if activation not in ACTIVATIONS:
        raise UserError(
            f"unknown activation '{activation}'{did_you_mean(str(activation), ACTIVATIONS)}",
            where="model.args.activation",
            fix=f"It is one of: {', '.join(ACTIVATIONS)}.",
        )
    return MLP(classes, hidden, inputs, ACTIVATIONS[activation](), dropout)


class MLP(nn.Module):
    def __init__(self, classes: int, hidden: int, inputs: int, activation: nn.Module, dropout: float) -> None:
        super().__init__()
        self.inputs = inputs
        self.hidden = Hidden(inputs, hidden, activation, dropout)
        self.output = nn.Linear(hidden, classes)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Any shape (batch, ...) with `inputs` values per sample -> logits (batch, classes)."""
        values = images_NCHW.flatten(1)
        if values.shape[1] != self.inputs:
            raise UserError(
                f"the network takes {self.inputs} values per sample, these have {values.shape[1]}",
                where="model.args.inputs",
                fix=f"Set model.args.inputs={values.shape[1]}, or resize the images.",
            )
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
