"""Where a padded batch holds something: masks from lengths."""

import torch
from torch import Tensor


def mask_BT(lengths_B: Tensor, n: int) -> Tensor:
    """Bool (B, n): True where a row's own values are, False in its padding."""
    return torch.arange(n, device=lengths_B.device) < lengths_B[:, None]


def zero_padding(values: Tensor, lengths_B: Tensor) -> Tensor:
    """`values` (B, T) or (B, T, F), with zeros from each row's length on."""
    mask = mask_BT(lengths_B.to(values.device), values.shape[1])
    return values.masked_fill(~(mask if values.ndim == 2 else mask[..., None]), 0.0)
