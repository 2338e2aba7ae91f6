"""A network of sounds for the tests."""

import torch
from torch import Tensor, nn


class _Hungry(nn.Module):
    is_acoustic = True

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(24, 5)

    def output_lengths(self, lengths_B: Tensor) -> Tensor:
        return lengths_B

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        if features_BTF.shape[1] > 110:
            torch.empty(1 << 58)  # more than any machine has
        return self.classifier(features_BTF), lengths_B


def hungry_for_long_sounds() -> nn.Module:
    return _Hungry()
