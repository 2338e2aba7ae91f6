"""Decoding: the right pixels in uint8 HWC, and an error rather than half a picture for damaged data."""

import io

import cv2
import numpy as np
import pytest
import simplejpeg

from distdl.data.image import IMAGE_EXTENSIONS, decode_image, image_size, is_image


def smooth(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (9, 9), 3).reshape(height, width, channels)


def encode(extension: str, image_HWC: np.ndarray) -> bytes:
    """By OpenCV, which takes BGR; lossless where the format can be."""
    if extension == "npy":
        stream = io.BytesIO()
        np.save(stream, image_HWC)
        return stream.getvalue()
    image = image_HWC[:, :, ::-1] if image_HWC.shape[2] == 3 else image_HWC
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if extension == "webp" else [cv2.IMWRITE_JPEG_QUALITY, 100]
    return cv2.imencode(f".{extension}", image, options)[1].tobytes()


@pytest.mark.parametrize("extension", [name for name in IMAGE_EXTENSIONS if name != "pgm"])
def test_every_format_gives_rgb_of_the_image_s_size(extension: str) -> None:
    image = smooth(30, 40, 3)
    data = encode(extension, image)

    decoded = decode_image(data, extension)

    assert decoded.shape == (30, 40, 3) and decoded.dtype == np.uint8 and decoded.flags.c_contiguous
    tolerance = 4 if extension in ("jpg", "jpeg") else 0
    assert np.abs(decoded.astype(int) - image).mean() <= tolerance
    assert image_size(data, extension) == (30, 40)


@pytest.mark.parametrize("extension", ["jpg", "png", "pgm", "npy"])
def test_a_grey_image_keeps_its_one_channel(extension: str) -> None:
    image = smooth(30, 40, 1)

    decoded = decode_image(encode(extension, image), extension)

    assert decoded.shape == (30, 40, 1)
    assert np.abs(decoded.astype(int) - image).max() <= 2


def test_alpha_is_dropped() -> None:
    image = smooth(8, 9, 4)
    data = cv2.imencode(".png", image)[1].tobytes()

    assert (decode_image(data, "png") == image[:, :, 2::-1]).all()


def test_of_16_bits_the_upper_8_are_kept() -> None:
    image = np.array([[0x0000, 0x12FF], [0xFF00, 0xFFFF]], np.uint16)
    data = cv2.imencode(".png", image)[1].tobytes()

    assert decode_image(data, "png")[:, :, 0].tolist() == [[0x00, 0x12], [0xFF, 0xFF]]


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    ink = smooth(16, 16, 4)
    data = simplejpeg.encode_jpeg(ink, colorspace="CMYK", quality=100)

    by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert by_opencv is not None

    assert np.abs(decode_image(data, "jpg").astype(int) - by_opencv[:, :, ::-1]).max() <= 2


def test_the_content_decides_not_the_name() -> None:
    image = smooth(8, 8, 3)

    assert (decode_image(encode("png", image), "jpg") == image).all()


@pytest.mark.parametrize("extension", IMAGE_EXTENSIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_truncated_image_raises_and_is_never_half_a_picture(extension: str, channels: int) -> None:
    if (extension, channels) in (("pgm", 3), ("ppm", 1)):
        pytest.skip("pgm is grey, ppm is RGB")
    data = encode(extension, smooth(30, 40, channels))
    cuts = {1, 2, 3, 8, 20, len(data) // 10, len(data) // 3, len(data) // 2, len(data) - 30, len(data) - 1, len(data)}

    for cut in sorted(cuts):
        with pytest.raises(ValueError):
            decode_image(data[: len(data) - cut], extension)


def test_a_truncated_cmyk_jpeg_raises() -> None:
    data = simplejpeg.encode_jpeg(smooth(64, 64, 4), colorspace="CMYK")

    for cut in (1, 2, 10, len(data) // 2):
        with pytest.raises(ValueError):
            decode_image(data[:-cut], "jpg")


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.float32), np.zeros(4, np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)],
)
def test_an_array_that_is_no_image_is_refused(array: np.ndarray) -> None:
    stream = io.BytesIO()
    np.save(stream, array)

    with pytest.raises(ValueError, match="images are uint8"):
        decode_image(stream.getvalue(), "npy")


def test_an_array_is_never_unpickled() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([[print]], dtype=object), allow_pickle=True)

    with pytest.raises(ValueError):
        decode_image(stream.getvalue(), "npy")


def test_an_array_that_claims_an_absurd_size_is_refused_before_it_is_made() -> None:
    stream = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 1 << 20, 3)}
    np.lib.format.write_array_header_1_0(stream, header)

    with pytest.raises(ValueError, match="0 bytes of pixels"):
        decode_image(stream.getvalue(), "npy")


def test_an_array_with_a_garbled_header_is_refused() -> None:
    data = encode("npy", np.zeros((4, 4, 3), np.uint8)).replace(b"}", b"(")

    with pytest.raises(ValueError, match="header"):
        decode_image(data, "npy")


def test_the_last_part_of_an_extension_tells_an_image() -> None:
    assert is_image("jpg") and is_image("mask.png")
    assert not is_image("cls") and not is_image("png.json")
