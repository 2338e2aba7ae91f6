"""Several sources of samples as one dataset: `data.train.mixture`.

name -> dataset (shards, a folder of images, or a dataset of one's own), in the order of the names
sample ids count through the sources in turn; MixturePlan (distdl/data/mixture_order.py) says which comes when
MixedSamples asks each source for its own samples, by its own ids
"""

from collections.abc import Iterator, Mapping

import numpy as np
import xxhash

from distdl.config.sources import SourceConfig, TrainSplitConfig
from distdl.data.iterable import OwnIterable
from distdl.data.order import Int64s, Rows
from distdl.data.own import OwnDataset
from distdl.data.samples import IMAGE, Example, Kind, ShardSamples, Stored
from distdl.data.stages import StagedSamples
from distdl.errors import UserError

Source = Stored | OwnDataset


class Mixture:
    """Closes its sources."""

    def __init__(self, sources: dict[str, Source]) -> None:
        self.sources = dict(sorted(sources.items()))
        self.path = " + ".join(self.sources)
        self.classes: list[str] | None = None
        counts = [source.n_samples for source in self.sources.values()]
        self.ends: Int64s = np.cumsum(counts, dtype=np.int64)
        self._firsts = self.ends - counts
        self.n_samples = sum(counts)
        what = "".join(f"{name}\0{source.identity}\0" for name, source in self.sources.items())
        self.identity = xxhash.xxh3_128_hexdigest(what.encode())

    def locate(self, sample_id: int) -> tuple[str, int]:
        """Sample id -> name of its source, and its id there."""
        number = int(np.searchsorted(self.ends, sample_id, side="right"))
        return list(self.sources)[number], sample_id - int(self._firsts[number])

    def only(self, name: str, sample_ids: Int64s) -> Int64s:
        """Those of the samples that come from a source, by their ids there."""
        number = list(self.sources).index(name)
        first, end = self._firsts[number], self.ends[number]
        return sample_ids[(sample_ids >= first) & (sample_ids < end)] - first

    def rows_of(self, name: str, steps: Iterator[Rows]) -> Iterator[Rows]:
        """The rows of each step that come from a source."""
        return (Rows.of(self.only(name, rows.sample_id)) for rows in steps)

    def advance(self) -> None:
        """Every source is told of every step, also of one without a sample of it."""
        for source in self.sources.values():
            source.advance()

    def close(self) -> None:
        for source in self.sources.values():
            source.close()


AnyDataset = Source | OwnIterable | Mixture


class MixedSamples:
    """What is said of a label begins with the name of its source.

    Raises UserError where a class number means one class in one source and another in another.
    """

    def __init__(self, mixture: Mixture, split: SourceConfig, where: str, *, has_label: bool, kind: Kind) -> None:
        assert isinstance(split, TrainSplitConfig) and split.mixture, "what is mixed has the sources' settings"
        if has_label:
            _check_classes(_class_lists(mixture, split.mixture), f"{where}.mixture")
        self._mixture = mixture
        self._samples = {
            name: _samples_of_source(source, split.mixture[name], f"{where}.mixture.{name}", has_label, kind)
            for name, source in mixture.sources.items()
        }

    def example(self, sample_id: int, key: int = 0) -> Example:
        """Raises BadSample as its source does."""
        name, own_id = self._mixture.locate(sample_id)
        example = self._samples[name].example(own_id, key)
        example.name = f"{name}: {example.name}"
        return example

    def announce(self, sample_ids: list[int]) -> None:
        ids = np.array(sample_ids, np.int64)
        for name, samples in self._samples.items():
            samples.announce(self._mixture.only(name, ids).tolist())


SourceSamples = ShardSamples | StagedSamples | OwnDataset
Samples = SourceSamples | OwnIterable | MixedSamples


def samples_of(dataset: AnyDataset, split: SourceConfig, where: str, *, has_label: bool, kind: Kind = IMAGE) -> Samples:
    """What gives a dataset's samples with their images, or sounds, and, if the task needs them, their labels.

    Raises UserError if a source's first sample lacks one of the two.
    """
    if isinstance(dataset, Mixture):
        return MixedSamples(dataset, split, where, has_label=has_label, kind=kind)
    if isinstance(dataset, OwnIterable):
        return dataset
    return _samples_of_source(dataset, split, where, has_label, kind)


def _samples_of_source(source: Source, split: SourceConfig, where: str, has_label: bool, kind: Kind) -> SourceSamples:
    if isinstance(source, OwnDataset):
        return source
    label = split.label if has_label else None
    return (StagedSamples if split.stages else ShardSamples)(source, split, where, label, kind)


def _class_lists(mixture: Mixture, settings: Mapping[str, SourceConfig]) -> dict[str, list[str]]:
    """Of the sources whose labels are known to be numbers of their class list: stages may give others."""
    named = {name: source.classes for name, source in mixture.sources.items()}
    own_label = SourceConfig.model_fields["label"].default
    return {
        name: list(classes)
        for name, classes in named.items()
        if classes and settings[name].label == own_label and not settings[name].stages
    }


def _check_classes(classes_of: Mapping[str, list[str]], where: str) -> None:
    """A label says no more than a number, which has to mean the same class in all of them."""
    longest_first = sorted(classes_of, key=lambda name: -len(classes_of[name]))
    for name in longest_first[1:]:
        longest = longest_first[0]
        for number, (one, other) in enumerate(zip(classes_of[longest], classes_of[name])):
            if one != other:
                raise UserError(
                    f"the class {number} is '{one}' in {longest}, but '{other}' in {name}",
                    where=where,
                    fix="Give each class one number in all sources: pack one of them from a table with class numbers "
                    "(`distdl data pack table`), or renumber it by a stage of your own (stages).",
                )
