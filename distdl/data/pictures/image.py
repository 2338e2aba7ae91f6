"""Bytes of an image -> pixels, uint8 HWC: RGB, or one channel where the file is grey.

JPEG by simplejpeg, the rest by OpenCV, both outside the GIL. Which decoder is used follows from the first bytes, not
from the name: ImageNet has a PNG called .JPEG. Damaged data raises; it never comes back as half a picture. EXIF
orientation is left alone, as in torchvision's ImageFolder.
"""

import io
import math
import struct
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "pgm", "npy")

Pixels = npt.NDArray[np.uint8]

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_PIXELS = 178_956_970  # as in Pillow
_PNG_END = b"IEND\xaeB`\x82"


def check_size(height: int, width: int) -> None:
    """Raises ValueError for more pixels than any photograph has: a few bytes that would fill the memory."""
    if height * width > _MOST_PIXELS:
        raise ValueError(f"{height} x {width} pixels; at most {_MOST_PIXELS:,} are decoded")


def is_image(extension: str) -> bool:
    """Whether a component is an image, by the last part of its extension: "jpg", "mask.png"."""
    return extension.rpartition(".")[2] in IMAGE_EXTENSIONS


def decode_image(data: bytes, extension: str) -> Pixels:
    """uint8 of shape (height, width, 3) or, for grey images, (height, width, 1).

    Alpha and a palette's transparency are dropped; of 16 bits the upper 8 are kept. Raises ValueError with the reason
    for data that can't be decoded without loss.
    """
    if extension.rpartition(".")[2] == "npy":
        return _decode_npy(data)
    if data.startswith(_JPEG):
        pixels: Pixels = _decode_jpeg(data)
        return pixels
    if data.startswith(_PNG):
        if len(data) < 24 or _PNG_END not in data[-256:]:
            raise ValueError("truncated PNG")  # some versions of OpenCV return what there is of it
        check_size(*struct.unpack(">II", data[16:24]))
    pixels = _decode_with_opencv(data)
    return pixels


def image_size(data: bytes, extension: str) -> tuple[int, int]:
    """(height, width) from the header alone where the format is JPEG, PNG or npy. Raises ValueError as decode_image."""
    if extension.rpartition(".")[2] == "npy":
        shape, _, _ = _npy_header(data)
        return shape[0], shape[1]
    if data.startswith(_JPEG):
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            return height, width
        except ValueError:
            pixels: Pixels = _decode_jpeg(data)  # an unusual one
            return pixels.shape[0], pixels.shape[1]
    if data.startswith(_PNG) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return height, width
    pixels = _decode_with_opencv(data)
    return pixels.shape[0], pixels.shape[1]


def _decode_jpeg(data: bytes) -> Any:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        # TurboJPEG knows only the usual chroma subsamplings. OpenCV knows all, but may fill a cut-off image with grey.
        if not _is_whole_jpeg(data):
            raise _jpeg_damage(data, error) from None
        check_size(*_frame_size(data))
        return _decode_with_opencv(data)
    check_size(height, width)
    if colours == "Gray":
        return decode_jpeg_strictly(data, colorspace="GRAY")
    if colours in ("CMYK", "YCCK"):
        # Ink is stored inverted, as Adobe does and every decoder assumes: 255 is none.
        cmyk = decode_jpeg_strictly(data, colorspace="CMYK").astype(np.uint16)
        return ((cmyk[:, :, :3] * cmyk[:, :, 3:] + 127) // 255).astype(np.uint8)
    return decode_jpeg_strictly(data, colorspace="RGB")


def decode_jpeg_strictly(data: bytes, **how: Any) -> Any:
    """By simplejpeg, with arguments of its decode_jpeg. Raises ValueError where anything is wrong with the data."""
    try:
        return simplejpeg.decode_jpeg(data, strict=True, **how)
    except ValueError as error:
        raise _jpeg_damage(data, error) from None


def _is_whole_jpeg(data: bytes) -> bool:
    return data.rstrip(b"\0\r\n").endswith(b"\xff\xd9")


def _jpeg_damage(data: bytes, error: ValueError) -> ValueError:
    """In plain words, then in the library's own without the name of its function."""
    what = "damaged JPEG" if _is_whole_jpeg(data) else "the JPEG ends before its picture does"
    return ValueError(f"{what} ({str(error).rpartition('(): ')[2]})")


def _frame_size(data: bytes) -> tuple[int, int]:
    """(height, width) from a JPEG's frame header. Raises ValueError if it has none."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return height, width
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ValueError("damaged JPEG: it has no frame header")


def _decode_with_opencv(data: bytes) -> Any:
    if not data:
        raise ValueError("no data")
    try:
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:  # says nothing about the image
            raise MemoryError(f"no memory to decode an image of {len(data):,} bytes") from error
        raise ValueError(f"OpenCV can't decode it: {str(error).strip()}") from None
    if image is None:
        raise ValueError("damaged, or not a known image format")
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ValueError(f"pixels of type {image.dtype}; 8 or 16 bits are known")
    if image.ndim == 2:
        return image[:, :, None]
    if image.shape[2] == 1:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _decode_npy(data: bytes) -> Pixels:
    shape, fortran_order, start = _npy_header(data)
    pixels = np.frombuffer(data, np.uint8, offset=start).reshape(shape, order="F" if fortran_order else "C")
    return np.ascontiguousarray(pixels if len(shape) == 3 else pixels[:, :, None])


def _npy_header(data: bytes) -> tuple[tuple[int, ...], bool, int]:
    """(shape, Fortran order, where the pixels begin). Never unpickles; the size is compared before anything is made."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(stream)
    except Exception as error:  # the header is a Python literal, and its parser raises whatever it likes
        raise ValueError(f"not a header of an array: {error}") from None
    if dtype != np.uint8 or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)) or 0 in shape:
        raise ValueError(f"an array of {dtype} and shape {shape}; images are uint8 of (height, width[, 1 or 3])")
    if math.prod(shape) != len(data) - stream.tell():
        raise ValueError(f"{len(data) - stream.tell()} bytes of pixels for the shape {shape}")
    return shape, fortran_order, stream.tell()
