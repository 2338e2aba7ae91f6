"""The classes of ImageNet's validation images, which come without folders: ILSVRC2012_val_00000001.JPEG -> wnid.

Found in one of these, wherever it is given or lies beside the images:

    LOC_val_solution.csv (Kaggle), or any text whose lines name an image and then its wnid
    imagenet_2012_validation_synset_labels.txt, or any text with a wnid a line, in the order of the images' numbers
    ILSVRC2012_devkit_t12.tar.gz, or what it unpacks to: ILSVRC2012_validation_ground_truth.txt has a number for each
    image, and meta.mat says which wnid has that number. Numbers and wnids are not in the same order.
"""

import io
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distdl.errors import UserError

_DEVKIT = "ILSVRC2012_devkit_t12"
_NUMBERS = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"
_KNOWN_FILES = (
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    _NUMBERS,
    f"{_DEVKIT}/data/{_NUMBERS}",
    f"data/{_NUMBERS}",
    f"{_DEVKIT}.tar.gz",
)
_LARGEST_FILE = 1 << 26  # bytes
_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\b")
_WNID = re.compile(r"\bn\d{8}\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundTruth:
    where: str
    wnids: Mapping[int, str]  # by the number in an image's name

    def of(self, name: str) -> str:
        """The wnid of an image, by its file's name. Raises UserError where it is not known."""
        match = _IMAGE.match(name)
        if not match:
            raise UserError(f"'{name}' is no name of a validation image, ILSVRC2012_val_00000001.JPEG and so on")
        wnid = self.wnids.get(int(match[1]))
        if wnid is None:
            raise UserError(f"it has no class for {name}", where=self.where)
        return wnid


def read(places: Sequence[Path], given: Path | None) -> GroundTruth:
    """Raises UserError where there is none, or it can't be understood."""
    candidates = [given] if given else [place / name for place in places for name in _KNOWN_FILES]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise UserError(
            f"there is no '{given}'" if given else "the validation images have no classes",
            where="command line --val-labels" if given else str(places[0]),
            fix=f"Put {_DEVKIT}.tar.gz or LOC_val_solution.csv beside them, sort them into val/<wnid>/, "
            "or name a list of their classes: --val-labels FILE.",
        )
    try:
        if path.suffix in (".gz", ".tgz"):
            return _from_devkit(path)
        text = path.read_text()
        meta = path.parent / _META
        meta_content = meta.read_bytes() if meta.is_file() and not _WNID.search(text) else None
    except (OSError, UnicodeDecodeError, EOFError, tarfile.TarError) as error:
        raise UserError(f"can't read it: {error}", where=str(path)) from error
    return _from_text(text, meta_content, str(path))


def _from_devkit(path: Path) -> GroundTruth:
    """Reads the two files of the archive into memory; nothing is extracted."""
    files: dict[str, bytes] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            name = Path(member.name).name
            if name in (_NUMBERS, _META) and member.isreg() and member.size <= _LARGEST_FILE:
                content = tar.extractfile(member)
                assert content is not None, "it is a regular file"
                files[name] = content.read()
    if _NUMBERS not in files:
        raise UserError(f"there is no {_NUMBERS} in it", where=str(path), fix=f"Is it {_DEVKIT}.tar.gz?")
    return _from_text(files[_NUMBERS].decode("utf-8", "replace"), files.get(_META), str(path))


def _from_text(text: str, meta: bytes | None, where: str) -> GroundTruth:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError("it is empty", where=where)
    if lines[0].strip().isdigit():
        return _from_numbers(lines, meta, where)
    if _IMAGE.search(text):
        named = [(image, wnid) for line in lines if (image := _IMAGE.search(line)) and (wnid := _WNID.search(line))]
        return GroundTruth(where=where, wnids={int(image[1]): wnid[0] for image, wnid in named})
    wnids: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        match = _WNID.match(line.strip())
        if not match:
            raise UserError(f"'{line.strip()[:40]}' is no WordNet id such as n01440764", where=f"{where}:{number}")
        wnids[number] = match[0]
    return GroundTruth(where=where, wnids=wnids)


def _from_numbers(lines: list[str], meta: bytes | None, where: str) -> GroundTruth:
    if meta is None:
        raise UserError(
            f"its numbers mean nothing without the devkit's {_META}", where=where, fix="Put it into the same folder."
        )
    wnid_of = _wnids_by_number(meta, where)
    wnids: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        wnid = wnid_of.get(int(line)) if line.strip().isdigit() else None
        if wnid is None:
            raise UserError(f"'{line.strip()[:40]}' is no class of {_META}", where=f"{where}:{number}")
        wnids[number] = wnid
    return GroundTruth(where=where, wnids=wnids)


def _wnids_by_number(meta: bytes, where: str) -> dict[int, str]:
    """The numbers 1 to 1000 of the ground truth, from MATLAB's table of synsets."""
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError:
        raise UserError(
            f"the devkit's {_META} is a file of MATLAB's, and scipy is not installed",
            where=where,
            fix="pip install scipy, or name a list of wnids: --val-labels FILE.",
        ) from None
    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        return dict(zip(map(int, synsets["ILSVRC2012_ID"]), map(str, synsets["WNID"])))
    except Exception as error:  # a damaged file can raise whatever scipy likes
        raise UserError(f"can't understand its {_META}: {error}", where=where) from error
