"""What a trained network makes of its first evaluation set: its mistakes, and the images that they were made on.

    checkpoint -> network -> outputs for samples spread evenly over the set -> who was mistaken for whom, how surely
    -> the images of the few samples that are worth showing, read a second time

Which of the kinds below a task gives is told by its metrics: one that reports `top1` has classes.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distdl.comm.world import WorldInfo
from distdl.data.engine import Loader
from distdl.data.order import Rows
from distdl.data.pictures.image import Pixels
from distdl.errors import UserError
from distdl.report.calibration import Calibration, calibration
from distdl.report.utterances import Heard, Transcribed, heard_of, transcribed
from distdl.trainer import setup, sounds
from distdl.trainer.step import forward
from distdl.trainer.trained import Trained, of_run

MOST_CLASSES_IN_MATRIX = 50
N_WRONG, N_RIGHT = 24, 12
N_PAIRS, N_EXAMPLES_OF_PAIR = 8, 4
N_SHOWN = 12
N_HARDEST = 10
MOST_POINTS = 2000

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    truth: str
    prediction: str
    confidence: float  # softmax of the prediction
    image: Pixels
    heard: Heard | None = None  # where it is a sound, of which the image is a picture


@dataclass(frozen=True, slots=True)
class Confused:
    """Samples of one class that were all taken for the same other one."""

    truth: str
    prediction: str
    count: int
    n_of_truth: int
    examples: list[Example]


@dataclass(frozen=True, slots=True)
class OfClass:
    name: str
    n_right: int
    n_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    classes: list[str]
    n_right: int
    n_in_best_five: int
    n_samples: int
    calibration: Calibration
    hardest: list[OfClass]  # the least right first
    matrix: Array | None  # counts (truth, prediction); None if there are too many classes to show
    pairs: list[Confused]  # most frequent first
    wrong: list[Example]  # most confident first
    right: list[Example]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regressed:
    """Truth and prediction of the first value, thinned; figures over all samples and values."""

    truth: Array
    prediction: Array
    mean_absolute_error: float
    r2: float  # share of the variance that is explained, a mean over the values


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A few inputs, and what the network makes of them where that is an image too."""

    inputs: list[Pixels]
    outputs: list[Pixels]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    set_name: str
    step: int | None
    averaged_weights: bool
    n_in_set: int
    n_looked_at: int
    what: Classified | Regressed | Shown | Transcribed


def load(run: str, step: str | None, warn: Callable[[str], None]) -> Trained:
    """A run's network on whatever device is here. Raises UserError where the checkpoint can't be had."""
    trained = of_run(run, step, ["train.device=auto", "train.compile=false"], warn=warn)
    setup.set_threads_and_kernels(trained.config.train, WorldInfo())
    return trained


def look(trained: Trained, n_samples: int) -> Findings:
    """At most `n_samples` samples. Raises UserError where the data can't be had."""
    with ExitStack() as closing_all:
        loaders = trained.eval_loaders()
        for each in loaders.values():
            closing_all.callback(each.close)
        set_name, loader = next(iter(loaders.items()))
        n_in_set = loader.dataset.n_samples
        ids = spread(n_in_set, n_samples)
        return Findings(
            set_name=set_name,
            step=trained.step,
            averaged_weights=trained.averaged_weights,
            n_in_set=n_in_set,
            n_looked_at=len(ids),
            what=_kind_of(trained)(trained, loader, ids),
        )


def spread(n: int, most: int) -> npt.NDArray[np.int64]:
    """At most `most` of the numbers 0 .. n-1, evenly apart."""
    n_taken = min(n, most)
    return np.arange(n_taken, dtype=np.int64) * n // max(1, n_taken)


Look = Callable[[Trained, Loader, Array], Classified | Regressed | Shown | Transcribed]


def _kind_of(trained: Trained) -> Look:
    if "top1" in trained.task.metric_names:
        return classified
    if trained.config.data.sound:
        return transcribed if hasattr(trained.task, "transcribe") else unseen
    return _OTHER_TASKS.get(trained.config.task.name, shown)


# --- classes ---


def classified(trained: Trained, loader: Loader, ids: Array) -> Classified:
    found = _collect(trained, loader, ids, _verdicts)
    truth, prediction, confidence = found["truth"], found["prediction"], found["confidence"]
    if not len(truth):
        raise UserError("none of these samples can be decoded", where=loader.where)
    n_classes = int(found["n_classes"][0])
    names = [*map(str, loader.dataset.classes or ())]
    names += map(str, range(len(names), n_classes))

    # Places in these arrays of what is shown.
    is_right = truth == prediction
    surest_first = np.argsort(-confidence, kind="stable")
    wrong = surest_first[~is_right[surest_first]]
    right = np.flatnonzero(is_right)[spread(int(is_right.sum()), N_RIGHT)]
    cell = truth * n_classes + prediction
    cells, counts = np.unique(cell[wrong], return_counts=True)
    most_frequent = np.argsort(-counts, kind="stable")[:N_PAIRS]
    of_pair = [wrong[cell[wrong] == each][:N_EXAMPLES_OF_PAIR] for each in cells[most_frequent]]
    wrong = wrong[:N_WRONG]
    shown_ids = found["sample_id"][np.concatenate([wrong, right, *of_pair])]
    heard = heard_of(loader, shown_ids) if loader.sounds else {}
    image_of = {sample: each.image for sample, each in heard.items()} or _images(loader, shown_ids)

    def examples(places: Array) -> list[Example]:
        return [
            Example(
                truth=names[truth[i]],
                prediction=names[prediction[i]],
                confidence=float(confidence[i]),
                image=image_of[int(found["sample_id"][i])],
                heard=heard.get(int(found["sample_id"][i])),
            )
            for i in places
        ]

    def pair(places: Array, count: int) -> Confused:
        true, said = truth[places[0]], prediction[places[0]]
        n_of_truth = int((truth == true).sum())
        return Confused(names[true], names[said], count, n_of_truth, examples(places))

    matrix = None
    if n_classes <= MOST_CLASSES_IN_MATRIX:
        matrix = np.bincount(cell, minlength=n_classes**2).reshape(n_classes, n_classes)
    return Classified(
        classes=names[:n_classes],
        n_right=int(is_right.sum()),
        n_in_best_five=int(found["in_best_five"].sum()),
        n_samples=len(truth),
        calibration=calibration(confidence, is_right),
        hardest=_hardest(names, truth, is_right),
        matrix=matrix,
        pairs=[pair(places, int(counts[i])) for places, i in zip(of_pair, most_frequent)],
        wrong=examples(wrong),
        right=examples(right),
    )


def _hardest(names: list[str], truth: Array, is_right: Array) -> list[OfClass]:
    """The classes of which the smallest share is right, as far as there are samples of them."""
    counts, rights = np.bincount(truth), np.bincount(truth, weights=is_right)
    there = np.flatnonzero(counts)
    order = there[np.argsort(rights[there] / counts[there], kind="stable")][:N_HARDEST]
    return [OfClass(names[i], int(rights[i]), int(counts[i])) for i in order]


def _verdicts(logits_BC: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    confidence, prediction = logits_BC.float().softmax(dim=1).max(dim=1)
    best = logits_BC.topk(min(5, logits_BC.shape[1]), dim=1).indices
    return {
        "truth": batch["label"],
        "prediction": prediction,
        "confidence": confidence,
        "in_best_five": (best == batch["label"][:, None]).any(dim=1),
        "n_classes": torch.full_like(prediction, logits_BC.shape[1]),
    }


# --- other tasks ---


def regressed(trained: Trained, loader: Loader, ids: Array) -> Regressed:
    found = _collect(trained, loader, ids, lambda outputs, batch: {"truth": batch["label"], "prediction": outputs})
    truth, prediction = (
        found[name].reshape(len(found[name]), -1).astype(np.float64) for name in ("truth", "prediction")
    )
    explained = 1 - ((truth - prediction) ** 2).mean(axis=0) / np.maximum(truth.var(axis=0), np.finfo(float).tiny)
    few = spread(len(truth), MOST_POINTS)
    return Regressed(
        truth=truth[few, 0],
        prediction=prediction[few, 0],
        mean_absolute_error=float(abs(truth - prediction).mean()),
        r2=float(explained.mean()),
    )


def reconstructed(trained: Trained, loader: Loader, ids: Array) -> Shown:
    few = ids[spread(len(ids), N_SHOWN)]
    found = _collect(trained, loader, few, lambda outputs, batch: {"output": outputs.reshape_as(batch["image"])})
    output_BHWC = found["output"].transpose(0, 2, 3, 1) * loader.normalise.std + loader.normalise.mean
    pixels = (output_BHWC.clip(0, 1) * 255).round().astype(np.uint8)
    return Shown(inputs=list(_images(loader, found["sample_id"]).values()), outputs=list(pixels))


def shown(trained: Trained, loader: Loader, ids: Array) -> Shown:
    return Shown(inputs=list(_images(loader, ids[spread(len(ids), N_SHOWN)]).values()), outputs=[])


def unseen(trained: Trained, loader: Loader, ids: Array) -> Shown:
    """Of a task that nothing is known of how to show: nothing."""
    return Shown(inputs=[], outputs=[])


_OTHER_TASKS: dict[str, Look] = {"regress": regressed, "autoencode": reconstructed}


# --- passing samples through ---

Take = Callable[[Tensor, dict[str, Tensor]], dict[str, Tensor]]


@torch.inference_mode()
def _collect(trained: Trained, loader: Loader, ids: Array, take: Take) -> dict[str, Array]:
    """What `take(outputs, batch)` keeps of each batch, and `sample_id`: an array each, of the rows that count."""
    parts: list[dict[str, Array]] = []
    with closing(loader.stream(_batches(ids, trained.config.train.eval_batch))) as batches:
        for host in batches:
            for piece in sounds.pieces(host.tensors, loader.sounds):
                outputs, batch = forward(trained.model, piece, loader, trained.device, trained.config.train)
                kept = take(outputs, batch) | {"sample_id": piece["sample_id"]}
                valid = piece["valid"].numpy() > 0
                parts.append({name: _array(tensor)[valid] for name, tensor in kept.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _array(tensor: Tensor) -> Array:
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()  # numpy knows no bf16


def _images(loader: Loader, ids: Iterable[int]) -> dict[int, Pixels]:
    """Sample id -> its image after the transforms, before normalisation."""
    found: dict[int, Pixels] = {}
    wanted = np.array(list(dict.fromkeys(map(int, ids))), np.int64)
    with closing(loader.stream(_batches(wanted, 64))) as batches:
        for host in batches:
            found |= zip(host.tensors["sample_id"].tolist(), host.tensors["image"].numpy())
    return found


def _batches(ids: Array, rows_per_batch: int) -> Iterable[Rows]:
    return (Rows.of(ids[begin : begin + rows_per_batch]) for begin in range(0, len(ids), rows_per_batch))
