"""Decoding: the right pixels in uint8 HWC, and an error rather than half a picture for damaged data."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from distdl.data.pictures.image import IMAGE_EXTENSIONS, _decode_with_opencv, decode_image, image_size, is_image

Image = pytest.importorskip("PIL.Image")


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


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


PICTURE = Image.fromarray(smooth(24, 40, 3))
TRANSPARENT = PICTURE.copy()
TRANSPARENT.putalpha(Image.fromarray(smooth(24, 40, 1)[:, :, 0]))
TURNED = Image.Exif()
TURNED[0x0112] = 6  # Orientation: to be shown after a quarter turn

KINDS = {
    "progressive JPEG": saved(PICTURE, "JPEG", progressive=True),
    "CMYK JPEG": saved(PICTURE.convert("CMYK"), "JPEG"),
    "YCCK JPEG": simplejpeg.encode_jpeg(smooth(24, 40, 4), colorspace="CMYK"),
    "YCCK JPEG, 4:2:0": simplejpeg.encode_jpeg(smooth(24, 40, 4), colorspace="CMYK", colorsubsampling="420"),
    "PNG with alpha": saved(TRANSPARENT, "PNG"),
    "grey PNG with alpha, of which RGB is made": saved(TRANSPARENT.convert("LA").convert("RGBA"), "PNG"),
    "palette": saved(PICTURE.quantize(16), "PNG"),
    "palette with a transparent colour": saved(PICTURE.quantize(16), "PNG", transparency=3),
    "palette with alpha": saved(PICTURE.quantize(16), "PNG", transparency=bytes([255, 0, 128] + [255] * 13)),
    "16-bit RGB PNG": cv2.imencode(".png", smooth(24, 40, 3).astype(np.uint16) * 257 ^ 0x5A)[1].tobytes(),
    "JPEG that is to be turned": saved(PICTURE, "JPEG", exif=TURNED),
    "PNG that is to be turned": saved(PICTURE, "PNG", exif=TURNED),
    "WebP that is to be turned": saved(PICTURE, "WEBP", lossless=True, exif=TURNED),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("kind", KINDS)
def test_images_of_all_kinds_are_what_pillow_makes_of_them_as_rgb(kind: str) -> None:
    decoded = decode_image(KINDS[kind], "jpg")

    assert decoded.shape == (24, 40, 3)
    assert np.abs(decoded.astype(int) - by_pillow(KINDS[kind])).max() <= 1
    assert image_size(KINDS[kind], "jpg") == (24, 40)


def test_the_decoder_of_unusual_jpegs_turns_none_either() -> None:
    assert _decode_with_opencv(KINDS["JPEG that is to be turned"]).shape == (24, 40, 3)


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


def test_damage_to_a_jpeg_is_told_in_plain_words() -> None:
    data = encode("jpg", smooth(64, 64, 3))
    half, end = data[: len(data) // 2], "the JPEG ends before its picture does"

    for cut_off, read in ((half, decode_image), (data[:-1], decode_image), (data[:30], image_size)):
        with pytest.raises(ValueError, match=rf"^{end} \([\w ]+\)$"):
            read(cut_off, "jpg")
    with pytest.raises(ValueError, match=r"^damaged JPEG \(.*premature end"):
        decode_image(half + b"\xff\xd9", "jpg")


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


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def jpeg_of_65280_pixels_square(sampling: bytes) -> bytes:
    """A small one whose header claims it. `sampling`: factors of the three components."""
    data = bytearray(cv2.imencode(".jpg", smooth(16, 16, 3))[1].tobytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\x00\xff\x00"
    data[frame + 11 : frame + 20 : 3] = sampling
    return bytes(data)


BOMBS = {
    "PNG": b"\x89PNG\r\n\x1a\n"
    + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 65280, 65280, 8, 2, 0, 0, 0))
    + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    + png_chunk(b"IEND", b""),
    "JPEG": jpeg_of_65280_pixels_square(b"\x22\x11\x11"),
    "JPEG of unusual subsampling": jpeg_of_65280_pixels_square(b"\x31\x11\x11"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_absurd_dimensions_are_refused_before_memory_is_taken(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = (cv2, "imdecode"), (simplejpeg, "decode_jpeg")
    for module, decoder in decoders:
        monkeypatch.setattr(module, decoder, lambda *_, **__: pytest.fail("it was decoded"))

    with pytest.raises(ValueError, match="65280 x 65280 pixels; at most 178,956,970"):
        decode_image(BOMBS[kind], "jpg")


def test_a_jpeg_without_a_frame_is_damaged() -> None:
    with pytest.raises(ValueError, match="no frame header"):
        decode_image(b"\xff\xd8\xff\xff\xe0\x00\x04ab\xff\xd9", "jpg")


WHOLE = {name: encode(name, smooth(30, 40, 3)) for name in ("jpg", "png", "webp", "bmp", "ppm", "npy")}


@given(st.sampled_from(sorted(WHOLE)), st.floats(0, 1), st.binary(max_size=6), st.floats(0, 1))
def test_damage_anywhere_gives_pixels_or_a_value_error(name: str, at: float, value: bytes, end: float) -> None:
    data = WHOLE[name]
    begin = int(at * len(data))
    damaged = data[:begin] + value + data[begin + len(value) :]
    kept = damaged[: max(begin, int(end * len(damaged)))] + damaged[-12:]  # with the end that its format looks for

    for each in (damaged, kept):
        try:
            pixels = decode_image(each, name)
        except ValueError:
            continue
        assert pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3)


def test_an_array_with_a_garbled_header_is_refused() -> None:
    data = encode("npy", np.zeros((4, 4, 3), np.uint8)).replace(b"}", b"(")

    with pytest.raises(ValueError, match="header"):
        decode_image(data, "npy")


def test_the_last_part_of_an_extension_tells_an_image() -> None:
    assert is_image("jpg") and is_image("mask.png")
    assert not is_image("cls") and not is_image("png.json")
