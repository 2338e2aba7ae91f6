"""Training images that grow over the run (progressive resizing, as in Howard's DAWNBench entry of 2018 and Touvron et
al. 2019): how large they are is a function of the position where a step begins, hence the same after a resume.

A random_resized_crop at the end of the transforms makes the smaller images itself, at no cost; after any other
transforms the image is resized. The random numbers stay those of the full size.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from distdl.config.schema import ResolutionConfig
from distdl.data.order import Rows
from distdl.data.pictures.geometry import Fused, Warp
from distdl.data.pictures.transforms import Draws, Flip, Image, RandomResizedCrop, Resize, Transform

Shape = tuple[int, int, int]  # height, width, channels


class FromFullSize:
    """Resizes images of the full size. One of any other size stays as it is: the loader refuses it, as always."""

    def __init__(self, full_size: tuple[int, int], resize: Resize) -> None:
        self.full_size, self.resize = full_size, resize

    def __call__(self, image: Image, draws: Draws) -> Image:
        return self.resize(image, draws) if image.shape[:2] == self.full_size else image


def side_at(growing: ResolutionConfig, epoch: float) -> int:
    """The short side, in pixels, of the images of a step that begins at that epoch."""
    first, last = growing.epochs
    if epoch >= last:
        return growing.end
    if epoch <= first:
        return growing.start
    side = growing.start + (growing.end - growing.start) * (epoch - first) / (last - first)
    return min(growing.end, max(growing.start, round(side / growing.multiple) * growing.multiple))


def with_sides(steps: Iterable[Rows], growing: ResolutionConfig, position: int, epoch_length: int) -> Iterator[Rows]:
    """The same global batches, of which the first begins at `position`, with their sizes."""
    for rows in steps:
        yield replace(rows, resolution=side_at(growing, position / epoch_length))
        position += len(rows)


def shape_at(shape: Shape, short_side: int) -> Shape:
    """The shape of that short side and the same aspect ratio."""
    height, width, channels = shape
    short = min(height, width)
    return round(height * short_side / short), round(width * short_side / short), channels


def sized(transforms: Sequence[Transform], shape: Shape, short_side: int) -> tuple[Shape, list[Transform]]:
    """The shape of that short side, and transforms that give it instead of `shape`."""
    height, width, channels = shape_at(shape, short_side)
    found = list(transforms)
    keeping = [isinstance(each, Flip | Warp | Fused) for each in found]
    last = next((place for place in reversed(range(len(found))) if not keeping[place]), None)
    if (height, width) != shape[:2]:
        crop = found[last] if last is not None else None
        if last is not None and isinstance(crop, RandomResizedCrop):
            found[last] = smaller = copy.copy(crop)
            smaller.size = (height, width)
        else:
            found.append(FromFullSize(shape[:2], Resize([height, width])))
    return (height, width, channels), found
