"""A dataset of one's own instead of shards: any object with `__len__` and `__getitem__(i)`.

An item is (image, label) or {"image": ..., "label": ...}. The image is uint8, (height, width[, 1 or 3]), as a numpy
array or a torch tensor, or a PIL image, or the bytes of a file; the label is what the task's label rule takes as a
value. So torch datasets work as they are, without their transforms to tensors. `__getitem__` is called from several
threads (data.workers), and an exception in it makes a bad sample. `classes` (names) and `targets` (all labels) are used
if the object has them.
"""

import json
import sys
import traceback
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from distdl import registry
from distdl.config.sources import SourceConfig
from distdl.data.samples import BadSample, Example, Pixels
from distdl.errors import UserError
from distdl.run import exhausted

_READY_MODES = ("L", "RGB")  # of PIL: one byte a channel, and nothing to look up


class OwnDataset:
    """Made by `open`. Samples have no shards: as far as the sample plan goes, they lie in one."""

    def __init__(self, items: Any, name: str, identity: str) -> None:
        self.path, self.identity, self._items = name, identity, items
        self.n_samples = len(items)
        self.sizes: npt.NDArray[np.int64] = np.array([self.n_samples], np.int64)
        self.classes: list[str] | None = getattr(items, "classes", None)

    @classmethod
    def open(cls, split: SourceConfig, where: str) -> "OwnDataset":
        """Calls the function or class that `split.dataset` names. Raises UserError if that is no dataset, or empty."""
        return cls.of(items_of(split), split, where)

    @classmethod
    def of(cls, items: Any, split: SourceConfig, where: str) -> "OwnDataset":
        where = f"{where}.dataset: {split.dataset}"
        if not is_indexed(items):
            fix = "Name a function or class that returns an object with both: its length, and item i."
            if hasattr(items, "__iter__"):
                fix = "An iterable serves for training alone, where its order is not told. Name its shards by `shards`."
            raise UserError(f"this is a {type(items).__name__} without __len__ or __getitem__", where=where, fix=fix)
        if len(items) == 0:
            raise UserError("there are no samples in it", where=where)
        return cls(items, str(split.dataset), identity(split, len(items)))

    def example(self, sample_id: int, key: int = 0) -> Example:
        """Raises BadSample if the item can't be had, and UserError if it is not an image with a label."""
        key_of = f"item {sample_id}"
        try:
            item = self._items[sample_id]
        except Exception as error:  # the user's code, whose way to say "this one is damaged" this is
            raise given_up(error, self.path, key_of) from error
        return example_of(item, self.path, key_of)

    def labels(self) -> list[Any]:
        """The labels of all samples, which takes every image where the object has no `targets`; None for bad ones."""
        targets = getattr(self._items, "targets", None)
        if targets is not None and len(targets) == self.n_samples:
            return list(targets)
        found: list[Any] = []
        for sample_id in range(self.n_samples):
            try:
                found.append(self.example(sample_id).label)
            except BadSample:
                found.append(None)
        return found

    def announce(self, sample_ids: list[int]) -> None:
        """Items come when they are asked for."""

    def advance(self) -> None:
        """Files and items come when they are asked for."""

    def close(self) -> None:
        """There is nothing of ours to close."""


def given_up(error: Exception, source: str, key: str, by: str = "") -> BadSample:
    """The sample for which code of one's own raised this; `by`: what it is called, if it is not the source itself.

    Raises the error if memory or descriptors ran out: that says nothing about the sample.
    """
    if exhausted.of_error(error):
        raise error
    inside = error.__traceback__ and error.__traceback__.tb_next  # below the call
    text = "".join(traceback.format_exception(type(error), error, inside)) if inside else ""
    return BadSample(source, key, "", f"{by}{type(error).__name__}: {error}", own_code=True, traceback=text)


def items_of(split: SourceConfig) -> Any:
    """What the function or class that `split.dataset` names returns."""
    assert split.dataset is not None, "a split has shards or a dataset"
    function = registry.resolve(split.dataset, registry.DATASETS, "dataset")
    return registry.call_with_args(function, split.args, f"dataset '{split.dataset}'")


def is_indexed(items: Any) -> bool:
    """Whether item i can be asked for. torch's IterableDataset inherits a __getitem__ that only raises."""
    if not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
        return False
    torch_data = sys.modules.get("torch.utils.data")  # imported by whoever has made one of its datasets
    return torch_data is None or not isinstance(items, torch_data.IterableDataset)


def identity(split: SourceConfig, n_samples: int) -> str:
    what = json.dumps([split.dataset, split.args, n_samples], sort_keys=True)
    return xxhash.xxh3_128_hexdigest(what.encode())


def example_of(item: Any, source: str, key: str) -> Example:
    """Raises BadSample for an image that can't be decoded, and UserError for what is not an image with a label."""
    name = f"{key} of {source}"
    if isinstance(item, dict):
        image, label = item.get("image"), item.get("label")
    elif isinstance(item, tuple | list) and len(item) == 2:
        image, label = item
    else:
        raise UserError(
            f"{name} is a {type(item).__name__}",
            fix='An item is (image, label) or {"image": image, "label": label}.',
        )
    return Example(name, image_of(image, source, key), label, key=key, shard=source)


def image_of(image: Any, source: str, key: str, component: str = "") -> bytes | Pixels:
    """Of a file's bytes, an array, a tensor or a PIL image.

    Raises BadSample if it is damaged, UserError if it isn't uint8 pixels.
    """
    if isinstance(image, bytes):
        return image
    try:  # PIL decodes an image when it is first asked for its pixels
        if hasattr(image, "mode") and hasattr(image, "convert") and image.mode not in _READY_MODES:
            image = image.convert("RGB")
        pixels = np.asarray(image)
    except Exception as error:
        if exhausted.of_error(error):
            raise
        raise BadSample(source, key, component, f"{type(error).__name__}: {error}") from error
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise UserError(
            f"the image of {key} of {source} is {pixels.dtype} of shape {pixels.shape}",
            fix="Images are uint8, (height, width) or (height, width, 1 or 3), before any normalisation; "
            "transforms belong into the config.",
        )
    return pixels
