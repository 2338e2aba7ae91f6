"""Contrast normalisation of one image, as the columns of the GTSRB committee differ in it (Ciresan, Meier, Masci and
Schmidhuber 2012, "Multi-column deep neural network for traffic sign classification", section 2.1)."""

from collections.abc import Callable

import cv2
import numpy as np

from distdl.data.pictures.transforms import Draws, Image
from distdl.errors import UserError

_TILES = (6, 6)
_CLIP = 2.0  # the steepest slope of an adaptive equalisation, which keeps it from blowing up noise
_SATURATED = 0.01  # share of pixels at either end that imadjust lets go to black and to white


def _imadjust(light: Image) -> Image:
    low, high = np.quantile(light, (_SATURATED, 1 - _SATURATED))
    return np.rint(np.clip((light - low) * (255 / max(high - low, 1.0)), 0, 255)).astype(np.uint8)


def _adapthisteq(light: Image) -> Image:
    return np.asarray(cv2.createCLAHE(_CLIP, _TILES).apply(light))


def _conorm(light: Image) -> Image:
    """A difference of Gaussians, 5x5; grey where the image is even, and each image's strongest edge at an end."""
    levels = light.astype(np.float32)
    edges = cv2.GaussianBlur(levels, (5, 5), 0.5) - cv2.GaussianBlur(levels, (5, 5), 1.5)
    return (127.5 + edges * (127.5 / max(float(np.abs(edges).max()), 1.0))).astype(np.uint8)


METHODS: dict[str, Callable[[Image], Image]] = {
    "imadjust": _imadjust,
    "histeq": lambda light: np.asarray(cv2.equalizeHist(light)),
    "adapthisteq": _adapthisteq,
    "conorm": _conorm,
}


class Contrast:
    """Contrast by `method`, on the lightness of a colour image (L of CIE Lab), whose hues stay.

    imadjust: from the darkest to the lightest, but for 1 % at either end; histeq: all levels alike; adapthisteq: so in
    each of 6x6 tiles, within limits; conorm: edges alone (Ciresan et al. 2012).
    """

    def __init__(self, method: str = "adapthisteq") -> None:
        if not isinstance(method, str) or method not in METHODS:
            raise UserError(f"contrast: method is one of {', '.join(METHODS)} (got {method})")
        self.method = method

    def __call__(self, image: Image, draws: Draws) -> Image:
        adjusted = METHODS[self.method]
        if image.shape[2] == 1:
            return adjusted(np.ascontiguousarray(image[:, :, 0]))[:, :, None]
        if image.shape[2] != 3:
            raise UserError(f"contrast takes images of 1 or 3 channels, this one has {image.shape[2]}")
        lab = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2LAB)
        lab[:, :, 0] = adjusted(np.ascontiguousarray(lab[:, :, 0]))
        return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))
