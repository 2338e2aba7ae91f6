"""One sample before its transforms: its image and its label, out of the components that a shard's sample has."""

from dataclasses import dataclass
from typing import Any

from distdl.config.schema import SplitConfig
from distdl.data.dataset import CorruptSample, Dataset
from distdl.data.folder import FolderDataset
from distdl.data.image import IMAGE_EXTENSIONS, Pixels, decode_image, is_image
from distdl.errors import UserError

Stored = Dataset | FolderDataset


class BadSample(Exception):
    """A sample that can't be used, with what a person needs to find it."""


@dataclass(slots=True)
class Example:
    name: str  # "0004 in 000000.tar"
    image: bytes | Pixels  # of a file, or decoded: uint8 (height, width, 1 or 3)
    label: Any  # a component's bytes, or the value that a dataset of one's own gave; None where none is asked for
    extension: str = ""  # of the image, where it is bytes
    file: str = ""  # the same: "0004.jpg in 000000.tar"

    def decode(self) -> Pixels:
        """uint8 (height, width, 1 or 3). Raises BadSample if it is damaged."""
        if not isinstance(self.image, bytes):
            return self.image
        try:
            return decode_image(self.image, self.extension)
        except ValueError as error:
            raise self.damaged(error) from error

    def damaged(self, error: ValueError) -> BadSample:
        return BadSample(f"{self.file}: {error}")


class ShardSamples:
    """Finds image and label among the components. `label`: the component that holds it; None if none is asked for.

    Raises UserError if the first sample lacks one of the two.
    """

    def __init__(self, dataset: Stored, split: SplitConfig, where: str, label: str | None) -> None:
        self._dataset, self._where, self._label = dataset, where, label
        self._images = (split.image,) if split.image else self._find_image_components()
        self._read = (*self._images, label) if label else self._images

    def example(self, sample_id: int, key: int = 0) -> Example:
        """Raises BadSample if a component is missing or damaged."""
        try:
            sample = self._dataset.read(*self._dataset.locate(sample_id), only=self._read)
        except CorruptSample as error:
            raise BadSample(str(error)) from error
        name = f"{sample.key} in {sample.shard}"
        extension = next((each for each in self._images if each in sample.components), None)
        if extension is None:
            raise BadSample(f"{name} has no component '{self._images[0]}'")
        if self._label and self._label not in sample.components:
            raise BadSample(f"{name} has no component '{self._label}'")
        label = sample.components[self._label] if self._label else None
        file = f"{sample.key}.{extension} in {sample.shard}"
        return Example(name, sample.components[extension], label, extension, file)

    def announce(self, sample_ids: list[int]) -> None:
        """These samples are going to be asked for next."""
        self._dataset.announce(sample_ids, self._read)

    def _find_image_components(self) -> tuple[str, ...]:
        """The first sample's image component; and the other formats, for corpora that mix jpg, jpeg and png."""
        there = self._dataset.extensions(0)
        found = next((extension for extension in there if is_image(extension)), None)
        if found is None or (self._label and self._label not in there):
            missing = "an image" if found is None else f"'{self._label}'"
            raise UserError(
                f"the first sample has no component for {missing} (it has: {', '.join(there)})",
                where=f"{self._where}: {self._dataset.path}",
                fix=f"Name the components by {self._where}.image and {self._where}.label.",
            )
        return (found, *(each for each in IMAGE_EXTENSIONS if each != found))
