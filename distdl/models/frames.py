"""What networks of sounds share: rows of unlike lengths in one tensor, so that padding changes nothing.

Such a network is called with features (rows, frames, features) and lengths int64 (rows,), and returns logits (rows,
frames, classes) with lengths of their own, which its `output_lengths` gives by themselves; one that tells whole sounds
apart returns logits (rows, classes).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from distdl.errors import UserError


def check_features(features_BTF: Tensor, features: int) -> None:
    """Raises UserError when a frame has another number of features than the network was built for."""
    if features_BTF.shape[2] != features:
        raise UserError(
            f"the network takes frames of {features} features, these have {features_BTF.shape[2]}",
            where="model.args.features",
            fix=f"Set model.args.features={features_BTF.shape[2]}, or change the transforms.",
        )


class OwnFrames:
    """Which frames are a row's own: made once in a forward, since to know how many there are the host has to wait.

    On the meta device, where nobody knows, all are.
    """

    def __init__(self, lengths_B: Tensor, size: int) -> None:
        self.lengths_B, self.size = lengths_B, size
        self.mask_BT = torch.arange(size, device=lengths_B.device) < lengths_B[:, None]
        flat = self.mask_BT.flatten()
        self.places_N = torch.arange(len(flat), device="meta") if flat.is_meta else flat.nonzero().flatten()
        self._lengths_on_host: Tensor | None = None

    @property
    def lengths_on_host(self) -> Tensor:
        """At least 1, as packed sequences need it."""
        if self._lengths_on_host is None:
            self._lengths_on_host = self.lengths_B.clamp(min=1).cpu()
        return self._lengths_on_host

    def zeroed(self, values_BTX: Tensor) -> Tensor:
        """The same values (rows, frames, ...) with 0 behind each row's own, whatever was there, be it NaN."""
        return values_BTX.masked_fill(~self.mask_BT.view(*self.mask_BT.shape, *[1] * (values_BTX.dim() - 2)), 0)

    def mean(self, values_BTC: Tensor) -> Tensor:
        """(rows, frames, channels) -> (rows, channels); 0 for a row without a frame."""
        return self.zeroed(values_BTC).sum(1) / self.lengths_B.clamp(min=1)[:, None].to(values_BTC.dtype)


class FrameNorm(nn.Module):
    """Batch normalisation over the rows' own frames: "sequence-wise" (Laurent et al. 2015; Amodei et al. 2015, section
    3.2). Within it is a batch norm of torch's own, so that it can be synchronised, frozen or estimated anew as others.
    """

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=affine)

    def forward(self, values_BTX: Tensor, own: OwnFrames) -> Tensor:
        """(rows, frames, channels) or (rows, frames, channels, height) -> the same shape, 0 behind each row's own.

        A batch of a single value a channel has no variance: it is normalised as in evaluation.
        """
        flat_NX = values_BTX.flatten(0, 1)
        own_NX = flat_NX.index_select(0, own.places_N)
        n_values = len(own_NX) * math.prod(own_NX.shape[2:])
        if (
            n_values < 2 and self.training and type(self.norm) is nn.BatchNorm1d
        ):  # not where workers wait for each other
            norm = self.norm
            args = (norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
            normal_NX = functional.batch_norm(own_NX, *args)
        else:
            normal_NX = self.norm(own_NX)
        return torch.zeros_like(flat_NX).to(normal_NX.dtype).index_copy(0, own.places_N, normal_NX).view_as(values_BTX)


def clipped_relu(values: Tensor) -> Tensor:
    """min(max(x, 0), 20) (Hannun et al. 2014, section 2)."""
    return values.clamp(0.0, 20.0)


class Recurrence(nn.Module):
    """A layer of torch's RNN (ReLU), GRU or LSTM, of which both directions are added up, if it has two.

    Raises UserError for another cell.
    """

    def __init__(self, inputs: int, width: int, cell: str, *, both_ways: bool = True) -> None:
        super().__init__()
        kinds = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
        if cell not in kinds:
            raise UserError(f"{cell!r} is no recurrence", where="model.args.cell", fix=f"One of {', '.join(kinds)}.")
        relu = {"nonlinearity": "relu"} if cell == "rnn" else {}
        self.cell = kinds[cell](inputs, width, batch_first=True, bidirectional=both_ways, **relu)
        if cell == "rnn":  # so that a signal neither dies nor grows over hundreds of frames (Le et al. 2015)
            for name, weight in self.cell.named_parameters():
                if name.startswith("weight_hh"):
                    nn.init.orthogonal_(weight)

    def forward(self, values_BTX: Tensor, own: OwnFrames) -> Tensor:
        """(rows, frames, inputs) -> (rows, frames, width), 0 behind each row's own."""
        if values_BTX.is_meta:
            out_BTX = self.cell(values_BTX)[0]
        else:
            packed = pack_padded_sequence(values_BTX, own.lengths_on_host, batch_first=True, enforce_sorted=False)
            out_BTX, _ = pad_packed_sequence(self.cell(packed)[0], batch_first=True, total_length=own.size)
        if self.cell.bidirectional:
            out_BTX = out_BTX[..., : self.cell.hidden_size] + out_BTX[..., self.cell.hidden_size :]
        return own.zeroed(out_BTX)


def halved(lengths_B: Tensor, stride: int = 2) -> Tensor:
    """Frames that a convolution with that stride and as much padding as keeps the size gives."""
    return (lengths_B - 1).div(stride, rounding_mode="floor") + 1
