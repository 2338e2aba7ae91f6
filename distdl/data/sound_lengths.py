"""How long the sounds of a dataset are, by sample id, without decoding them: what batches are planned with.

Shards packed or indexed by distdl have it in dataset.json, a manifest says it itself. Of plain tars and of folders the
headers are read once, and what they say is kept in this user's cache folder, by the dataset's identity.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from distdl.data.audio import is_audio
from distdl.data.corpus import sound_column
from distdl.data.corpus.dataset import CorruptSample, Dataset
from distdl.data.corpus.folder import FolderDataset
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


def lengths(dataset: Dataset | FolderDataset) -> SoundLengths:
    """Raises UserError where the dataset has no sounds, and for lengths in dataset.json that are not of its shards."""
    found = _listed(dataset) if isinstance(dataset, Dataset) else None
    found = found or _of_headers(dataset)
    if not found.n_samples.any():
        raise UserError("there is no sound in it", where=dataset.path)
    return found


def _listed(dataset: Dataset) -> SoundLengths | None:
    """None unless all shards have it."""
    if not all(shard.sounds or not shard.n_samples for shard in dataset.shards):
        return None
    parts = [sound_column.arrays_of(shard.sounds, shard.n_samples, str(shard.tar)) for shard in dataset.shards]
    return SoundLengths(*map(np.concatenate, zip(*parts)))


def _of_headers(dataset: Dataset | FolderDataset) -> SoundLengths:
    kept = user_cache() / "sound_lengths" / f"{dataset.identity}.safetensors"
    if (found := _kept(kept, dataset.n_samples)) is not None:
        return found

    def of_sample(sample_id: int) -> tuple[int, int]:
        shard, row = dataset.locate(sample_id)
        wanted = [each for each in dataset.extensions(shard) if is_audio(each)]
        try:
            components = dataset.read(shard, row, only=wanted).components
        except CorruptSample:
            return 0, 0
        name = next(filter(is_audio, components), None)
        return sound_column.of_bytes(components[name]) if name else (0, 0)

    with ThreadPoolExecutor(_READERS, thread_name_prefix="lengths") as pool:
        pairs = np.array(list(pool.map(of_sample, range(dataset.n_samples))), np.int64).reshape(-1, 2)
    found = SoundLengths(np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]))
    with contextlib.suppress(OSError):  # where nothing can be kept they are read again the next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, save(found._asdict()))
    return found


def _kept(path: Path, n_samples: int) -> SoundLengths | None:
    try:
        columns = load(path.read_bytes())
        found = SoundLengths(columns["n_samples"], columns["rate_hz"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return found if len(found.n_samples) == len(found.rate_hz) == n_samples else None
