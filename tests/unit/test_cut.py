"""A box of a JPEG, by the native decoder and by the wheels: the pixels that the transforms would have made."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distdl.data import native
from distdl.data.pictures import cut
from distdl.data.pictures.cut import Box
from distdl.data.pictures.image import decode_image
from distdl.data.pictures.transforms import CenterCrop, Draws, Flip, RandomCrop, RandomResizedCrop, Resize

BOTH = [pytest.param(True, marks=pytest.mark.needs("native"), id="native"), pytest.param(False, id="wheels")]


def photograph(height, width, seed=0):
    """Soft shapes of some contrast with a little noise, uint8 RGB."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (height // 40 + 2, width // 40 + 2, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return np.clip(smooth + generator.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)


def jpeg(pixels, quality=92):
    bgr = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


PHOTOGRAPH = jpeg(photograph(375, 500))


@pytest.fixture(params=BOTH)
def decoder(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(native, "library", None)
    return request.param


def fixed(box):
    return lambda height, width, draws: box


def difference(a, b):
    return np.abs(a.astype(int) - b.astype(int)).mean()


@pytest.mark.parametrize(
    "transforms",
    [
        [RandomResizedCrop(64)],
        [RandomResizedCrop([48, 96], scale=(0.01, 0.1))],
        [RandomResizedCrop(64), Flip()],
        [Resize(80), CenterCrop(64)],
        [Resize([60, 100]), Flip(1.0)],
        [Resize(96)],
    ],
    ids=lambda transforms: "-".join(type(each).__name__ for each in transforms),
)
@pytest.mark.parametrize("key", range(8))
def test_a_cut_is_what_its_transforms_make(decoder, transforms, key):
    place, rest = cut.leading(transforms)
    found = cut.jpeg(PHOTOGRAPH, place, Draws(key), 3)

    expected, draws = decode_image(PHOTOGRAPH, "jpg"), Draws(key)
    for transform in transforms:
        expected = transform(expected, draws)
    assert not rest
    assert found.shape == expected.shape
    assert difference(found, expected) < 3


def test_what_comes_after_the_cut_is_left():
    crop, flip, last = RandomResizedCrop(8), Flip(), RandomCrop(4)

    assert cut.leading([crop, flip, last])[1] == [last]
    assert cut.leading([crop, last, flip])[1] == [last, flip]
    assert cut.leading([flip, crop]) == (None, [flip, crop])
    assert cut.leading([]) == (None, [])


@pytest.mark.needs("native")
@given(data=st.data(), seed=st.integers(0, 3))
def test_native_pixels_are_those_of_pillows_antialiased_resize(data, seed):
    image = pytest.importorskip("PIL.Image")
    height, width = [(375, 500), (500, 333), (97, 61), (800, 1200)][seed]
    pixels = photograph(height, width, seed)
    encoded = jpeg(pixels)
    box_height, box_width = data.draw(st.integers(16, height)), data.draw(st.integers(16, width))
    top, left = data.draw(st.integers(0, height - box_height)), data.draw(st.integers(0, width - box_width))
    size = (data.draw(st.integers(16, 256)), data.draw(st.integers(16, 256)))

    found = np.empty((*size, 3), np.uint8)
    assert native.jpeg_resized(encoded, (top, left, box_height, box_width), False, found)

    part = image.open(io.BytesIO(encoded)).crop((left, top, left + box_width, top + box_height))
    expected = np.asarray(part.resize(size[::-1], image.BILINEAR))
    assert difference(found, expected) < 3


@pytest.mark.needs("native", "data")
def test_native_pixels_of_photographs_are_within_a_level_of_pillows(real_data):
    image = pytest.importorskip("PIL.Image")
    differences = []
    for number, path in enumerate(sorted((real_data / "hymenoptera").rglob("*.jpg"))[:60]):
        encoded = path.read_bytes()
        pixels = image.open(io.BytesIO(encoded)).convert("RGB")
        box = RandomResizedCrop(224).box(pixels.height, pixels.width, Draws(number))
        found = np.empty((224, 224, 3), np.uint8)
        assert native.jpeg_resized(encoded, box, False, found)
        top, left, height, width = box
        part = pixels.crop((left, top, left + width, top + height))
        differences.append(difference(found, np.asarray(part.resize((224, 224), image.BILINEAR))))

    assert np.mean(differences) < 0.5
    assert max(differences) < 3


def test_a_mirrored_box_is_the_box_mirrored(decoder):
    plain = cut.jpeg(PHOTOGRAPH, fixed(Box(10, 20, 200, 300, (50, 60))), Draws(0), 3)
    mirrored = cut.jpeg(PHOTOGRAPH, fixed(Box(10, 20, 200, 300, (50, 60), flip=True)), Draws(0), 3)

    assert np.array_equal(mirrored, plain[:, ::-1])


@pytest.mark.parametrize("corners", [(0, 0, 1, 1), (374, 499, 1, 1), (0, 0, 375, 500), (0.4, 0.7, 3.2, 1.1)])
@pytest.mark.parametrize("size", [(1, 1), (3, 224), (224, 3), (700, 900)])
def test_boxes_at_the_edges_and_sizes_of_all_kinds(decoder, corners, size):
    pixels = cut.jpeg(PHOTOGRAPH, fixed(Box(*corners, size)), Draws(0), 3)

    top, left, height, width = (round(each) for each in corners)
    part = decode_image(PHOTOGRAPH, "jpg")[top : top + max(height, 1), left : left + max(width, 1)]
    assert pixels.shape == (*size, 3)
    assert int(part.min()) - 6 <= pixels.min() and pixels.max() <= int(part.max()) + 6


def test_a_box_is_written_into_its_row_of_a_batch_and_nowhere_else(decoder):
    batch = np.full((3, 40, 41, 3), 7, np.uint8)

    found = cut.jpeg(PHOTOGRAPH, fixed(Box(0, 0, 375, 500, (40, 41))), Draws(0), 3, batch[1])

    assert found is not None and np.shares_memory(found, batch)
    assert (batch[0] == 7).all() and (batch[2] == 7).all() and not (batch[1] == 7).all()


def test_a_grey_image_is_one_channel_or_three_alike(decoder):
    grey = jpeg(photograph(80, 90)[:, :, 0])
    place = fixed(Box(0, 0, 80, 90, (40, 45)))

    one, three = (cut.jpeg(grey, place, Draws(0), channels) for channels in (1, 3))

    assert one.shape == (40, 45, 1)
    assert np.array_equal(three, np.repeat(one, 3, axis=2))


@pytest.mark.parametrize("options", [{"progressive": True}, {"exif": 6}], ids=["progressive", "to be turned"])
def test_a_progressive_image_is_as_any_and_none_is_turned(decoder, options):
    image = pytest.importorskip("PIL.Image")
    if "exif" in options:
        options = {"exif": image.Exif()}
        options["exif"][0x0112] = 6  # Orientation: a quarter turn
    stream = io.BytesIO()
    image.fromarray(photograph(40, 64)).save(stream, "JPEG", quality=92, **options)

    found = cut.jpeg(stream.getvalue(), fixed(Box(0, 0, 40, 64, (40, 64))), Draws(0), 3)

    assert difference(found, np.asarray(image.open(io.BytesIO(stream.getvalue())))) < 1


def test_a_colour_image_for_one_channel_and_cmyk_are_left_to_the_transforms(decoder):
    image = pytest.importorskip("PIL.Image")
    stream = io.BytesIO()
    image.fromarray(photograph(40, 40)).convert("CMYK").save(stream, "JPEG")
    place = fixed(Box(0, 0, 40, 40, (20, 20)))

    assert cut.jpeg(PHOTOGRAPH, place, Draws(0), 1) is None
    assert cut.jpeg(stream.getvalue(), place, Draws(0), 3) is None
    assert cut.jpeg(b"\x89PNG\r\n\x1a\n", place, Draws(0), 3) is None


@pytest.mark.parametrize("length", [20, 700, -2000, -2])
def test_an_image_that_is_cut_off_is_damaged(decoder, length):
    whole = fixed(Box(0, 0, 375, 500, (64, 64)))

    try:
        found = cut.jpeg(PHOTOGRAPH[:length], whole, Draws(0), 3)
    except ValueError:
        return
    assert found is None  # the usual way then says what is wrong with it
    with pytest.raises(ValueError):
        decode_image(PHOTOGRAPH[:length], "jpg")


def test_more_pixels_than_any_photograph_has_are_refused_before_they_are_made(decoder):
    frame = PHOTOGRAPH.index(b"\xff\xc0")
    bomb = PHOTOGRAPH[: frame + 5] + b"\xff\x00\xff\x00" + PHOTOGRAPH[frame + 9 :]

    with pytest.raises(ValueError, match="65280 x 65280 pixels"):
        cut.jpeg(bomb, fixed(Box(0, 0, 65280, 65280, (8, 8))), Draws(0), 3)
    with pytest.raises(ValueError, match="65280 x 65280 pixels"):
        decode_image(bomb, "jpg")


@settings(max_examples=300)
@given(at=st.integers(0, len(PHOTOGRAPH) - 1), value=st.binary(min_size=1, max_size=6), seed=st.integers(0, 2**32))
@pytest.mark.needs("native")
def test_damage_anywhere_gives_pixels_or_an_error_and_never_ends_the_process(at, value, seed):
    damaged = PHOTOGRAPH[:at] + value + PHOTOGRAPH[at + len(value) :]
    place, _ = cut.leading([RandomResizedCrop(32), Flip()])

    try:
        found = cut.jpeg(damaged, place, Draws(seed), 3)
    except ValueError as error:
        assert str(error)
    else:
        assert found is None or found.shape == (32, 32, 3)
