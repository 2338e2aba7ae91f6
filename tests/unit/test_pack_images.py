"""Images as they come: odd ones are packed as they are, and can be made smaller; Tiny ImageNet's layout."""

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from distdl.cli import main
from distdl.data.corpus.dataset import Dataset
from distdl.data.corpus.unfinished import resumable_folder
from distdl.data.inspect import verify
from distdl.data.pack import pack
from distdl.data.packing import write
from distdl.data.packing.smaller import Smaller
from distdl.data.pictures.image import decode_image
from distdl.errors import UserError


def silent(line: str) -> None:
    pass


def smooth(height: int, width: int) -> np.ndarray:
    """RGB that JPEG keeps well: red grows to the right, green downwards."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([255 * columns // width, 255 * rows // height, np.full_like(rows, 60)], axis=2).astype(np.uint8)


def components(folder: Path) -> dict[str, dict[str, bytes]]:
    with Dataset.open(folder) as dataset:
        found = [dataset.read(*dataset.locate(i)) for i in range(dataset.n_samples)]
    return {sample.key: sample.components for sample in found}


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A PNG named .JPEG, CMYK, 16 bits, grey, and an ordinary one; 90 high and 120 wide."""
    folder = tmp_path / "src" / "a"
    folder.mkdir(parents=True)
    image = Image.fromarray(smooth(90, 120))
    image.save(folder / "named.JPEG", format="PNG")
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    cv2.imwrite(str(folder / "deep.png"), smooth(90, 120)[:, :, ::-1].astype(np.uint16) * 257)
    image.convert("L").save(folder / "grey.jpg", quality=95)
    image.save(folder / "plain.jpg", quality=95)
    return tmp_path / "src"


def test_odd_images_are_packed_byte_by_byte_and_can_be_decoded(odd: Path, tmp_path: Path) -> None:
    pack("imagefolder", odd, tmp_path / "out", say=silent)

    packed = components(tmp_path / "out/train")
    assert {key: set(each) - {"cls"} for key, each in packed.items()} == {
        "a/named": {"jpeg"},
        "a/cmyk": {"jpg"},
        "a/deep": {"png"},
        "a/grey": {"jpg"},
        "a/plain": {"jpg"},
    }
    for file in (odd / "a").iterdir():
        assert file.read_bytes() in packed[f"a/{file.stem}"].values()
    assert verify(tmp_path / "out/train").ok


@pytest.mark.parametrize(
    ("smaller", "size"),
    [
        (Smaller(long_side=60), (45, 60)),
        (Smaller(short_side=30), (30, 40)),
        (Smaller(long_side=119), (89, 119)),
    ],
    ids=str,
)
def test_larger_images_are_made_smaller_whatever_they_are(
    odd: Path, tmp_path: Path, smaller: Smaller, size: tuple[int, int]
) -> None:
    pack("imagefolder", odd, tmp_path / "out", say=silent, smaller=smaller)

    for key, each in components(tmp_path / "out/train").items():
        (extension,) = set(each) - {"cls"}
        pixels = decode_image(each[extension], extension)
        assert each[extension].startswith(b"\xff\xd8\xff"), key  # all are JPEG now, and say so
        assert extension == ("jpeg" if key == "a/named" else "jpg")
        assert pixels.shape == (*size, 1 if key == "a/grey" else 3)
        if key != "a/grey":
            assert abs(pixels.astype(int) - smooth(*size)).mean() < 4, key
    assert verify(tmp_path / "out/train").ok


def test_images_that_are_small_enough_are_copied_byte_by_byte(odd: Path, tmp_path: Path) -> None:
    for name, smaller in (("plain", None), ("limited", Smaller(long_side=120))):
        pack("imagefolder", odd, tmp_path / name, say=silent, smaller=smaller)

    plain, limited = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "train").iterdir()}
        for name in ("plain", "limited")
    )
    assert plain == limited


def test_the_quality_is_a_choice(odd: Path, tmp_path: Path) -> None:
    sizes = []
    for quality in (50, 95):
        smaller = Smaller(long_side=100, quality=quality)
        pack("imagefolder", odd, tmp_path / str(quality), say=silent, smaller=smaller)
        sizes.append(len(components(tmp_path / str(quality) / "train")["a/plain"]["jpg"]))

    assert sizes[0] < sizes[1]


def test_a_large_image_that_is_cut_off_is_left_out_when_it_has_to_be_decoded(odd: Path, tmp_path: Path) -> None:
    plain = odd / "a/plain.jpg"
    plain.write_bytes(plain.read_bytes()[:-300])
    said: list[str] = []

    pack("imagefolder", odd, tmp_path / "out", say=said.append, smaller=Smaller(long_side=60))

    assert "a/plain" not in components(tmp_path / "out/train")
    assert any(line.startswith("  a/plain: ") for line in said)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--long-side", "0"], "0 pixels can't be a side"),
        (["--long-side", "10", "--quality", "101"], "101 is no JPEG quality"),
        (["--quality", "90"], "Add --long-side or --short-side"),
        (["--workers", "0"], "0 threads do nothing"),
        (["--shard-mb", "0"], "a shard is larger than 0 MB"),
    ],
)
def test_options_that_make_no_sense_are_answered(
    odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert main(["data", "pack", "imagefolder", str(odd), str(tmp_path / "out"), *arguments]) == 2

    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_makes_images_smaller(odd: Path, tmp_path: Path) -> None:
    arguments = ["--short-side", "30", "--quality", "80", "--workers", "2"]

    assert main(["data", "pack", "imagefolder", str(odd), str(tmp_path / "out"), *arguments]) == 0

    expected = cv2.resize(smooth(90, 120), (40, 30), interpolation=cv2.INTER_AREA)
    pixels = decode_image(components(tmp_path / "out/train")["a/deep"]["jpg"], "jpg")
    assert pixels.shape == expected.shape and abs(pixels.astype(int) - expected).mean() < 4


def test_a_class_folder_without_images_is_no_class_and_said(odd: Path, tmp_path: Path) -> None:
    (odd / "Empty").mkdir()
    (odd / "b").mkdir()
    (odd / "b" / "notes.txt").touch()
    said: list[str] = []

    pack("imagefolder", odd, tmp_path / "out", say=said.append)

    assert Dataset.open(tmp_path / "out/train").classes == ["a"]
    assert "no class, for it has no images: Empty, b" in said


def test_files_that_hold_no_image_are_left_out_and_named(odd: Path, tmp_path: Path) -> None:
    (odd / "a/empty.jpg").touch()
    (odd / "a/page.png").write_text("<html>not found</html>")
    said: list[str] = []

    pack("imagefolder", odd, tmp_path / "out", say=said.append)

    assert len(components(tmp_path / "out/train")) == 5
    assert "train: left out 2 images that can't be read as an image:" in said
    assert "  a/empty.jpg: no data" in said


def test_nothing_but_files_that_hold_no_image_is_no_corpus(tmp_path: Path) -> None:
    (tmp_path / "src/a").mkdir(parents=True)
    (tmp_path / "src/a/empty.jpg").touch()

    with pytest.raises(UserError, match="there are no samples to pack"):
        pack("imagefolder", tmp_path / "src", tmp_path / "out", say=silent)

    assert [path.name for path in tmp_path.iterdir()] == ["src"]


# --- Tiny ImageNet ---


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Two classes, in wnids.txt in the other order, as in the original."""
    src = tmp_path / "tiny-imagenet-200"
    for wnid in ("n02", "n01"):
        (src / "train" / wnid / "images").mkdir(parents=True)
        (src / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
        for i in range(3):
            cv2.imwrite(str(src / "train" / wnid / "images" / f"{wnid}_{i}.JPEG"), smooth(8 + i, 9))
    (src / "val/images").mkdir(parents=True)
    (src / "test/images").mkdir(parents=True)
    for i in range(2):
        cv2.imwrite(str(src / f"val/images/val_{i}.JPEG"), smooth(20 + i, 9))
    (src / "val/val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n")
    (src / "wnids.txt").write_text("n02\nn01\n")
    return src


def test_tiny_imagenet_is_packed_as_it_is_downloaded(tiny: Path, tmp_path: Path) -> None:
    said: list[str] = []

    pack("tiny-imagenet", tiny, tmp_path / "out", say=said.append)

    train, val = components(tmp_path / "out/train"), components(tmp_path / "out/val")
    assert {key: int(each["cls"]) for key, each in train.items()} == {
        f"{wnid}/{wnid}_{i}": label for label, wnid in enumerate(("n01", "n02")) for i in range(3)
    }
    assert {key: int(each["cls"]) for key, each in val.items()} == {"n02/val_0": 1, "n01/val_1": 0}
    assert val["n02/val_0"]["jpeg"] == (tiny / "val/images/val_0.JPEG").read_bytes()
    assert Dataset.open(tmp_path / "out/val").classes == ["n01", "n02"]
    assert "left out the test set: it has no labels" in said


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ("val_0.JPEG\tn02\t0\t0\t9\t9\n", r"val_1\.JPEG is not in val_annotations\.txt"),
        ("val_0.JPEG\tn02\nval_1.JPEG\tn01\nval_2.JPEG\tn01\n", r"val_2\.JPEG is missing"),
        ("val_0.JPEG\tn02\nval_1.JPEG\tn07\n", r"val_annotations\.txt:2: 'val_1\.JPEG' 'n07' is no folder of train"),
        ("val_0.JPEG\n", r"val_annotations\.txt:1: 'val_0\.JPEG' has no class"),
        ("val_0.JPEG\tn02\nval_0.JPEG\tn02\n", r":2: 'val_0\.JPEG' comes twice"),
        ("../../secret.JPEG\tn02\n", r":1: '\.\./\.\./secret\.JPEG' is no file's name"),
    ],
)
def test_annotations_that_do_not_fit_are_answered(tiny: Path, tmp_path: Path, annotations: str, expected: str) -> None:
    (tiny / "val/val_annotations.txt").write_text(annotations)

    with pytest.raises(UserError, match=expected):
        pack("tiny-imagenet", tiny, tmp_path / "out", say=silent)


def test_a_folder_of_another_kind_is_answered(odd: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no train here(.|\n)*val_annotations\.txt"):
        pack("tiny-imagenet", odd, tmp_path / "out", say=silent)


def test_a_shard_counts_as_finished_as_soon_as_it_is_indexed(tmp_path):
    how = write.How(kind="t", classes=None, shard_bytes=1 << 20, shard_samples=30, smaller=None, workers=1)
    n_finished = []

    def samples(going):
        for i in range(100):
            deadline = time.monotonic() + 5
            while i == 80 and not going.n_finished and time.monotonic() < deadline:
                time.sleep(0.01)  # two shards are full at most: some 30 samples are made ahead
            n_finished.append(going.n_finished)
            yield {"__key__": f"{i}", "txt": "x"}

    with resumable_folder(tmp_path / "out") as going:
        going.begin({})
        write.write_split(samples(going), "train", going, how, lambda line: None)

        assert [each.entry.name for each in going.of("train")] == [f"{i:06}.tar" for i in range(4)]
    assert n_finished[80] >= 1
