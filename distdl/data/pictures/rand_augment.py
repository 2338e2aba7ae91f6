"""RandAugment (Cubuk et al. 2019, "RandAugment: Practical automated data augmentation with a reduced search space",
section 3): n operations in a row, each drawn from the same fourteen, all of one magnitude.

Magnitudes are on the paper's scale of 0 to 30; 30 is what AutoAugment's largest was. Where an operation has two
directions, one is drawn. Levels are whole after each operation, as Pillow has them. Rows that drew the same operation
are computed together; all that move pixels (shear, translate, rotate) are one, with a matrix for each row.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from distdl.data.arguments import count, number
from distdl.data.pictures import colour
from distdl.data.pictures.augment import by_group, on_device
from distdl.data.pictures.row_draws import Float64s, Int64s, RowDraws
from distdl.data.pictures.transforms import Normalise

FULL = 30  # the largest magnitude
_SHEAR, _TRANSLATE, _DEGREES, _ENHANCE, _BITS = 0.3, 150 / 331, 30.0, 0.9, 4  # at the largest magnitude

ENHANCED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": colour.saturation,
    "contrast": colour.contrast,
    "brightness": colour.brightness,
    "sharpness": colour.sharpness,
}
WARPED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = ("identity", "autocontrast", "equalize", "solarize", "posterize", *ENHANCED, *WARPED)


class RandAugment:
    """`n` of fourteen operations in a row, at `magnitude` 0 to 30 (Cubuk et al. 2019).

    `deviation`: of each image's magnitude round that, about normal. `fill`: the level that comes in from outside.
    """

    def __init__(self, n: int = 2, magnitude: float = 9, deviation: float = 0.0, fill: float = 128) -> None:
        self.n = count(n, "rand_augment", "n", least=1, most=len(OPERATIONS))
        self.magnitude = number(magnitude, "rand_augment", "magnitude", least=0, most=FULL)
        self.deviation = number(deviation, "rand_augment", "deviation", least=0, most=FULL)
        self.fill = number(fill, "rand_augment", "fill", least=0, most=255)

    def of_batch(self, image_NCHW: Tensor, draws: RowDraws, normalise: Normalise) -> Tensor:
        image_NCHW = colour.whole(image_NCHW)
        for _ in range(self.n):
            operation = draws.below(len(OPERATIONS))
            magnitude = np.clip(self.magnitude + self.deviation * draws.normal(), 0, FULL)
            image_NCHW = applied(image_NCHW, operation, magnitude / FULL, draws.sign(), self.fill)
        return image_NCHW


def applied(image_NCHW: Tensor, operation: Int64s, strength: Float64s, sign: Float64s, fill: float) -> Tensor:
    """One operation of each row, by its place in OPERATIONS, at a strength of 0 to 1; whole levels to whole levels."""
    first_warp = OPERATIONS.index(WARPED[0])
    height, width = image_NCHW.shape[2:]

    def column(values: npt.NDArray[np.float64], image: Tensor, rows: Int64s) -> Tensor:
        return on_device(values[rows], image)

    threshold = np.rint(256 * (1 - strength))
    step = 2.0 ** np.rint(_BITS * strength)
    factor = 1 + sign * strength * _ENHANCE
    matrix = inverse_matrices(operation, sign * strength, height, width)
    operations: list[Callable[[Tensor, Int64s], Tensor]] = [
        lambda image, rows: image,
        lambda image, rows: colour.autocontrast(image),
        lambda image, rows: colour.equalize(image),
        lambda image, rows: colour.solarize(image, column(threshold, image, rows)),
        lambda image, rows: colour.posterize(image, column(step, image, rows)),
        *(
            lambda image, rows, enhance=enhance: torch.floor(enhance(image, column(factor, image, rows)))
            for enhance in ENHANCED.values()
        ),
        lambda image, rows: colour.whole(warped(image, on_device(matrix[rows], image), fill)),
    ]
    return by_group(image_NCHW, np.minimum(operation, first_warp), operations)


def inverse_matrices(operation: Int64s, signed: Float64s, height: int, width: int) -> Float64s:
    """(N, 6): a to f of x_in = a x + b y + c, y_in = d x + e y + f, in pixels from the corner of the picture.

    Shears leave the upper left corner where it is, as Pillow's transform does; a turn leaves the middle.
    """
    matrix = np.tile(np.array([1.0, 0, 0, 0, 1, 0]), (len(operation), 1))
    angle = math.radians(_DEGREES) * signed
    cosine, sine, x, y = np.cos(angle), np.sin(angle), width / 2, height / 2
    turned = np.stack([cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y], axis=1)
    is_of = {name: operation == OPERATIONS.index(name) for name in WARPED}
    matrix[is_of["rotate"]] = turned[is_of["rotate"]]
    matrix[:, 1] += np.where(is_of["shear_x"], _SHEAR * signed, 0)
    matrix[:, 3] += np.where(is_of["shear_y"], _SHEAR * signed, 0)
    matrix[:, 2] += np.where(is_of["translate_x"], _TRANSLATE * width * signed, 0)
    matrix[:, 5] += np.where(is_of["translate_y"], _TRANSLATE * height * signed, 0)
    return matrix


def warped(image_NCHW: Tensor, matrix: Tensor, fill: float) -> Tensor:
    """Bilinear samples at the points that `matrix` (N, 6, 1, 1) gives; `fill` where they are outside of the image."""
    height, width = image_NCHW.shape[2:]
    a, b, c, d, e, f = matrix.view(-1, 6, 1, 1).unbind(1)  # (N, 1, 1) each
    y = torch.arange(height, device=image_NCHW.device)[None, :, None] + 0.5
    x = torch.arange(width, device=image_NCHW.device)[None, None, :] + 0.5
    x_in, y_in = a * x + b * y + c, d * x + e * y + f
    inside = (x_in >= 0) & (x_in < width) & (y_in >= 0) & (y_in < height)
    grid = torch.stack([x_in * (2 / width) - 1, y_in * (2 / height) - 1], dim=-1)
    sampled = functional.grid_sample(image_NCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(inside[:, None], sampled, fill)
