"""Transforms of one decoded image on the CPU, uint8 HWC to uint8 HWC; normalisation is left to the device.

A transform is called as `transform(image_HWC, draws)`. Whatever is random in it comes from `draws`, which is keyed by
(seed, epoch, sample id): the same sample is augmented alike whatever the number of workers and after any restart.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from distdl import registry
from distdl.errors import UserError

Image = np.ndarray  # uint8, (height, width, channels)

cv2.setNumThreads(0)  # the loader's own threads share the cores

# What stands outside of an image.
BORDERS = {"black": cv2.BORDER_CONSTANT, "edge": cv2.BORDER_REPLICATE, "mirror": cv2.BORDER_REFLECT_101}

_MASK = 2**64 - 1


class Draws:
    """Uniform numbers from splitmix64 (Steele, Lea, Flood 2014), seeded by a 64-bit key."""

    __slots__ = ("_state", "turn")

    def __init__(self, key: int) -> None:
        self._state = key & _MASK
        self.turn = bool(key & 1)  # another one each time that the sample is seen (`order.augmentation_key`)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        self._state = z = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return low + (high - low) * ((z ^ (z >> 31)) >> 11) / 2**53

    def below(self, n: int) -> int:
        """A whole number in 0 .. n-1."""
        return min(int(self.uniform() * n), n - 1)


class Resize:
    """`size`: the short side in pixels, keeping the aspect ratio, or [height, width]."""

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = _size(size, "resize") if not isinstance(size, int) else size

    def __call__(self, image: Image, draws: Draws) -> Image:
        return _resize(image, *self.target(*image.shape[:2]))

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this height and width gets."""
        if isinstance(self.size, tuple):
            return self.size
        short = min(height, width)
        return round(height * self.size / short), round(width * self.size / short)


class CenterCrop:
    """The middle `size` pixels; an image that is smaller is padded with zeros."""

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = _size(size, "center_crop")

    def __call__(self, image: Image, draws: Draws) -> Image:
        image = _pad_to(image, *self.size)
        top, left = (image.shape[0] - self.size[0]) // 2, (image.shape[1] - self.size[1]) // 2
        return image[top : top + self.size[0], left : left + self.size[1]]


class RandomCrop:
    """`size` pixels from anywhere, after padding by `padding` on every side with a `border` (black, edge, mirror)."""

    def __init__(self, size: int | Sequence[int], padding: int = 0, border: str = "black") -> None:
        self.size, self.padding = _size(size, "random_crop"), Pad(padding).pixels
        self.border = BORDERS[known_border(border, "random_crop")]

    def __call__(self, image: Image, draws: Draws) -> Image:
        image = _pad_to(_pad(image, self.padding, self.border), *self.size)
        top = draws.below(image.shape[0] - self.size[0] + 1)
        left = draws.below(image.shape[1] - self.size[1] + 1)
        return image[top : top + self.size[0], left : left + self.size[1]]


class RandomResizedCrop:
    """A part of random area and aspect ratio, resized to `size` (Szegedy et al. 2014, section 6)."""

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
    ) -> None:
        self.size, self.scale, self.ratio = _size(size, "random_resized_crop"), scale, ratio
        self._log_ratio = math.log(ratio[0]), math.log(ratio[1])

    def __call__(self, image: Image, draws: Draws) -> Image:
        top, left, height, width = self.box(image.shape[0], image.shape[1], draws)
        return _resize(image[top : top + height, left : left + width], *self.size)

    def box(self, height: int, width: int, draws: Draws) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = height * width * draws.uniform(*self.scale)
            ratio = math.exp(draws.uniform(*self._log_ratio))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return draws.below(height - h + 1), draws.below(width - w + 1), h, w
        side_h = min(height, round(width / self.ratio[0]))  # the largest middle part within the ratios
        side_w = min(width, round(height * self.ratio[1]))
        return (height - side_h) // 2, (width - side_w) // 2, side_h, side_w


class Flip:
    """Left-right mirror image with probability `p`; or, if `alternate`, of a random half of the images in the first
    epoch, of the others in the second, and so on in turn (Jordan 2024, section 3.6)."""

    def __init__(self, p: float = 0.5, alternate: bool = False) -> None:
        self.p, self.alternate = p, alternate

    def __call__(self, image: Image, draws: Draws) -> Image:
        return image[:, ::-1] if self.drawn(draws) else image

    def drawn(self, draws: Draws) -> bool:
        """Whether this image is mirrored."""
        return draws.turn if self.alternate else draws.uniform() < self.p


class Pad:
    """`pixels` of zeros on every side."""

    def __init__(self, pixels: int) -> None:
        if not isinstance(pixels, int) or pixels < 0:
            raise UserError(f"pad: pixels is a whole number from 0 on (got {pixels})")
        self.pixels = pixels

    def __call__(self, image: Image, draws: Draws) -> Image:
        return _pad(image, self.pixels)


class Normalise:
    """(image / 255 - mean) / std for each channel, done on the device with the whole batch; comes last."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise UserError("normalise needs as many std as mean, one a channel, each std above 0")
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, image: Image, draws: Draws) -> Image:
        raise AssertionError("normalise runs on the device")


AS_IT_IS = Normalise(mean=(0.0,), std=(1.0,))  # but for the / 255
Transform = Callable[[Image, Draws], Image]


def build(configs: Sequence[dict[str, Any]], where: str) -> tuple[list[Transform], Normalise]:
    """The transforms of a split, and its normalisation (of no effect but /255 when there is none).

    Raises UserError for unknown arguments and for a normalise that is not the last.
    """
    transforms: list[Transform] = []
    for number, config in enumerate(configs):
        ((name, argument),) = config.items()
        function = registry.resolve(name, registry.TRANSFORMS, "transform")
        kind = f"transform '{name}'"
        try:
            if isinstance(argument, dict):
                transforms.append(registry.call_with_args(function, argument, kind))
            else:
                transforms.append(function(argument))
        except (TypeError, ValueError) as error:
            raise UserError(f"{kind}: {error}", where=f"{where}.transforms[{number}]") from error
        except UserError as error:
            raise UserError(error.what, where=f"{where}.transforms[{number}]", fix=error.fix) from None
    if any(isinstance(t, Normalise) for t in transforms[:-1]):
        raise UserError("normalise must be the last transform: it runs on the device", where=f"{where}.transforms")
    if transforms and isinstance(transforms[-1], Normalise):
        return transforms[:-1], transforms[-1]
    return transforms, AS_IT_IS


def _size(size: int | Sequence[int], name: str) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"{name}: size is a number of pixels or [height, width] (got {size})")
    return sides


def _resize(image: Image, height: int, width: int) -> Image:
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    out = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return out if out.ndim == 3 else out[:, :, None]  # OpenCV drops a single channel


def known_border(border: str, name: str) -> str:
    """Raises UserError for one that is not in BORDERS."""
    if border not in BORDERS:
        raise UserError(f"{name}: border is one of {', '.join(BORDERS)} (got {border})")
    return border


def _pad(image: Image, pixels: int, border: int = cv2.BORDER_CONSTANT) -> Image:
    if not pixels:
        return image
    if border != cv2.BORDER_CONSTANT:
        padded = cv2.copyMakeBorder(image, *(pixels,) * 4, border)
        return padded if padded.ndim == 3 else padded[:, :, None]  # OpenCV drops a single channel
    height, width, channels = image.shape
    out = np.zeros((height + 2 * pixels, width + 2 * pixels, channels), np.uint8)
    out[pixels : pixels + height, pixels : pixels + width] = image
    return out


def _pad_to(image: Image, height: int, width: int) -> Image:
    short_h, short_w = max(0, height - image.shape[0]), max(0, width - image.shape[1])
    if not short_h and not short_w:
        return image
    above, left = short_h // 2, short_w // 2
    return np.pad(image, ((above, short_h - above), (left, short_w - left), (0, 0)))
