"""What stands between the layers with weights, by the paper it is from: activations, normalisations without weights,
and mirror padding.

A network that has an argument `activation` takes a name of ACTIVATIONS. CReLU doubles the channels and maxout halves
them: a network that offers these two asks `channels_after` what its next layer sees; the others offer
KEEPING_CHANNELS. Channels are dimension 1, of maps (batch, channels, height, width) and of units (batch, channels).
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from distdl.errors import UserError, did_you_mean

PIECES = 2  # of a maxout unit of `ACTIVATIONS`


class Absolute(nn.Module):
    """Absolute value rectification (Jarrett et al. 2009, "What is the best multi-stage architecture for object
    recognition?", section 2: R_abs)."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.abs()


class ClippedReLU(nn.Module):
    """min(max(x, 0), 20) (Hannun et al. 2014, "Deep Speech", section 2)."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.clamp(0, 20)


class CReLU(nn.Module):
    """relu(x) and relu(-x) side by side, twice the channels (Shang et al. 2016, "Understanding and improving
    convolutional neural networks via concatenated rectified linear units", definition 2.1)."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return F.relu(torch.cat([values, -values], dim=1))


class Maxout(nn.Module):
    """The largest of each `pieces` consecutive channels, which are affine functions of one input (Goodfellow et al.
    2013, "Maxout networks", section 3)."""

    def __init__(self, pieces: int = PIECES) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(1, (-1, self.pieces)).amax(dim=2)


class ScaledTanh(nn.Module):
    """1.7159 tanh(2x / 3), for which +1 and -1 lie where the second derivative is largest (LeCun et al. 1998,
    "Gradient-based learning applied to document recognition", appendix A)."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return 1.7159 * torch.tanh(values * (2 / 3))


KEEPING_CHANNELS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,  # slope 0.01 below 0: Maas et al. 2013, "Rectifier nonlinearities improve ...", eq. 2
    "prelu": nn.PReLU,  # one learnt slope a layer, from 0.25: He et al. 2015, "Delving deep into rectifiers", eq. 1
    "abs": Absolute,
    "clipped_relu": ClippedReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {**KEEPING_CHANNELS, "crelu": CReLU, "maxout": Maxout}


def make_activation(name: str, among: Mapping[str, Callable[[], nn.Module]] = ACTIVATIONS) -> nn.Module:
    """A new one of that name. Raises UserError, with a suggestion, for a name that is not `among` those on offer."""
    if name not in among:
        raise UserError(
            f"unknown activation '{name}'{did_you_mean(str(name), among)}",
            where="model.args.activation",
            fix=f"It is one of: {', '.join(among)}.",
        )
    return among[name]()


def channels_after(name: str, channels: int) -> int:
    """How many channels an activation makes of so many. Raises UserError if maxout can't share them out."""
    if name == "maxout" and channels % PIECES:
        raise UserError(
            f"maxout takes {PIECES} units at a time, and {channels} is no multiple of {PIECES}", where="model"
        )
    return {"crelu": 2 * channels, "maxout": channels // PIECES}.get(name, channels)


class LocalResponseNorm(nn.Module):
    """b_i = a_i / (k + alpha * sum of a_j^2)^beta, where j runs over the n channels around i (Krizhevsky et al. 2012,
    "ImageNet classification with deep convolutional neural networks", section 3.3, whose constants are the defaults).

    torch's function takes alpha / n, as the authors' own program did: hence it is given alpha * n.
    """

    def __init__(self, n: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75) -> None:
        super().__init__()
        self.n, self.k, self.alpha, self.beta = n, k, alpha, beta

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.local_response_norm(maps, self.n, self.alpha * self.n, self.beta, self.k)


class LocalContrastNorm(nn.Module):
    """Subtracts the mean of a pixel's surroundings over all channels, under a Gaussian window, and divides by their
    standard deviation or, where that is less, by the image's mean of it (Jarrett et al. 2009, section 2: N)."""

    window: torch.Tensor

    def __init__(self, size: int = 9) -> None:
        super().__init__()
        distance = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        bell = torch.exp(-(distance**2) / (2 * (size / 4) ** 2))
        # Made anew with the network, so no part of its weights.
        self.register_buffer("window", (torch.outer(bell, bell) / bell.sum() ** 2)[None, None], persistent=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        centred = maps - self._around(maps)
        deviation = (self._around(centred.square()) + 1e-8).sqrt()  # a root of 0 has no gradient
        return centred / torch.maximum(deviation, deviation.mean(dim=(2, 3), keepdim=True))

    def _around(self, maps: torch.Tensor) -> torch.Tensor:
        """The window's mean around each pixel, over all channels: (batch, 1, height, width)."""
        mean = maps.mean(dim=1, keepdim=True)
        return F.conv2d(mirror_pad(mean, self.window.shape[-1] // 2), self.window)


def mirror_pad(maps: torch.Tensor, margin: int) -> torch.Tensor:
    """Continues maps on each side with `margin` pixels mirrored at the border, the outermost repeated:
    2 1 | 1 2 3 | 3 2, numpy's "symmetric". torch's "reflect" leaves the outermost out: 3 2 | 1 2 3 | 2 1.

    Raises UserError when the maps are smaller than the margin.
    """
    if not margin:
        return maps
    if min(maps.shape[-2:]) < margin:
        raise UserError(f"maps of {maps.shape[-2]}x{maps.shape[-1]} have no {margin} pixels to mirror", where="data")
    maps = torch.cat([maps[..., :margin, :].flip(-2), maps, maps[..., -margin:, :].flip(-2)], dim=-2)
    return torch.cat([maps[..., :margin].flip(-1), maps, maps[..., -margin:].flip(-1)], dim=-1)
