"""`distdl predict`: what a trained network makes of image files, the way its run evaluates.

files -> a dataset of their bytes -> the transforms of the run's first evaluation split -> network -> the best classes

A picture that these transforms leave of another size than the run's images is resized to theirs as well.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from distdl import registry
from distdl.config.sources import SplitConfig
from distdl.data.engine import Loader
from distdl.data.order import Rows
from distdl.data.own import OwnDataset
from distdl.data.pictures import transforms
from distdl.data.pictures.image import Pixels, decode_image, is_image
from distdl.data.workers import Threads
from distdl.errors import UserError
from distdl.trainer.step import forward
from distdl.trainer.trained import Trained


@dataclass(frozen=True, slots=True)
class Guess:
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of a file: the best classes, the best first; or none and the reason, if it can't be decoded."""

    file: str
    guesses: list[Guess]
    problem: str | None = None


class Files:
    """Images by number, as the dataset of one's own that `OwnDataset` reads. Of colour ones a grey network sees their
    luma (ITU-R BT.601)."""

    def __init__(self, paths: Sequence[Path], is_grey: bool) -> None:
        self.paths, self.is_grey = paths, is_grey

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[bytes | Pixels, None]:
        data = self.paths[number].read_bytes()
        pixels = decoded(data, self.paths[number])
        if self.is_grey and pixels.shape[2] == 3:
            return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[:, :, None].astype(np.uint8), None
        return data, None  # decoded in one with its transforms, as an evaluation does


def decoded(data: bytes, path: Path) -> Pixels:
    return decode_image(data, path.suffix[1:].lower())


def problem_of(path: Path) -> str | None:
    """Why the file is no image that can be used, if so."""
    try:
        decoded(path.read_bytes(), path)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def images_at(paths: Sequence[Path]) -> list[Path]:
    """The files, and the images in the folders. Raises UserError for what is not there and for no image."""
    return files_at(paths, _may_be_image, "images")


def files_at(paths: Sequence[Path], is_one: Callable[[str], bool], what: str) -> list[Path]:
    """The files, and those in the folders whose extension says that they are `what`, by name. Raises UserError."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if is_one(each.suffix[1:].lower()))
            if not inside:
                raise UserError(f"there are no {what} in this folder", where=str(path))
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError("there is no such file", where=str(path))
    return found


def _may_be_image(extension: str) -> bool:
    return is_image(extension) or extension in ("tif", "tiff", "gif")


@torch.inference_mode()
def predict(trained: Trained, files: Sequence[Path], n_best: int) -> list[Prediction]:
    """A prediction per file, in their order, with at most `n_best` classes each.

    Raises UserError for a network without classes, and for a run whose config evaluates nothing.
    """
    if "top1" not in trained.task.metric_names:
        what = "predictions are shown of networks that tell one set of classes apart"
        raise UserError(what, where=f"task.name: {trained.config.task.name}")
    split = evaluated_split(trained)
    problems = {path: problem for path in dict.fromkeys(files) if (problem := problem_of(path))}
    good = [path for path in dict.fromkeys(files) if path not in problems]
    guesses = dict(_guesses(trained, _sized(split, trained), good, n_best)) if good else {}
    return [Prediction(str(path), guesses.get(path, []), problems.get(path)) for path in files]


def _guesses(
    trained: Trained, split: SplitConfig, files: Sequence[Path], n_best: int
) -> Iterator[tuple[Path, list[Guess]]]:
    names = trained.classes or []
    with registry.using(trained.own_code):
        built, normalise = transforms.build(split.transforms, "data.eval")
    is_grey = len(built) < len(split.transforms) and len(normalise.mean) == 1
    dataset = OwnDataset(Files(files, is_grey), "the files", "")
    with registry.using(trained.own_code), closing(_loader(dataset, split)) as loader:
        n_rows = trained.config.train.eval_batch
        ids = np.arange(len(files), dtype=np.int64)
        steps = [Rows.of(ids[begin : begin + n_rows]) for begin in range(0, len(files), n_rows)]
        for rows, host in zip(steps, loader.stream(steps)):
            logits, _ = forward(trained.model, host.tensors, loader, trained.device, trained.config.train)
            best = logits.float().softmax(dim=1).topk(min(n_best, logits.shape[1]), dim=1)
            for sample_id, values, classes in zip(rows.sample_id.tolist(), best.values.tolist(), best.indices.tolist()):
                labels = [names[each] if each < len(names) else str(each) for each in classes]
                yield files[sample_id], [Guess(*each) for each in zip(labels, values)]


def evaluated_split(trained: Trained) -> SplitConfig:
    for split in trained.config.data.eval_sets.values():
        return split
    raise UserError(
        "the config names no evaluation split, whose transforms would tell how images are prepared",
        where="data.eval",
        fix="Add data.eval.transforms, and any data.eval.shards.",
    )


def _sized(split: SplitConfig, trained: Trained) -> SplitConfig:
    if trained.image_shape is None:
        return split
    found = list(split.transforms)
    n_before = len(found) - 1 if found and "normalise" in found[-1] else len(found)
    found.insert(n_before, {"resize": list(trained.image_shape[:2])})
    return split.model_copy(update={"transforms": found})


def _loader(dataset: OwnDataset, split: SplitConfig) -> Loader:
    return Loader(
        dataset,
        split.model_copy(update={"stages": []}),
        workers=Threads(0),
        prefetch=1,
        where="data.eval",
        label=None,
        augmentation_seed=None,
        bad_sample="mask",
    )


def as_text(predictions: Sequence[Prediction]) -> str:
    lines: list[str] = []
    for prediction in predictions:
        lines.append(prediction.file + (f": {prediction.problem}" if prediction.problem else ""))
        lines += [f"  {100 * guess.probability:6.2f} %  {guess.label}" for guess in prediction.guesses]
    return "\n".join(lines)
