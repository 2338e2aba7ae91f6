"""The decoder in C (jpeg.c), which is optional: `pip install` builds it where a C compiler and libjpeg-turbo's headers
are (on Debian and Ubuntu libjpeg-turbo8-dev or libjpeg62-turbo-dev). Without it simplejpeg and OpenCV do the same.

Called by ctypes, which lets go of the GIL for the whole way from a shard's bytes to a row of a batch.
"""

import ctypes
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

_VERSION = 1  # of the functions' arguments, as in jpeg.c
_MESSAGE_BYTES = 256
_DONE, _DAMAGED, _ANOTHER_DECODER, _NO_MEMORY = range(4)


def _load() -> ctypes.CDLL | None:
    if os.environ.get("DISTDL_NATIVE") == "0":
        return None
    try:
        library = ctypes.CDLL(str(Path(__file__).with_name("_jpeg.so")))
        if library.distdl_native_version() != _VERSION:
            return None  # of an older source tree
    except (OSError, AttributeError):
        return None
    pointer, size, fraction, number = ctypes.c_char_p, ctypes.c_size_t, ctypes.c_double, ctypes.c_int
    library.distdl_jpeg_shape.argtypes = [pointer, size, ctypes.POINTER(ctypes.c_int32)]
    library.distdl_jpeg_resized.argtypes = [
        *(pointer, size, fraction, fraction, fraction, fraction, number, number, number, number),
        *(ctypes.c_void_p, size, ctypes.c_char_p),
    ]
    return library


library = _load()
decoder = "native" if library else "simplejpeg"
"""of the JPEGs that are cut while they are decoded"""


def jpeg_shape(data: bytes) -> tuple[int, int, int] | None:
    """(height, width, components), from the frame header alone; None if there is none."""
    assert library
    shape = (ctypes.c_int32 * 3)()
    if library.distdl_jpeg_shape(data, len(data), shape) != _DONE:
        return None
    height, width, n_components = shape
    return height, width, n_components


def jpeg_resized(
    data: bytes, box: tuple[float, float, float, float], flip: bool, out_HWC: npt.NDArray[np.uint8]
) -> bool:
    """Writes the box (top, left, height, width, in pixels of the whole image) over all of `out_HWC`, which has one or
    three channels, each row's pixels side by side. Returns False if it is a JPEG for another decoder.

    Raises ValueError with the reason if it is damaged.
    """
    assert library
    height, width, channels = out_HWC.shape
    assert out_HWC.dtype == np.uint8 and out_HWC.strides[1:] == (channels, 1), "pixels lie side by side"
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    result = library.distdl_jpeg_resized(
        data, len(data), *box, height, width, channels, flip, out_HWC.ctypes.data, out_HWC.strides[0], message
    )
    if result == _DAMAGED:
        raise ValueError(message.value.decode("utf-8", "replace"))
    if result == _NO_MEMORY:
        raise MemoryError("no memory to decode a JPEG")
    return bool(result == _DONE)
