"""Some samples from all over a corpus, to tell what is in it without reading it all."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from distdl.data.corpus.dataset import CorruptSample, Dataset, Sample
from distdl.data.inspect import LABEL
from distdl.errors import UserError

MOST, MOST_ELSEWHERE = 2000, 200  # samples whose components are read
READERS = 8  # threads: what is waited for is the network


def read(dataset: Dataset, shard: int, row: int, only: Iterable[str]) -> Sample:
    try:
        return dataset.read(shard, row, tuple(only))
    except CorruptSample as error:
        raise UserError(
            str(error), where=dataset.path, fix=f"`distdl data verify {dataset.path}` lists all that is damaged."
        ) from None


def spread_out(dataset: Dataset, most: int | None = None) -> list[int]:
    """Sample ids from all over the corpus."""
    most = most or (MOST_ELSEWHERE if dataset.streaming else MOST)
    return np.unique(np.linspace(0, dataset.n_samples - 1, most).astype(np.int64)).tolist()


def components_of(
    dataset: Dataset, sample_ids: list[int], is_kind: Callable[[str], bool]
) -> Iterator[tuple[Sample, str, bytes]]:
    """(sample with that component and its label, extension, bytes) of those that have an image, or a sound."""

    def read_one(sample_id: int) -> tuple[Sample, str, bytes] | None:
        shard, row = dataset.locate(sample_id)
        extension = next(filter(is_kind, dataset.index(shard).components(row)), None)
        if extension is None:
            return None
        sample = read(dataset, shard, row, (extension, LABEL))
        return sample, extension, sample.components[extension]

    with ThreadPoolExecutor(READERS) as pool:
        yield from filter(None, pool.map(read_one, sample_ids))
