"""How long the sounds of a dataset are, by sample id, without decoding them: what batches are planned with.

Shards packed or indexed by distdl have it in dataset.json, a manifest says it itself. Of plain tars and of folders the
headers are read once, and what they say is kept in this user's cache folder, by the dataset's identity.
"""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from distdl.data.audio import file_length, is_audio, part_of
from distdl.data.corpus import sound_column
from distdl.data.corpus.dataset import CorruptSample, Dataset
from distdl.data.corpus.folder import FolderDataset
from distdl.data.corpus.manifest import ManifestDataset
from distdl.data.mixture import Mixture, Source
from distdl.data.own import OwnDataset
from distdl.data.samples import Stored
from distdl.errors import UserError
from distdl.run.folder import write_atomic
from distdl.run.places import user_cache

_READERS = 8  # threads: what is waited for is the disk, or the network

Int64s = npt.NDArray[np.int64]


class SoundLengths(NamedTuple):
    """By sample id; 0 in both where a sample has no sound, or none whose header can be read."""

    n_samples: Int64s  # of each channel
    rate_hz: Int64s

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        return self.n_samples / np.maximum(self.rate_hz, 1)


def lengths(dataset: Stored | Mixture) -> SoundLengths:
    """Raises UserError where the dataset has no sounds, for lengths in dataset.json that are not of its shards, and for
    a dataset of one's own in a mixture, which would have to be read."""
    if isinstance(dataset, Mixture):
        parts = [lengths(_with_lengths(name, source)) for name, source in dataset.sources.items()]
        return SoundLengths(*map(np.concatenate, zip(*parts)))
    found = listed(dataset) or _of_headers(dataset)
    if not found.n_samples.any():
        raise UserError("there is no sound in it", where=dataset.path)
    return found


def _with_lengths(name: str, source: Source) -> Stored:
    if isinstance(source, OwnDataset):
        raise UserError(
            "the lengths of its sounds are not known before they are read",
            where=f"data.train.mixture.{name}",
            fix="Mix shards and manifests.",
        )
    return source


def listed(dataset: Stored) -> SoundLengths | None:
    """As dataset.json or the manifest says; None unless it is known of all samples. Raises UserError as `lengths`."""
    if isinstance(dataset, ManifestDataset):
        is_whole = bool((dataset.n_listed * dataset.rates_listed_hz > 0).all())
        return SoundLengths(dataset.n_listed, dataset.rates_listed_hz) if is_whole else None
    if isinstance(dataset, FolderDataset) or not all(shard.sounds or not shard.n_samples for shard in dataset.shards):
        return None
    parts = [sound_column.arrays_of(shard.sounds, shard.n_samples, str(shard.tar)) for shard in dataset.shards]
    return SoundLengths(*map(np.concatenate, zip(*parts)))


def _of_headers(dataset: Stored) -> SoundLengths:
    kept = user_cache() / "sound_lengths" / f"{dataset.identity}.safetensors"
    if (found := _kept(kept, dataset.n_samples)) is not None:
        return found
    of_sample = _of_file(dataset) if isinstance(dataset, ManifestDataset) else _of_component(dataset)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="lengths") as pool:
        pairs = np.array(list(pool.map(of_sample, range(dataset.n_samples))), np.int64).reshape(-1, 2)
    found = SoundLengths(np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]))
    with contextlib.suppress(OSError):  # where nothing can be kept they are read again the next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, save(found._asdict()))
    return found


OfSample = Callable[[int], tuple[int, int]]
"""sample id -> (samples, rate in Hz); (0, 0) where it can't be known"""


def _of_component(dataset: Dataset | FolderDataset) -> OfSample:
    def of_sample(sample_id: int) -> tuple[int, int]:
        shard, row = dataset.locate(sample_id)
        try:
            components = dataset.read(shard, row, only=list(filter(is_audio, dataset.extensions(shard)))).components
        except CorruptSample:
            return 0, 0
        name = next(filter(is_audio, components), None)
        return sound_column.of_bytes(components[name]) if name else (0, 0)

    return of_sample


def _of_file(dataset: ManifestDataset) -> OfSample:
    of_path = lru_cache(maxsize=1024)(file_length)  # parts of one file follow one another

    def of_sample(sample_id: int) -> tuple[int, int]:
        utterance = dataset.utterance(sample_id)
        try:
            there = of_path(utterance.path)
            begin, end = part_of(utterance.begin_s, utterance.duration_s, there.n_samples, there.rate_hz)
        except ValueError:
            return 0, 0
        return end - begin, there.rate_hz

    return of_sample


def _kept(path: Path, n_samples: int) -> SoundLengths | None:
    try:
        columns = load(path.read_bytes())
        found = SoundLengths(columns["n_samples"], columns["rate_hz"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return found if len(found.n_samples) == len(found.rate_hz) == n_samples else None
