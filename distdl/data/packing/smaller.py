"""`--long-side N` or `--short-side N`: images larger than that are made smaller and stored as JPEG; all others as they
are, byte by byte.

Averaged over areas (cv2.INTER_AREA), then libjpeg-turbo with chroma at half resolution (4:2:0). EXIF is lost, which is
not looked at in training either.
"""

from dataclasses import dataclass

import cv2
import simplejpeg

from distdl.data.corpus.shards import RawSample
from distdl.data.packing.corpus import Unfit
from distdl.data.pictures.image import Pixels, decode_image, image_size, is_image
from distdl.errors import UserError

DEFAULT_QUALITY = 95

cv2.setNumThreads(0)  # the packing threads share the cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Smaller:
    """Which images are too large, and how they are stored. Exactly one side is given, in pixels."""

    long_side: int | None = None
    short_side: int | None = None
    quality: int = DEFAULT_QUALITY

    def __post_init__(self) -> None:
        if (self.long_side is None) == (self.short_side is None):
            raise UserError("give one of the two", where="command line --long-side, --short-side")
        if not 1 <= self._side <= 65_500:
            raise UserError(
                f"{self._side} pixels can't be a side of a JPEG", where="command line --long-side, --short-side"
            )
        if not 1 <= self.quality <= 100:
            raise UserError(f"{self.quality} is no JPEG quality (1 to 100)", where="command line --quality")

    @property
    def _side(self) -> int:
        return self.long_side or self.short_side or 0

    def __str__(self) -> str:
        name = "long side" if self.long_side else "short side"
        return f"{name} of at most {self._side} pixels, JPEG quality {self.quality}"

    def __call__(self, sample: RawSample) -> RawSample:
        """The sample with a smaller image. Raises Unfit for one that can't be decoded."""
        images = [name for name in sample if is_image(name) and isinstance(sample[name], bytes)]
        if not images:
            return sample
        others = set(sample) - {"__key__", "cls", images[0]}
        if others:
            raise UserError(
                f"images with {', '.join(sorted(others))} stay as large as they are: that may be about their pixels",
                where="command line --long-side, --short-side",
            )
        name = images[0]
        content = sample[name]
        assert isinstance(content, bytes)
        try:
            smaller = self._encoded(content, name)
        except ValueError as error:
            raise Unfit(str(sample["__key__"]), str(error)) from None
        if smaller is None:
            return sample
        extension = name if name in ("jpg", "jpeg") else "jpg"
        return {
            ("__key__" if key == "__key__" else extension if key == name else key): sample[key] for key in sample
        } | {extension: smaller}

    def _encoded(self, content: bytes, extension: str) -> bytes | None:
        """None for an image that is small enough."""
        height, width = image_size(content, extension)
        side = max(height, width) if self.long_side else min(height, width)
        if side <= self._side:
            return None
        scale = self._side / side
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels: Pixels = cv2.resize(decode_image(content, extension), size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        if pixels.ndim == 2:  # cv2 drops a single channel
            return simplejpeg.encode_jpeg(
                pixels[:, :, None], quality=self.quality, colorspace="GRAY", colorsubsampling="Gray"
            )
        return simplejpeg.encode_jpeg(pixels, quality=self.quality, colorspace="RGB", colorsubsampling="420")
