"""What a transform of whole batches is, and how a split's transforms are told apart: the code of those that are built
in (augment.py) needs torch, and what decodes images does not."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from distdl.data.pictures.row_draws import RowDraws
from distdl.data.pictures.transforms import Normalise, Transform
from distdl.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class OnDevice(Protocol):
    """A transform of batches."""

    def of_batch(self, image_NCHW: "Tensor", draws: RowDraws, normalise: Normalise) -> "Tensor": ...


def split(transforms: Sequence[Transform | OnDevice], where: str) -> tuple[list[Transform], list[OnDevice]]:
    """Those of images and those of batches. Raises UserError where one of images comes after one of batches."""
    of_batches = [each for each in transforms if isinstance(each, OnDevice)]
    of_images = [each for each in transforms if not isinstance(each, OnDevice)]
    for place, (before, each) in enumerate(pairwise(transforms)):
        if isinstance(before, OnDevice) and not isinstance(each, OnDevice):
            raise UserError(
                f"{type(each).__name__} works on single images while they are decoded, and can't come after "
                f"{type(before).__name__}, which works on batches on the device",
                where=f"{where}.transforms[{place + 1}]",
                fix=f"Move it before {type(before).__name__}.",
            )
    return of_images, of_batches
