"""What EfficientNet, MobileNetV3 and RegNet are made of: convolution with batch norm and activation, and the inverted
residual block. Submodules have torchvision's names (a convolution's batch norm is its number 1), so that published
weights load as they are.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from distdl.models.layers import drop_residual


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    activation: Callable[..., nn.Module] | None = None,
) -> nn.Sequential:
    """Convolution, batch norm, activation (none unless given). The map keeps its size, divided by the stride."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    activations = [] if activation is None else [activation(inplace=True)]
    return nn.Sequential(convolution, norm(outputs), *activations)


class InvertedResidual(nn.Module):
    """1x1 to `expanded` channels (left out where these are the inputs), a depthwise convolution, `attention` between
    the channels (or none), and 1x1 to the outputs without an activation: Sandler et al. 2018, "MobileNetV2: inverted
    residuals and linear bottlenecks", section 3.3. The input is added where it has the shape of the output."""

    drop = 0.0  # probability of leaving out the residual

    def __init__(
        self,
        inputs: int,
        expanded: int,
        outputs: int,
        kernel: int,
        stride: int,
        *,
        attention: nn.Module | None,
        activation: Callable[..., nn.Module],
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.adds_input = stride == 1 and inputs == outputs
        activated = partial(conv_norm, norm=norm, activation=activation)
        self.block = nn.Sequential(
            *([activated(inputs, expanded)] if expanded != inputs else []),
            activated(expanded, expanded, kernel, stride=stride, groups=expanded),
            *([attention] if attention is not None else []),
            conv_norm(expanded, outputs, norm=norm),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        residual: torch.Tensor = self.block(maps)
        return maps + drop_residual(residual, self.drop, self.training) if self.adds_input else residual


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple (halves up), at least one, and at most a tenth below: MobileNets' way, and in torchvision
    RegNet's."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


def zero_convolution_biases(network: nn.Module) -> None:
    """Of squeeze-excitation: the other convolutions here have none."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
