"""One sample before its transforms: its image or sound and its label, out of the components of a shard's sample."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from distdl.config.sources import SourceConfig
from distdl.data.audio import AUDIO_EXTENSIONS, is_audio
from distdl.data.corpus.dataset import CorruptSample, Dataset
from distdl.data.corpus.folder import FolderDataset
from distdl.data.corpus.manifest import ManifestDataset
from distdl.data.pictures.image import IMAGE_EXTENSIONS, Pixels, decode_image, is_image
from distdl.errors import UserError

Stored = Dataset | FolderDataset | ManifestDataset


class Kind(NamedTuple):
    """Of what a sample holds besides its label: `name` is the key of a config that names its component."""

    name: Literal["image", "sound"]
    shown: str
    extensions: tuple[str, ...]
    is_one: Callable[[str], bool]

    def component(self, split: SourceConfig) -> str | None:
        """Its component as the config names it."""
        return split.image if self.name == "image" else split.sound


IMAGE = Kind("image", "an image", IMAGE_EXTENSIONS, is_image)
SOUND = Kind("sound", "a sound", AUDIO_EXTENSIONS, is_audio)


class BadSample(Exception):
    """A sample that can't be used, with what a person or `distdl data index --exclude` needs to find it.

    `shard`: the tar's path or address, or what else the sample is from; `component`: "" if it is the whole sample;
    `own_code`: whether a dataset or stage of the user's gave it up, and `traceback` where, if by an exception.
    """

    def __init__(
        self, shard: str, key: str, component: str, reason: str, own_code: bool = False, traceback: str = ""
    ) -> None:
        super().__init__(shard, key, component, reason, own_code, traceback)
        self.shard, self.key, self.component, self.reason = shard, key, component, reason
        self.own_code, self.traceback = own_code, traceback

    def __str__(self) -> str:
        file = f"{self.key}.{self.component}" if self.component else self.key
        return f"{file} in {self.shard.rpartition('/')[2]}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row whose sample could not be used, and what was done about it: a line of a run's quarantine.jsonl."""

    shard: str
    key: str
    component: str
    reason: str
    sample_id: int
    epoch: int
    done: Literal["masked", "substituted", "raised"]
    stand_in: int | None = None  # sample id
    own_code: bool = False  # as of BadSample; these two are not in the file
    traceback: str = ""

    @classmethod
    def of(cls, error: BadSample, sample_id: int, epoch: int, done: Literal["masked", "raised"]) -> "BadRow":
        return cls(
            shard=error.shard,
            key=error.key,
            component=error.component,
            reason=error.reason,
            sample_id=sample_id,
            epoch=epoch,
            done=done,
            own_code=error.own_code,
            traceback=error.traceback,
        )

    def __str__(self) -> str:
        return str(BadSample(self.shard, self.key, self.component, self.reason))


@dataclass(slots=True)
class Example:
    name: str  # "0004 in 000000.tar"
    content: bytes | Pixels  # of a file of an image or a sound; or decoded: uint8 (height, width, 1 or 3)
    label: Any  # a component's bytes, or the value that a dataset of one's own gave; None where none is asked for
    extension: str = ""  # of the content, where it is bytes
    key: str = ""  # the sample's, and its shard's path, where it is bytes
    shard: str = ""

    def decode(self) -> Pixels:
        """uint8 (height, width, 1 or 3). Raises BadSample if it is damaged."""
        if not isinstance(self.content, bytes):
            return self.content
        try:
            return decode_image(self.content, self.extension)
        except ValueError as error:
            raise self.damaged(error) from error

    def damaged(self, error: ValueError) -> BadSample:
        return BadSample(self.shard, self.key, self.extension, str(error))


class ShardSamples:
    """Finds content and label among the components. `label`: the component that holds it; None if none is asked for.

    Raises UserError if the first sample lacks one of the two.
    """

    def __init__(self, dataset: Stored, split: SourceConfig, where: str, label: str | None, kind: Kind = IMAGE) -> None:
        self._dataset, self._where, self._label = dataset, where, label
        named = kind.component(split)
        self._contents = (named,) if named else self._find_components(kind)
        self._read = (*self._contents, label) if label else self._contents

    def example(self, sample_id: int, key: int = 0) -> Example:
        """Raises BadSample if a component is missing or damaged."""
        number, row = self._dataset.locate(sample_id)
        try:
            sample = self._dataset.read(number, row, only=self._read)
        except CorruptSample as error:
            raise BadSample(self._dataset.place(number), error.key, error.component, error.reason) from error
        shard = self._dataset.place(number)
        extension = next((each for each in self._contents if each in sample.components), None)
        if extension is None:
            raise BadSample(shard, sample.key, "", f"it has no component '{self._contents[0]}'")
        if self._label and self._label not in sample.components:
            raise BadSample(shard, sample.key, "", f"it has no component '{self._label}'")
        label = sample.components[self._label] if self._label else None
        name = f"{sample.key} in {sample.shard}"
        return Example(name, sample.components[extension], label, extension, sample.key, shard)

    def announce(self, sample_ids: list[int]) -> None:
        """These samples are going to be asked for next."""
        self._dataset.announce(sample_ids, self._read)

    def _find_components(self, kind: Kind) -> tuple[str, ...]:
        """The first sample's image, or sound; and the other formats, for corpora that mix jpg, jpeg and png."""
        there = self._dataset.extensions(0)
        found = next((extension for extension in there if kind.is_one(extension)), None)
        if found is None or (self._label and self._label not in there):
            missing = kind.shown if found is None else f"'{self._label}'"
            fix = f"Name the components by {self._where}.{kind.name} and {self._where}.label."
            if found is None and any(map(is_audio, there)):
                fix = "Sounds are read with data.sound: {rate_hz: 16000}, or what their rate is to be."
            raise UserError(
                f"the first sample has no component for {missing} (it has: {', '.join(there)})",
                where=f"{self._where}: {self._dataset.path}",
                fix=fix,
            )
        return (found, *(each for each in kind.extensions if each != found))
