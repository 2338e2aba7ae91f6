"""What may be done to the colours of a batch: arithmetic on levels (0 is black, 255 white), image_NCHW fp32, C 1 or 3.

Additions, multiplications and divisions of single elements, and sums of whole numbers: their bits are those of the row
alone, whatever batch it is in. So nothing is left to operators that may fuse a product with a sum, or that sum in an
order of their own. Factors are fp32 (N, 1, 1, 1).

The definitions are Pillow's (ImageEnhance, ImageOps), without its rounding of each result to whole levels.
"""

import torch
from torch import Tensor

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # of luma, ITU-R BT.601
_LEVELS = 256


def clamped(image: Tensor) -> Tensor:
    return image.clamp(0, 255)


def whole(image: Tensor) -> Tensor:
    """The nearest levels."""
    return clamped(torch.floor(image + 0.5))


def grey(image: Tensor) -> Tensor:
    """Luma, (N, 1, H, W)."""
    if image.shape[1] == 1:
        return image
    return image[:, 0:1] * _RED + image[:, 1:2] * _GREEN + image[:, 2:3] * _BLUE


def _between(degenerate: Tensor, image: Tensor, factor: Tensor) -> Tensor:
    """0: the degenerate image; 1: the image; beyond: further away."""
    return clamped(degenerate + (image - degenerate) * factor)


def brightness(image: Tensor, factor: Tensor) -> Tensor:
    return clamped(image * factor)


def contrast(image: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from the mean luma, a whole level."""
    luma = torch.floor(grey(image) + 0.5)
    n_pixels = image.shape[2] * image.shape[3]
    mean = luma.sum(dim=(1, 2, 3), dtype=torch.float64, keepdim=True) / n_pixels  # exact: the sum of whole numbers
    return _between(torch.floor(mean + 0.5).float(), image, factor)


def saturation(image: Tensor, factor: Tensor) -> Tensor:
    return _between(grey(image), image, factor)


def hue(image: Tensor, turn: Tensor) -> Tensor:
    """Turned by a share of the circle of hues, -0.5 to 0.5, at the same saturation and value (HSV)."""
    if image.shape[1] == 1:
        return image
    red, green, blue = image.unbind(1)
    value, least = image.amax(1), image.amin(1)
    chroma = value - least
    divisor = torch.where(chroma > 0, chroma, 1.0)
    sixth = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    turned = sixth / 6 + turn[:, 0]
    turned = turned - torch.floor(turned)
    # Smith 1978, "Color gamut transform pairs", in the form f(n) = V - C max(0, min(k, 4 - k, 1)), k = (n + 6 h) mod 6.
    channels = []
    for n in (5, 3, 1):
        k = turned * 6 + n
        k = k - 6 * torch.floor(k / 6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return clamped(torch.stack(channels, dim=1))


# --- of whole levels ---


def autocontrast(image: Tensor) -> Tensor:
    """Each channel stretched, so that its darkest level becomes 0 and its lightest 255."""
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    span = high - low
    stretched = torch.floor((image - low) * 255 / torch.where(span > 0, span, 1.0))
    return torch.where(span > 0, stretched, image)


def equalize(image: Tensor) -> Tensor:
    """Each channel's levels moved so that they occur about equally often, as Pillow's ImageOps.equalize does."""
    n, channels, height, width = image.shape
    level = image.reshape(n * channels, height * width).long()
    first = torch.arange(n * channels, device=image.device)[:, None] * _LEVELS
    counts = torch.zeros(n * channels * _LEVELS, dtype=torch.int64, device=image.device)
    at = (level + first).flatten()
    counts = counts.scatter_add_(0, at, torch.ones_like(at)).view(n * channels, _LEVELS)
    places = torch.arange(_LEVELS, device=image.device)
    last = torch.where(counts > 0, places, 0).amax(1, keepdim=True)
    step = (height * width - counts.gather(1, last)) // 255
    before = counts.cumsum(1) - counts + step // 2
    table = torch.where(step > 0, before // step.clamp(min=1), places).clamp(0, 255)
    return table.gather(1, level).view_as(image).to(image.dtype)


def solarize(image: Tensor, threshold: Tensor) -> Tensor:
    """Levels from the threshold on are inverted."""
    return torch.where(image < threshold, image, 255 - image)


def posterize(image: Tensor, step: Tensor) -> Tensor:
    """Each level down to the next multiple of `step`: a power of two, which leaves the upper bits."""
    return torch.floor(image / step) * step


def sharpness(image: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from the smoothed image: 3x3, the middle weighs 5 of 13. The outermost pixels stay."""
    if min(image.shape[2:]) < 3:
        return image
    height, width = image.shape[2:]
    total = 4 * image[:, :, 1:-1, 1:-1]
    for top in range(3):
        for left in range(3):
            total = total + image[:, :, top : top + height - 2, left : left + width - 2]
    smooth = image.clone()
    smooth[:, :, 1:-1, 1:-1] = torch.floor(total / 13 + 0.5)
    return _between(smooth, image, factor)
