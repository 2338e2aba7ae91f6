"""Frames of sounds that are shorter than the longest of their batch: masks, and batch norm that leaves padding out.

Shapes: B rows, T frames, C channels. A row's frames from its length on are padding, and hold zeros.
"""

import torch
from torch import nn

from distdl.errors import UserError


def check_features(features_BTF: torch.Tensor, features: int) -> None:
    """Raises UserError when a frame has another number of features than the network was built for."""
    if features_BTF.shape[2] != features:
        raise UserError(
            f"the network takes frames of {features} features, these have {features_BTF.shape[2]}",
            where="model.args.features",
            fix=f"Set model.args.features={features_BTF.shape[2]}, or change the transforms.",
        )


def valid_frames(lengths_B: torch.Tensor, n_frames: int) -> torch.Tensor:
    """Lengths (B,) in frames -> mask (B, n_frames), true in front of each row's length."""
    return torch.arange(n_frames, device=lengths_B.device) < lengths_B[:, None]


def zero_padding(values_BTC: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """(B, T, ...) -> the same, with zeros from each row's length on, whatever was there, be it NaN."""
    mask_BT = valid_frames(lengths_B, values_BTC.shape[1])
    return values_BTC.masked_fill(~mask_BT.view(*mask_BT.shape, *[1] * (values_BTC.dim() - 2)), 0)


def zero_map_padding(maps_BCTF: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """The same for maps (B, channels, T, frequencies)."""
    return maps_BCTF.masked_fill(~valid_frames(lengths_B, maps_BCTF.shape[2])[:, None, :, None], 0)


def mean_over_frames(values_BTC: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """(B, T, C) -> (B, C), the mean of each row's own frames; zeros for a row that has none."""
    return zero_padding(values_BTC, lengths_B).sum(1) / lengths_B.clamp(min=1)[:, None].to(values_BTC.dtype)


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch norm with the mean and variance of all rows' own frames together: sequence-wise (Laurent et al. 2015,
    "Batch normalized recurrent neural networks", section 3; Amodei et al. 2015, "Deep Speech 2", section 3.2).

    Arguments, weights, buffers and what evaluation does are nn.BatchNorm1d's. A batch without a single frame leaves
    the running statistics alone. There is no copy to the host, so that a GPU need not be waited for.
    """

    def forward(self, values_BTC: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """(B, T, C) and lengths (B,) -> (B, T, C) normalised, zeros from each row's length on."""
        mask_BT1 = valid_frames(lengths_B, values_BTC.shape[1])[..., None]
        # Statistics of bf16 values would be sums of few digits: at least fp32.
        values = values_BTC.float() if values_BTC.dtype in (torch.bfloat16, torch.float16) else values_BTC
        if self.training or self.running_mean is None or self.running_var is None:
            n_frames = mask_BT1.sum()
            mean, variance = self._moments(values, mask_BT1, n_frames)
            if self.training:
                self._track(mean.detach(), variance.detach(), n_frames)
        else:
            mean, variance = self.running_mean, self.running_var
        normalised = (values - mean) * torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            normalised = normalised * self.weight + self.bias
        return normalised.masked_fill(~mask_BT1, 0).to(values_BTC.dtype)

    def _moments(
        self, values: torch.Tensor, mask_BT1: torch.Tensor, n_frames: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and biased variance of each channel: (C,), (C,)."""
        n_at_least_1 = n_frames.clamp(min=1)
        mean = values.masked_fill(~mask_BT1, 0).sum((0, 1)) / n_at_least_1
        return mean, (values - mean).masked_fill(~mask_BT1, 0).square().sum((0, 1)) / n_at_least_1

    def _track(self, mean: torch.Tensor, variance: torch.Tensor, n_frames: torch.Tensor) -> None:
        """Moves the running statistics as nn.BatchNorm1d does: by the unbiased variance; by 1 / batches without a
        momentum."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        any_frame = n_frames > 0
        self.num_batches_tracked.add_(any_frame.to(self.num_batches_tracked.dtype))
        step = 1 / self.num_batches_tracked.clamp(min=1) if self.momentum is None else self.momentum
        unbiased = variance * (n_frames / (n_frames - 1).clamp(min=1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            moved = running + step * (new.to(running.dtype) - running)
            running.copy_(torch.where(any_frame, moved, running))
