"""Damage of every kind, by whatever decoder and from whatever source, under each policy: one row differs, no other."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest

from distdl.config.sources import SplitConfig
from distdl.data import labels, native
from distdl.data.corpus import shards
from distdl.data.corpus.dataset import Dataset
from distdl.data.corpus.folder import FolderDataset
from distdl.data.engine import Loader
from distdl.data.order import sequential_rows
from distdl.data.workers import Threads
from distdl.errors import UserError

N, VICTIM, STAND_IN = 12, 5, 8  # the victim is the last of the first shard
IGNORED = -100


def jpeg(i):
    picture = np.random.default_rng(i).integers(0, 256, (5, 6, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(picture, (48, 40), interpolation=cv2.INTER_CUBIC))[1].tobytes()


def png_of_65280_pixels_square():
    header = b"IHDR" + struct.pack(">IIBBBBB", 65280, 65280, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82"


def jpeg_of_65280_pixels_square():
    data = jpeg(0)
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + b"\xff\x00\xff\x00" + data[frame + 9 :]


# --- what the image may be when it is packed, or listed: bytes, and what is said of it ---

CONTENTS = {
    "cut in half": (jpeg(VICTIM)[: len(jpeg(VICTIM)) // 2], "the JPEG ends before its picture does"),
    "empty": (b"", "no data"),
    "text": (b"<html>not found</html>", "not a known image format"),
    "a PNG cut off": (cv2.imencode(".png", np.zeros((40, 48, 3), np.uint8))[1].tobytes()[:-8], "truncated PNG"),
    "a PNG of absurd size": (png_of_65280_pixels_square(), "65280 x 65280 pixels"),
    "a JPEG of absurd size": (jpeg_of_65280_pixels_square(), "65280 x 65280 pixels"),
}


# --- what may happen to it later ---


def flip_a_byte(tar, image):
    content = bytearray(tar.read_bytes())
    content[content.index(image) + len(image) // 2] ^= 0xFF
    tar.write_bytes(content)


def cut_off(tar, image):
    content = tar.read_bytes()
    tar.write_bytes(content[: content.index(image) + 100])


LATER = {
    "a byte flipped": (flip_a_byte, "its checksum does not match"),
    "the tar cut off": (cut_off, "the shard ends after 100 of its"),
}


def write_shards(folder, victim=None):
    samples = [{"__key__": f"k{i:02}", "jpg": jpeg(i), "cls": str(i % 3)} for i in range(N)]
    if victim is not None:
        samples[VICTIM]["jpg"] = victim
    shards.write_shards(samples, folder, classes=list("abc"), kind="test", shard_samples=VICTIM + 1)
    return folder


@pytest.fixture(params=[pytest.param(True, marks=pytest.mark.needs("native"), id="native"), False], ids=["", "wheels"])
def decoder(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(native, "library", None)


@pytest.fixture
def load():
    opened = []

    def make(dataset, policy):
        split = SplitConfig(shards="-", transforms=[{"random_resized_crop": 16}, "flip"])
        loader = Loader(
            dataset,
            split,
            where="data.train",
            label=labels.class_number(3),
            augmentation_seed=lambda epoch, offset, sample_id: sample_id,
            workers=Threads(0),
            prefetch=1,
            bad_sample=policy,
            substitute=lambda epoch, offset: (STAND_IN, STAND_IN),
        )
        opened.append(loader)
        return loader

    yield make
    for each in opened:
        each.close()


def whole_batch(loader):
    (batch,) = loader.stream([sequential_rows(N, 0, N)])
    return batch


def check(loader, policy, sound, said, key):
    """`sound`: the batch of the undamaged data."""
    if policy == "raise":
        with pytest.raises(UserError, match=f"bad sample: {key}.*{said}"):
            whole_batch(loader)
        return
    batch = whole_batch(loader)

    (bad,) = batch.problems
    assert (bad.key, bad.sample_id) == (key, VICTIM) and said in bad.reason
    expected = {name: tensor.clone() for name, tensor in sound.tensors.items()}
    if policy == "mask":
        assert (bad.done, bad.stand_in, batch.n_valid) == ("masked", None, N - 1)
        expected["image"][VICTIM], expected["valid"][VICTIM], expected["label"][VICTIM] = 0, 0, IGNORED
    else:
        assert (bad.done, bad.stand_in, batch.n_valid) == ("substituted", STAND_IN, N)
        for tensor in expected.values():
            tensor[VICTIM] = tensor[STAND_IN]
    for name, tensor in expected.items():
        assert (batch.tensors[name] == tensor).all(), name


@pytest.mark.parametrize("policy", ["raise", "mask", "substitute"])
@pytest.mark.parametrize("damage", [*CONTENTS, *LATER])
def test_in_shards(tmp_path, decoder, load, damage, policy):
    sound = whole_batch(load(Dataset.open(write_shards(tmp_path / "sound")), "raise"))
    content, said = CONTENTS.get(damage, (None, ""))
    folder = write_shards(tmp_path / "damaged", content)
    loader = load(Dataset.open(folder), policy)
    if damage in LATER:
        change, said = LATER[damage]
        change(folder / "000000.tar", jpeg(VICTIM))

    check(loader, policy, sound, said, f"k{VICTIM:02}")


def write_folder(folder, victim=None):
    for i in range(N):
        file = folder / f"class{i // 4}" / f"k{i:02}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(i) if victim is None or i != VICTIM else victim)
    return folder


@pytest.mark.parametrize("policy", ["raise", "mask", "substitute"])
@pytest.mark.parametrize("damage", [*CONTENTS, "gone", "grown"])
def test_in_a_folder(tmp_path, monkeypatch, decoder, load, damage, policy):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sound = whole_batch(load(FolderDataset.open(write_folder(tmp_path / "sound")), "raise"))
    content, said = CONTENTS.get(damage, (None, ""))
    folder = write_folder(tmp_path / "damaged", content)
    loader = load(FolderDataset.open(folder), policy)
    victim = folder / f"class1/k{VICTIM:02}.jpg"
    if damage == "gone":
        victim.unlink()
        said = "can't be read"
    elif damage == "grown":
        victim.write_bytes(jpeg(VICTIM) + b"more")
        said = "when it was listed"

    check(loader, policy, sound, said, f"class1/k{VICTIM:02}")


@pytest.mark.parametrize("policy", ["raise", "mask", "substitute"])
def test_a_sample_without_its_image_or_its_label(tmp_path, load, policy):
    samples = [{"__key__": f"k{i:02}", "jpg": jpeg(i), "cls": str(i % 3)} for i in range(N)]
    shards.write_shards(samples, tmp_path / "sound", classes=list("abc"), kind="test")
    sound = whole_batch(load(Dataset.open(tmp_path / "sound"), "raise"))

    for missing in ("jpg", "cls"):
        lacking = [{k: v for k, v in s.items() if i != VICTIM or k != missing} for i, s in enumerate(samples)]
        shards.write_shards(lacking, tmp_path / missing, classes=list("abc"), kind="test")
        loader = load(Dataset.open(tmp_path / missing), policy)
        check(loader, policy, sound, f"it has no component '{missing}'", f"k{VICTIM:02}")


def test_images_of_all_kinds_in_one_corpus_become_rgb(tmp_path, decoder, load):
    image = pytest.importorskip("PIL.Image")
    picture = image.open(io.BytesIO(jpeg(0)))

    def saved(form, mode, **options):
        stream = io.BytesIO()
        picture.convert(mode).save(stream, form, **options)
        return stream.getvalue()

    kinds = [
        jpeg(0),
        saved("JPEG", "L"),
        saved("JPEG", "CMYK"),
        saved("JPEG", "RGB", progressive=True),
        saved("PNG", "RGBA"),
        saved("PNG", "P", transparency=0),
        cv2.imencode(".png", cv2.imdecode(np.frombuffer(jpeg(0), np.uint8), 1).astype(np.uint16) * 257)[1].tobytes(),
    ]
    samples = [{"__key__": f"{i}", "jpg": kind, "cls": "0"} for i, kind in enumerate(kinds)]
    shards.write_shards(samples, tmp_path / "x", classes=["a"], kind="test")
    split = SplitConfig(shards="-", transforms=[{"resize": [40, 48]}])
    loader = Loader(
        Dataset.open(tmp_path / "x"),
        split,
        where="data.train",
        label=labels.class_number(3),
        augmentation_seed=None,
        workers=Threads(0),
        prefetch=1,
        bad_sample="raise",
    )

    (batch,) = loader.stream([sequential_rows(len(kinds), 0, len(kinds))])
    loader.close()

    for row, kind in enumerate(kinds[:5]):
        expected = np.asarray(image.open(io.BytesIO(kind)).convert("RGB")).astype(int)
        assert np.abs(batch.tensors["image"][row].numpy() - expected).mean() < 1
    assert (batch.tensors["image"][6].numpy() == by_opencv(jpeg(0))).all()


def by_opencv(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), 1)[:, :, ::-1]
