"""Where a padded batch holds something: masks from lengths."""

import torch
from torch import Tensor


def mask_BT(lengths_B: Tensor, n: int) -> Tensor:
    """Bool (B, n): True where a row's own values are, False in its padding."""
    return torch.arange(n, device=lengths_B.device) < lengths_B[:, None]


def zero_padding(values: Tensor, lengths_B: Tensor) -> Tensor:
    """A copy of `values` (B, T) or (B, T, F), with zeros from each row's length on."""
    return zero_padding_(values.clone(), lengths_B)


def zero_padding_(values: Tensor, lengths_B: Tensor) -> Tensor:
    """In place."""
    mask = mask_BT(lengths_B.to(values.device), values.shape[1])
    return values.masked_fill_(~(mask if values.ndim == 2 else mask[..., None]), 0.0)
