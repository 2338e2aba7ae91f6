"""data.train.stages: code of one's own between reading and decoding, as generators f(samples) -> samples.

A sample is a dict with webdataset's keys: `__key__`, `__url__` and a value per component, bytes at first. So
webdataset's own stages work as they are: wds.decode("pil"), wds.map(f), wds.rename(...). What the last stage leaves
as image and label may be bytes still, or what a dataset of one's own may give (distdl/data/own.py).

Each sample passes through alone: which samples there are, and in which order, is the plan's, so that order and resume
stay exact. Random numbers come from `__seed__`, which is keyed by seed, epoch and sample. Stages are called by several
threads, and nothing they keep from one sample to the next is of any use.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from distdl import registry
from distdl.config.sources import SourceConfig
from distdl.data.corpus.dataset import CorruptSample
from distdl.data.order import seed_of
from distdl.data.own import given_up, image_of
from distdl.data.samples import IMAGE, BadSample, Example, Kind, Stored
from distdl.errors import UserError

RawSample = dict[str, Any]
Stage = Callable[[Iterator[RawSample]], Iterable[RawSample]]


def build(configs: Sequence[dict[str, Any]], where: str) -> list[tuple[str, Stage]]:
    """(name, stage) of each. Raises UserError for what is not there, or can't be called with these arguments."""
    stages = []
    for number, config in enumerate(configs):
        ((name, argument),) = config.items()
        try:
            found = registry.resolve(name, registry.STAGES, "stage")
            if isinstance(argument, dict):
                found = found(**argument)
            elif argument is not None or isinstance(found, type):
                found = found(*([] if argument is None else [argument]))
        except (TypeError, ValueError) as error:
            raise UserError(f"stage '{name}': {error}", where=f"{where}.stages[{number}]") from error
        except UserError as error:
            raise UserError(error.what, where=f"{where}.stages[{number}]", fix=error.fix) from None
        if not callable(found):
            raise UserError(
                f"what '{name}' returns is a {type(found).__name__}, not a stage",
                where=f"{where}.stages[{number}]",
                fix="A function that makes a stage returns a function of samples; one that is a stage is named alone.",
            )
        stages.append((name, found))
    return stages


class StagedSamples:
    """Content and label out of what the stages make of a sample. `label`: its component; None if none is asked for."""

    def __init__(self, dataset: Stored, split: SourceConfig, where: str, label: str | None, kind: Kind = IMAGE) -> None:
        self._dataset, self._component, self._label, self._kind = dataset, kind.component(split), label, kind
        self._stages = build(split.stages, where)

    def example(self, sample_id: int, key: int = 0) -> Example:
        """Raises BadSample if the sample is damaged, a stage fails on it, or leaves it out."""
        number, row = self._dataset.locate(sample_id)
        shard = self._dataset.place(number)
        try:
            read = self._dataset.read(number, row)
        except CorruptSample as error:
            raise BadSample(shard, error.key, error.component, error.reason) from error
        sample: RawSample = {"__key__": read.key, "__url__": read.shard, **read.components}
        sample["__seed__"] = seed_of(key, sample_id)
        for stage_name, stage in self._stages:
            sample = _passed(sample, stage, stage_name, shard, read.key)
        return example_of(sample, self._component, self._label, shard, read.key, self._kind)

    def announce(self, sample_ids: list[int]) -> None:
        """These samples are going to be asked for next."""
        self._dataset.announce(sample_ids, None)


def example_of(
    sample: RawSample, component: str | None, label: str | None, shard: str, key: str, kind: Kind = IMAGE
) -> Example:
    """`component`: None for the first that is one by its name. Raises BadSample where one is missing."""
    there = [extension for extension in sample if not extension.startswith("__")]
    extension = component or next((each for each in there if kind.is_one(each)), kind.shown)
    for wanted in (extension, label):
        if wanted is not None and wanted not in sample:
            raise BadSample(shard, key, "", f"it has no component for {wanted} (it has: {', '.join(there)})")
    content = sample[extension]
    if kind is IMAGE:
        content = image_of(content, shard, key, extension)
    name = f"{key} in {shard.rpartition('/')[2]}"
    return Example(name, content, sample[label] if label else None, extension, key, shard)


def _passed(sample: RawSample, stage: Stage, stage_name: str, shard: str, key: str) -> RawSample:
    """The sample behind a stage."""
    mistake = ""
    try:
        made = stage(iter([sample]))
        if not isinstance(made, Iterable) or isinstance(made, dict):
            mistake = f"returned a {type(made).__name__}"
        elif len(left := list(islice(made, 2))) > 1:
            mistake = "made more than one sample of it"
        elif left and not isinstance(left[0], dict):
            mistake = f"made a {type(left[0]).__name__} of it"
    except UserError:
        raise
    except Exception as error:  # the user's code: what it can't work on is a bad sample, and not the end of the run
        raise given_up(error, shard, key, f"stage {stage_name}: ") from error
    if mistake:
        raise UserError(
            str(BadSample(shard, key, "", f"stage {stage_name} {mistake}")),
            fix="A stage is a generator that gives one dict for each: samples are picked by their numbers, so that a "
            "run goes on exactly where it was. What multiplies or joins them is done when packing.",
        )
    if not left:
        raise BadSample(shard, key, "", f"left out by stage {stage_name}", own_code=True)
    return left[0]
