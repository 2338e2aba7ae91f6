"""Where samples come from: one source, a split of the data, and several sources that are mixed to train on."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from distdl import registry
from distdl.config import addresses
from distdl.config.values import Section, Stage, Transform, key, name_in


class SourceConfig(Section):
    shards: str | list[str] | None = key(
        None,
        "tars: folder, tar, address, list; or folder, manifest, dataset",
        free=True,
    )
    folder: str | None = key(None, "a folder per class with image files in it, used as it lies")
    manifest: str | None = key(
        None, "a list of utterances, used as it lies: of Lhotse, NeMo, SpeechBrain, or a data folder of Kaldi"
    )
    dataset: Annotated[str, name_in(registry.DATASETS, "dataset")] | None = key(
        None,
        "a dataset of one's own instead of shards: a registered name, or package.module:attribute",
        validate_default=True,
    )
    args: dict[str, Any] = key({}, "arguments of the dataset's function")
    stages: list[Stage] = key(
        [], "code of one's own between reading and decoding: generators of samples, as webdataset's"
    )
    image: str | None = key(None, "component that holds the image (default: the first known image extension)")
    sound: str | None = key(None, "component that holds the sound (default: the first known sound extension)")
    label: str = key("cls", "component that holds the label, as text that the task reads: a class number")
    index: str | None = key(
        None, "folder (or address) of the index files, where they are not beside the shards", free=True
    )

    @field_validator("shards", "index")
    @classmethod
    def _no_secrets(cls, value: str | list[str] | None) -> str | list[str] | None:
        for text in [value] if isinstance(value, str) else value or ():
            addresses.check(text)
        return value

    @field_validator("shards", "folder", "manifest")
    @classmethod
    def _somewhere(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value is not None and not (value and all(value)):
            raise ValueError("it names nothing to read: give a path, or leave the key out")
        return value

    @field_validator("dataset")  # not of the model, which is checked only once every key is right by itself
    @classmethod
    def _one_source(cls, dataset: Any, info: ValidationInfo) -> Any:
        _check_one_given({**info.data, "dataset": dataset}, ("shards", "folder", "manifest", "dataset"))
        return dataset

    @field_validator("stages")
    @classmethod
    def _stages_of_components(cls, stages: list[Stage], info: ValidationInfo) -> list[Stage]:
        if stages and info.data.get("dataset") is not None:
            raise ValueError("stages work on what is read from shards or a folder; a dataset does that by itself")
        return stages

    @property
    def sources(self) -> Sequence["SourceConfig"]:
        """Itself, or what it mixes."""
        return [self]

    @property
    def source(self) -> str:
        """What a person would call it: the folder, or the dataset's name."""
        if isinstance(self.shards, list):
            return f"{self.shards[0]} and {len(self.shards) - 1} more" if self.shards[1:] else "".join(self.shards)
        return self.shards or self.folder or self.manifest or self.dataset or ""


def _check_one_given(given: Mapping[str, Any], names: Sequence[str]) -> None:
    found = [name for name in names if given.get(name, "wrong by itself") is not None]
    if not found:
        raise PydanticCustomError("missing", "one of these", {"key": names[0]})
    if len(found) > 1:
        raise ValueError(f"give one of {', '.join(names[:-1])} and {names[-1]}, not {' and '.join(found)}")


class SoundConfig(Section):
    rate_hz: int = key(16000, "samples per second that all sounds are brought to", ge=1000, le=384000)
    order: Literal["by_length", "shortest_first", "shuffled"] = key(
        "by_length",
        "batches of sounds of like length, in any order; with shortest_first, the first epoch goes from short to long; "
        "shuffled: any sounds together, more padding",
    )
    at_once_s: float | None = key(
        None,
        "most seconds of sound, padding included, per forward on each worker: bounds memory (default: a worker's rows)",
        gt=0,
    )
    least_saving: float = key(
        0.01,
        "another forward is made where that spares this share of what a step computes, in padding (1: only for memory)",
        gt=0,
        le=1,
    )
    longest_s: float | None = key(None, "a longer sound is a bad sample (default: none is too long)", gt=0)


class SplitConfig(SourceConfig):
    transforms: list[Transform] = key([], "applied in order: those of images, then those of batches, then normalise")


class MixedConfig(SourceConfig):
    weight: float = key(1.0, "how many samples of it come, beside the weights of the other sources", gt=0)


class TrainSplitConfig(SplitConfig):
    mixture: dict[str, MixedConfig] | None = key(
        None,
        "several sources by name instead of one, mixed by weight: {web: {shards: ..., weight: 3}, ...}",
        validate_default=True,
    )

    @field_validator("mixture")
    @classmethod
    def _one_source(cls, mixture: Any, info: ValidationInfo) -> Any:
        if mixture == {}:
            raise ValueError("a mixture has at least one source")
        _check_one_given({**info.data, "mixture": mixture}, ("shards", "folder", "manifest", "dataset", "mixture"))
        for name in ("args", "stages", "image", "sound", "label", "index") if mixture else ():
            if info.data.get(name) != cls.model_fields[name].default:
                raise ValueError(f"each source has its own '{name}': give it there")
        return mixture

    @property
    def sources(self) -> Sequence[SourceConfig]:
        return list(self.mixture.values()) if self.mixture else [self]

    @property
    def source(self) -> str:
        return " + ".join(self.mixture) if self.mixture else super().source
