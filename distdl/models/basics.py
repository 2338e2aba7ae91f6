"""Networks of one unit, or of one for each class: a weighted sum of the inputs and what is made of it.

    perceptron           step(wx + b)     task regress, loss mse (labels 0 and 1)
    linear_regression    wx + b           task regress, loss mse
    logistic_regression  wx + b, a logit  task multilabel, whose loss has the sigmoid; from two classes on, classify

All take any shape (batch, ...) with `inputs` values per sample. Two layers of them are distdl/models/mlp.py.
"""

import torch
from torch import nn

from distdl.models.layers import check_inputs, check_sizes


def perceptron(*, classes: int = 1, inputs: int = 2) -> nn.Module:
    """A perceptron: 1 where the weighted sum is at least 0, and 0 elsewhere (Rosenblatt 1958, "The perceptron"). It
    learns what a straight line can separate, and no more. Weights start at 0.

    The step is not differentiable: its derivative is 0, and at the step there is none. The backward pass takes 1 in its
    place, so that a step of gradient descent on the squared error, (step - label)^2, is Rosenblatt's learning rule

        w <- w + 2 lr (label - step) x    b <- b + 2 lr (label - step)

    which moves the weights only for a sample that is told wrongly; with lr 0.5 and one sample a step it is his own.
    """
    return OneLayer(classes, inputs, Step())


def linear_regression(*, classes: int = 1, inputs: int = 1) -> nn.Module:
    """Linear regression: a weight for each input, and a bias. Under the mean squared error (Legendre 1805, Gauss 1809)
    gradient descent goes to the least squares solution, if the learning rate is below 2 / the largest eigenvalue of
    the loss's second derivative. Weights start as torch's linear layers do. `classes`: values to be told."""
    return OneLayer(classes, inputs, nn.Identity())


def logistic_regression(*, classes: int = 1, inputs: int = 2) -> nn.Module:
    """Logistic regression: its output is the logit, log(p / (1 - p)) (Cox 1958, "The regression analysis of binary
    sequences"). Under the cross-entropy its loss is convex, which it isn't under a squared error of the sigmoid."""
    return OneLayer(classes, inputs, nn.Identity())


class OneLayer(nn.Module):
    def __init__(self, classes: int, inputs: int, output: nn.Module) -> None:
        check_sizes(classes=classes, inputs=inputs)
        super().__init__()
        self.inputs = inputs
        self.units = Units(inputs, classes, output)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Any shape (batch, ...) with `inputs` values per sample -> (batch, classes)."""
        values = images_NCHW.flatten(1)
        check_inputs(values, self.inputs)
        outputs: torch.Tensor = self.units(values)
        return outputs

    def blocks(self) -> list[str]:
        return ["units"]


class Units(nn.Module):
    def __init__(self, inputs: int, outputs: int, output: nn.Module) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.output = output
        if isinstance(output, Step):
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.output(self.linear(values))
        return outputs


class Step(nn.Module):
    """1 where the sum is at least 0, else 0. The gradient passes as if it were the identity (see `perceptron`)."""

    def forward(self, sums: torch.Tensor) -> torch.Tensor:
        return (sums >= 0).to(sums.dtype) + (sums - sums.detach())  # the bracket is 0, and has the derivative 1
