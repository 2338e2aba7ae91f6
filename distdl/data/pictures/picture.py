"""From a sample's file to a row of the batch: decoded, with as many channels as all, transformed, of one size."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from distdl.data.order import Rows
from distdl.data.pictures import cut, resolution
from distdl.data.pictures.cut import Cut
from distdl.data.pictures.image import Pixels
from distdl.data.pictures.resolution import Shape
from distdl.data.pictures.transforms import Draws, Transform
from distdl.data.samples import BadSample, Example
from distdl.data.slots import Arrays, Field
from distdl.errors import UserError


class Samples(Protocol):
    def example(self, sample_id: int, key: int = 0) -> Example: ...


@dataclass(frozen=True, slots=True)
class _Chain:
    """What makes images of one shape: all transforms; or, of a JPEG, a cut and the transforms after it."""

    shape: Shape
    transforms: list[Transform]
    cut: Cut | None
    after_cut: list[Transform]


class Pictures:
    """Of one split. `channels`: None for those of the first image; `short_side` of all images, if the transforms' own
    size is not wanted. `write` may be called by any number of threads.

    Raises UserError where none of the first samples can be decoded.
    """

    def __init__(
        self,
        samples: Samples,
        n_samples: int,
        transforms: list[Transform],
        *,
        channels: int | None,
        short_side: int | None,
        where: str,
    ) -> None:
        self._transforms, self._channels, self._where = transforms, channels, where
        self._own_shape = self._first_shape(samples, n_samples)
        self._short_side = short_side
        self._chains: dict[int | None, _Chain] = {}

    def shape(self, short_side: int | None = None) -> Shape:
        """(height, width, channels) of images of that short side."""
        return self._chain(short_side).shape

    def fields(self, n_rows: int, short_side: int | None) -> dict[str, Field]:
        return {"image": Field((n_rows, *self.shape(short_side)), "uint8")}

    def size_of(self, rows: Rows) -> int | None:
        """Short side of the images of a batch; None where the split's own holds."""
        return rows.resolution

    def clear(self, arrays: Arrays, row: int) -> None:
        arrays["image"][row] = 0

    def write(self, arrays: Arrays, row: int, example: Example, key: int, short_side: int | None) -> None:
        """`key`: of the sample's random numbers.

        Raises BadSample, and UserError for an image of another size or with other channels than the first.
        """
        chain, out = self._chain(short_side), arrays["image"][row]
        draws = Draws(key)
        image, rest = _cut_out(chain, example, draws, out), chain.after_cut
        if image is None:
            draws = Draws(key)
            image, rest = self._with_channels(example), chain.transforms
        for transform in rest:
            image = transform(image, draws)
        if image.shape != chain.shape:
            raise UserError(
                f"images of different sizes: {example.name} is {_shown(image.shape)}, "
                f"the first is {_shown(chain.shape)}",
                where=self._where,
                fix="Add a transform that makes them equal, such as {resize: [32, 32]} or {random_resized_crop: 224}.",
            )
        if image is not out:
            out[:] = image

    def _chain(self, short_side: int | None) -> _Chain:
        side = short_side or self._short_side
        if side not in self._chains:
            shape, transforms = self._own_shape, self._transforms
            if side is not None:
                shape, transforms = resolution.sized(transforms, shape, side)
            place, after = cut.leading(transforms)
            self._chains[side] = _Chain(shape, list(transforms), place, list(after))
        return self._chains[side]

    def _with_channels(self, example: Example) -> Pixels:
        """The image with as many channels as normalise has, or else the first image."""
        image = example.decode()
        channels = image.shape[2]
        wanted = self._channels or channels
        if channels == 1 and wanted == 3:
            return np.repeat(image, 3, axis=2)
        if channels != wanted:
            raise UserError(
                f"{example.name} has {channels} channels, {wanted} are expected",
                where=self._where,
                fix="Give normalise one mean and std per channel of the images (3 turns grey images into RGB).",
            )
        return image

    def _first_shape(self, samples: Samples, n_samples: int) -> Shape:
        """After the transforms, from the first sample that can be decoded."""
        problem = ""
        for sample_id in range(min(n_samples, 100)):
            try:
                image = self._with_channels(samples.example(sample_id))
            except BadSample as error:
                problem = problem or "\n".join([str(error), *error.traceback.splitlines()])
                continue
            if self._channels is None:
                self._channels = image.shape[2]
            for transform in self._transforms:
                image = transform(image, Draws(0))
            height, width, channels = image.shape
            return height, width, channels
        raise UserError(f"none of the first samples can be decoded; the first: {problem}", where=self._where)


def _cut_out(chain: _Chain, example: Example, draws: Draws, out: Pixels) -> Pixels | None:
    """What the leading transforms make of a JPEG, without the rest of it; None where they have to do it."""
    if chain.cut is None or not isinstance(example.content, bytes):
        return None
    try:
        return cut.jpeg(example.content, chain.cut, draws, out.shape[2], out)
    except ValueError as error:
        raise example.damaged(error) from error


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
