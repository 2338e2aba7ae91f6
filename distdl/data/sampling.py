"""data.sampling: the weight with which each sample of a corpus is drawn, where an epoch does not hold each once.

    balanced    1 / number of samples of its class, so that all classes come alike
    FILE        a text file with a number from 0 on for each sample, a line each, in the order of sample ids: shards
                sorted by name, and in each the order of its samples

Labels are read once and kept in `labels-COMPONENT-IDENTITY.bin` beside the shards' indexes, of shards elsewhere in this
user's cache: xxh3-64, then int64. A sample whose label can't be read is never drawn.
"""

import contextlib
import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from distdl.config.schema import DataConfig
from distdl.config.sources import SplitConfig
from distdl.data import labels
from distdl.data.corpus import catalog
from distdl.data.corpus.dataset import CorruptSample, Dataset
from distdl.data.corpus.folder import FolderDataset
from distdl.data.corpus.manifest import ManifestDataset
from distdl.data.draws import Float64s, Int64s
from distdl.data.own import OwnDataset
from distdl.data.samples import Stored
from distdl.errors import UserError, did_you_mean
from distdl.run.folder import write_atomic
from distdl.run.places import user_cache

_NAMES = ("natural", "balanced")
_READERS, _READERS_ELSEWHERE = 8, 32  # threads: what is waited for is the disk, or the network
_UNREADABLE = -1


def weights_of(config: DataConfig, dataset: Stored | OwnDataset) -> Float64s:
    """(N,) in the order of sample ids, where sampling is not natural.

    Raises UserError for labels that are not class numbers, and for an unfit file.
    """
    if config.sampling != "balanced":
        return _weights_in_file(Path(config.sampling), dataset.n_samples)
    if isinstance(dataset, FolderDataset):
        found = dataset.labels
    elif isinstance(dataset, OwnDataset):
        found = np.array([_class(label, f"item {i} of {dataset.path}") for i, label in enumerate(dataset.labels())])
    elif isinstance(dataset, ManifestDataset):
        raise UserError(
            "the utterances of a manifest have no classes",
            where="data.sampling: balanced",
            fix="Give a file of weights.",
        )
    else:
        found = _kept_labels(dataset, config.train)
    if (found == _UNREADABLE).all():
        raise UserError("no label can be read", where="data.sampling: balanced")
    _, of_class, counts = np.unique(found, return_inverse=True, return_counts=True)
    return np.where(found == _UNREADABLE, 0.0, 1.0 / counts[of_class])


def _weights_in_file(path: Path, n_samples: int) -> Float64s:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(
            f"can't read '{path}' as a file of weights: {reason}{did_you_mean(str(path), _NAMES)}",
            where="data.sampling",
            fix="It is natural, balanced, or a file with a number for each sample.",
        ) from None
    if len(lines) != n_samples:
        raise UserError(
            f"{len(lines)} weights for {n_samples} samples", where=str(path), fix="One a line, and no head."
        )
    weights = np.array([_weight(line) for line in lines])
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        line = int(wrong[0])
        raise UserError(f"'{lines[line][:40]}' is not a number from 0 on", where=f"{path}:{line + 1}")
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not 0 < total < math.inf:
        raise UserError("the weights add up to 0, or to more than a number can hold", where=str(path))
    return weights


def _weight(line: str) -> float:
    try:
        return float(line)
    except ValueError:
        return math.nan


# --- the labels of all samples ---


def _kept_labels(dataset: Dataset, split: SplitConfig) -> Int64s:
    """(N,) class numbers, _UNREADABLE where there is none: from the file that an earlier run left, or read anew."""
    name = f"labels-{split.label}-{dataset.identity}.bin"
    folders = [user_cache()] if dataset.streaming else catalog.index_folders(Path(dataset.path), split.index)
    paths = [folder / name for folder in folders]
    for path in paths:
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            digest, packed = content[:8], content[8:]
            if xxhash.xxh3_64_digest(packed) == digest and len(packed) == 8 * dataset.n_samples:
                return np.frombuffer(packed, "<i8")
    found = _read_labels(dataset, split.label)
    packed = found.astype("<i8").tobytes()
    with contextlib.suppress(OSError):  # where nothing can be written they are read again the next time
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        write_atomic(paths[0], xxhash.xxh3_64_digest(packed) + packed)
    return found


def _read_labels(dataset: Dataset, component: str) -> Int64s:
    def read(sample_id: int) -> int:
        try:
            sample = dataset.read(*dataset.locate(sample_id), only=(component,))
        except CorruptSample:
            return _UNREADABLE
        name = f"{sample.key} in {sample.shard}"
        return _class(sample.components.get(component), name)

    with ThreadPoolExecutor(_READERS_ELSEWHERE if dataset.streaming else _READERS) as pool:
        chunks = pool.map(
            lambda first: [read(i) for i in range(first, min(first + 1000, dataset.n_samples))],
            range(0, dataset.n_samples, 1000),
        )
        return np.fromiter(itertools.chain.from_iterable(chunks), np.int64, dataset.n_samples)


def _class(label: Any, name: str) -> int:
    if label is None:
        return _UNREADABLE
    try:
        return labels.class_number(None).parse(label)
    except ValueError as error:
        raise UserError(
            f"the label of {name} {error}: {label!r}",
            where="data.sampling: balanced",
            fix="Balanced draws need one class number a sample; give a file of weights instead.",
        ) from None
