"""Random geometry of one image on the CPU: rotate, zoom, shift, homography; the size stays as it is.

Each draws a matrix that moves points of the image, in pixels from the middle of the top left pixel. The loader
multiplies the matrices of those that follow each other and have the same border (`fused`), so that an image is sampled
once, bilinearly, and nothing that one of them moves out of the picture is lost to the next one.
"""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt

from distdl.data.arguments import between, either_side, number, numbers, probability
from distdl.data.pictures.transforms import BORDERS, Draws, Image, Transform, known_border

Matrix = npt.NDArray[np.float64]  # (3, 3), of homogeneous points (x, y, 1)


@runtime_checkable
class Warp(Protocol):
    """A transform that only moves points. `border`: what stands outside of the image, by its name in BORDERS."""

    border: str

    def matrix(self, height: int, width: int, draws: Draws) -> Matrix | None:
        """From points of the image to where they go; None: they stay."""


class Rotate:
    """Turned about the middle by an angle within `degrees` (one number: to either side), with probability `p`."""

    def __init__(self, degrees: float | Sequence[float] = 15, p: float = 1.0, border: str = "black") -> None:
        self.degrees = either_side(degrees, "rotate", "degrees", most=180)
        self.p, self.border = probability(p, "rotate"), known_border(border, "rotate")

    def matrix(self, height: int, width: int, draws: Draws) -> Matrix | None:
        chance, angle = draws.uniform(), math.radians(draws.uniform(*self.degrees))
        cosine, sine = math.cos(angle), math.sin(angle)  # counter-clockwise, as seen: y points down
        turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
        return _about_the_middle(turn, height, width) if chance < self.p else None

    def __call__(self, image: Image, draws: Draws) -> Image:
        return _warped(image, [self], draws)


class Zoom:
    """Enlarged about the middle by a factor within `factor` (below 1: shrunk), with probability `p`."""

    def __init__(self, factor: Sequence[float] = (0.8, 1.25), p: float = 1.0, border: str = "black") -> None:
        self.factor = between(factor, "zoom", "factor", least=0.1, most=10)
        self.p, self.border = probability(p, "zoom"), known_border(border, "zoom")

    def matrix(self, height: int, width: int, draws: Draws) -> Matrix | None:
        chance, factor = draws.uniform(), math.exp(draws.uniform(*map(math.log, self.factor)))
        return _about_the_middle(np.diag([factor, factor, 1.0]), height, width) if chance < self.p else None

    def __call__(self, image: Image, draws: Draws) -> Image:
        return _warped(image, [self], draws)


class Shift:
    """Moved by up to `share` of its height and of its width (or [vertical, horizontal]), with probability `p`."""

    def __init__(self, share: float | Sequence[float] = 0.1, p: float = 1.0, border: str = "black") -> None:
        shares = (share, share) if isinstance(share, int | float) else share
        self.share = numbers(shares, "shift", "share", least=0, most=1, n=2)
        self.p, self.border = probability(p, "shift"), known_border(border, "shift")

    def matrix(self, height: int, width: int, draws: Draws) -> Matrix | None:
        chance = draws.uniform()
        down, right = (draws.uniform(-share, share) * side for share, side in zip(self.share, (height, width)))
        return np.array([[1, 0, right], [0, 1, down], [0, 0, 1.0]]) if chance < self.p else None

    def __call__(self, image: Image, draws: Draws) -> Image:
        return _warped(image, [self], draws)


class Homography:
    """Seen from another place: each corner moves inwards by up to `distortion` of half a side, with probability `p`."""

    def __init__(self, distortion: float = 0.5, p: float = 0.5, border: str = "black") -> None:
        self.distortion = number(distortion, "homography", "distortion", least=0, most=0.9)
        self.p, self.border = probability(p, "homography"), known_border(border, "homography")

    def matrix(self, height: int, width: int, draws: Draws) -> Matrix | None:
        chance = draws.uniform()
        corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float32)
        reach = 0.5 * self.distortion
        moved = [
            (abs(x - reach * width * draws.uniform()), abs(y - reach * height * draws.uniform())) for x, y in corners
        ]
        matrix = np.asarray(cv2.getPerspectiveTransform(corners, np.array(moved, np.float32)), np.float64)
        return matrix if chance < self.p else None

    def __call__(self, image: Image, draws: Draws) -> Image:
        return _warped(image, [self], draws)


class Fused:
    """Several warps, sampled once."""

    def __init__(self, warps: Sequence[Warp]) -> None:
        self.warps = warps

    def __call__(self, image: Image, draws: Draws) -> Image:
        return _warped(image, self.warps, draws)


def fused(transforms: Sequence[Transform]) -> list[Transform]:
    """The same transforms, with one for each stretch of warps that follow each other and have the same border."""
    found: list[Transform] = []
    stretch: list[Warp] = []
    for transform in [*transforms, None]:
        if stretch and not (isinstance(transform, Warp) and transform.border == stretch[0].border):
            found.append(Fused(stretch))
            stretch = []
        if isinstance(transform, Warp):
            stretch.append(transform)
        elif transform is not None:
            found.append(transform)
    return found


def _warped(image: Image, warps: Sequence[Warp], draws: Draws) -> Image:
    height, width = image.shape[:2]
    drawn = [matrix for warp in warps if (matrix := warp.matrix(height, width, draws)) is not None]
    if not drawn:
        return image
    matrix = drawn[0]
    for following in drawn[1:]:
        matrix = following @ matrix
    border = BORDERS[warps[0].border]
    image = np.ascontiguousarray(image)
    if np.array_equal(matrix[2], [0, 0, 1]):
        out = cv2.warpAffine(image, matrix[:2], (width, height), flags=cv2.INTER_LINEAR, borderMode=border)
    else:
        out = cv2.warpPerspective(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)
    return out if out.ndim == 3 else out[:, :, None]  # OpenCV drops a single channel


def _about_the_middle(matrix: Matrix, height: int, width: int) -> Matrix:
    x, y = (width - 1) / 2, (height - 1) / 2
    there, back = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]]), np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
    return back @ matrix @ there
