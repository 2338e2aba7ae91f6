"""Rows of unlike lengths in one tensor: which places are a row's own."""

import torch
from torch import Tensor


def own_places(lengths_B: Tensor, size: int) -> Tensor:
    """bool (rows, size): True before each row's length."""
    return torch.arange(size, device=lengths_B.device) < lengths_B[:, None]


def zeroed(features_BTF: Tensor, lengths_B: Tensor) -> Tensor:
    """The same features with 0 behind each row's length."""
    return features_BTF * own_places(lengths_B, features_BTF.shape[1])[:, :, None]
