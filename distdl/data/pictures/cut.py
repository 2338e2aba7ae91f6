"""Crop, resize and mirror as one box of the image: of a JPEG, pixels that nobody asked for are not even decoded.

    transforms  --leading-->  a cut and the transforms after it
    a cut       (height, width of the image, draws) -> Box
    jpeg        (bytes, cut) -> pixels of the box, by the native decoder or else by simplejpeg and OpenCV

Both ways draw the same numbers as the transforms that they stand for. Their pixels differ by a rounding error or, where
an image shrinks, by the filter: the native decoder's is Pillow's antialiased bilinear one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg

from distdl.data import native
from distdl.data.pictures.image import Pixels, check_size, decode_jpeg_strictly
from distdl.data.pictures.transforms import CenterCrop, Draws, Flip, RandomResizedCrop, Resize, Transform

_COMPONENTS = {"Gray": 1, "YCbCr": 3, "RGB": 3}  # others need more than a decoder


class Box(NamedTuple):
    """Pixels [top, top + height) x [left, left + width), fractions too, resized to `size`; mirrored if `flip`."""

    top: float
    left: float
    height: float
    width: float
    size: tuple[int, int]
    flip: bool = False

    @property
    def corners(self) -> tuple[float, float, float, float]:
        return self[:4]


Cut = Callable[[int, int, Draws], Box | None]  # None: this image needs the transforms themselves, such as padding


def leading(transforms: Sequence[Transform]) -> tuple[Cut | None, Sequence[Transform]]:
    """What of the transforms is one box, and the others that follow. (None, all) if they begin with something else."""
    first, *rest = [*transforms, None]
    place: Cut
    if isinstance(first, RandomResizedCrop):
        place, used = _random_part(first), 1
    elif isinstance(first, Resize) and isinstance(rest[0], CenterCrop):
        place, used = _middle(first, rest[0]), 2
    elif isinstance(first, Resize):
        place, used = _whole(first), 1
    else:
        return None, transforms
    after = transforms[used:]
    if after and isinstance(after[0], Flip):
        return _mirrored(place, after[0]), after[1:]
    return place, after


def _random_part(crop: RandomResizedCrop) -> Cut:
    def place(height: int, width: int, draws: Draws) -> Box:
        return Box(*crop.box(height, width, draws), crop.size)

    return place


def _whole(resize: Resize) -> Cut:
    return lambda height, width, draws: Box(0, 0, height, width, resize.target(height, width))


def _middle(resize: Resize, crop: CenterCrop) -> Cut:
    def place(height: int, width: int, draws: Draws) -> Box | None:
        new_height, new_width = resize.target(height, width)
        if new_height < crop.size[0] or new_width < crop.size[1]:
            return None
        down, across = height / new_height, width / new_width
        top, left = (new_height - crop.size[0]) // 2 * down, (new_width - crop.size[1]) // 2 * across
        return Box(top, left, crop.size[0] * down, crop.size[1] * across, crop.size)

    return place


def _mirrored(place: Cut, flip: Flip) -> Cut:
    def both(height: int, width: int, draws: Draws) -> Box | None:
        box = place(height, width, draws)
        return box and box._replace(flip=flip.drawn(draws))

    return both


def jpeg(data: bytes, cut: Cut, draws: Draws, channels: int, into: Pixels | None = None) -> Pixels | None:
    """The box of a JPEG, in `into` if that has its shape, with as many `channels` (3, or 1 of a grey image).

    None if it is no JPEG for this: take the usual way then, with fresh draws. Raises ValueError if it is damaged.
    """
    is_native = native.library is not None
    shape = native.jpeg_shape(data) if is_native else _shape_by_simplejpeg(data)
    if shape is None or shape[2] not in (1, channels):
        return None
    check_size(*shape[:2])
    box = cut(shape[0], shape[1], draws)
    if box is None:
        return None
    wanted = (*box.size, channels)
    out = into if into is not None and into.shape == wanted else np.empty(wanted, np.uint8)
    if is_native:
        return out if native.jpeg_resized(data, box.corners, box.flip, out) else None
    _by_simplejpeg(data, shape, box, out)
    return out


def _shape_by_simplejpeg(data: bytes) -> tuple[int, int, int] | None:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width, _COMPONENTS[colours]) if colours in _COMPONENTS else None


def _by_simplejpeg(data: bytes, shape: tuple[int, int, int], box: Box, out: Pixels) -> None:
    shrink = 1  # in the DCT, where a power of two costs nothing
    while shrink < 8 and box.height >= 2 * shrink * box.size[0] and box.width >= 2 * shrink * box.size[1]:
        shrink *= 2
    pixels = decode_jpeg_strictly(
        data,
        colorspace="RGB" if out.shape[2] == 3 else "GRAY",
        min_height=math.ceil(shape[0] / shrink),
        min_width=math.ceil(shape[1] / shrink),
    )
    resized = _resized(pixels, box, shrink)
    if box.flip:
        resized = cv2.flip(resized, 1)  # many times as fast as a copy backwards
    out[:] = resized if resized.ndim == 3 else resized[:, :, None]


def _resized(pixels: Pixels, box: Box, shrink: int) -> Any:
    top, left, height, width = (each / shrink for each in box.corners)
    is_far = height >= 2 * box.size[0] or width >= 2 * box.size[1]
    if is_far or all(float(each).is_integer() for each in (top, left, height, width)):
        y, x = round(top), round(left)
        part = pixels[y : max(y + 1, round(top + height)), x : max(x + 1, round(left + width))]
        return cv2.resize(part, box.size[::-1], interpolation=cv2.INTER_AREA if is_far else cv2.INTER_LINEAR)
    down, across = height / box.size[0], width / box.size[1]
    from_out = np.array([[across, 0, left + across / 2 - 0.5], [0, down, top + down / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, from_out, box.size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
