"""From a row of the sample plan to a row of a batch: read, decode, transform, parse the label, in the row's own place.

`fields` says which arrays a batch has. `ask` writes into them which samples are wanted, and `fill` replaces that by the
samples, row by row: a thread or another process that sees the arrays needs nothing else. A row that is padding, or that
is bad under the policy "mask", has valid 0 and the label that is ignored.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy.typing as npt

from distdl.config.sources import SoundConfig, SplitConfig
from distdl.data.iterable import OwnIterable
from distdl.data.labels import LabelSpec
from distdl.data.mixture import AnyDataset, samples_of
from distdl.data.order import Int64s, Rows
from distdl.data.pictures import geometry, of_batches, transforms
from distdl.data.pictures.picture import Pictures
from distdl.data.samples import IMAGE, SOUND, BadRow, BadSample, Example
from distdl.data.slots import Arrays, Field
from distdl.data.sounds import Sounds
from distdl.errors import UserError

_MOST_SUBSTITUTES = 9
_MOST_BESIDES = 64  # units of a transcript that even the shortest sound may have

# (epoch, offset) -> (offset, sample id): the plan's next sample of the same lane
Substitute = Callable[[int, int], tuple[int, int]]
# (epoch, offset, sample id) -> the seed of a sample's augmentation
AugmentationSeed = Callable[[int, int, int], int]
BadSamplePolicy = Literal["raise", "mask", "substitute"]


class SoundRows(NamedTuple):
    """Where samples are sounds: how they are read, and how long each is in samples (see Sounds)."""

    config: SoundConfig
    lengths: Int64s


class Content(Protocol):
    """What stands in the rows of a batch besides labels: Pictures, or Sounds. `size`: of a batch, as size_of says."""

    def size_of(self, rows: Rows) -> int | None: ...

    def fields(self, n_rows: int, size: int | None) -> dict[str, Field]: ...

    def write(self, arrays: Arrays, row: int, example: Example, key: int, size: int | None) -> None: ...

    def clear(self, arrays: Arrays, row: int) -> None: ...


class Filler:
    """Of one split of a dataset, which it closes. `label`: None if the task needs none.

    `augmentation_seed` is None where a split is evaluated. `short_side`: of the images, in pixels, for rows that name
    none themselves (None: as the transforms make them). `has_keys`: also where no transform of `split` asks for keys of
    augmentation on the device; of sounds all draws are made there. Raises UserError at once if the first sample lacks
    its content or the label component.
    `fill` may be called by any number of threads.
    """

    def __init__(
        self,
        dataset: AnyDataset,
        split: SplitConfig,
        *,
        where: str,
        label: LabelSpec | None,
        augmentation_seed: AugmentationSeed | None,
        bad_sample: BadSamplePolicy,
        substitute: Substitute | None = None,
        short_side: int | None = None,
        has_keys: bool = False,
        sounds: SoundRows | None = None,
    ) -> None:
        self.where, self.dataset, self.label = where, dataset, label
        self._augmentation_seed = augmentation_seed
        self.policy, self._substitute = bad_sample, substitute
        self.sounds = sounds
        kind = SOUND if sounds else IMAGE
        self._samples = samples_of(dataset, split, where, has_label=label is not None, kind=kind)
        self.image_shape: tuple[int, int, int] | None = None
        """None of sounds"""
        self.on_device: list[of_batches.OnDevice] = []
        self.normalise, self.n_of_images = transforms.AS_IT_IS, 0
        if sounds:
            self.has_keys = True
            self._content: Content = Sounds(*sounds)
            return
        built, self.normalise = transforms.build(split.transforms, where)
        of_images, self.on_device = of_batches.split(built, where)
        self.has_keys = has_keys or bool(self.on_device)
        self.n_of_images = len(of_images)
        has_normalise = len(built) < len(split.transforms)
        self._content = pictures = Pictures(
            self._samples,
            dataset.n_samples,
            geometry.fused(of_images),
            channels=len(self.normalise.mean) if has_normalise else None,
            short_side=short_side,
            where=where,
        )
        self.image_shape = pictures.shape()

    def close(self) -> None:
        self.dataset.close()

    def size_of(self, rows: Rows) -> int | None:
        """What `fields` and `fill` are to be told of these rows: see Content."""
        return self._content.size_of(rows)

    def fields(self, n_rows: int, size: int | None) -> dict[str, Field]:
        """The arrays of a batch. `epoch`, `offset` and `counts` only say what is asked for."""
        fields = {
            **self._content.fields(n_rows, size),
            "valid": Field((n_rows,), "float32"),
            "sample_id": Field((n_rows,), "int64"),
        }
        if self.label:
            fields["label"] = Field((n_rows, *self._label_shape(size)), self.label.dtype)
        if self.has_keys:
            fields["augment_key"] = Field((n_rows,), "int64")
        return fields | {
            "epoch": Field((n_rows,), "int64"),
            "offset": Field((n_rows,), "int64"),
            "counts": Field((n_rows,), "bool"),
        }

    def ask(self, rows: Rows, arrays: Arrays) -> None:
        """Of the next step. Rows that are never filled are as if they were padding."""
        self.dataset.advance()
        arrays["sample_id"][:], arrays["epoch"][:], arrays["offset"][:] = rows.sample_id, rows.epoch, rows.offset
        arrays["counts"][:] = rows.valid
        arrays["valid"][:] = 0
        if self.label:
            arrays["label"][:] = self.label.ignored
        if self.has_keys:
            arrays["augment_key"][:] = 0

    def announce(self, arrays: Arrays, begin: int, end: int) -> None:
        """Rows begin..end are going to be filled: what lies elsewhere is on its way from now on."""
        if isinstance(self._samples, OwnIterable):  # rows of one id may be filled in any order
            asked = [row for row in self._asked(arrays, begin, end) if row[-1] >= 0]
            self._samples.announce_rows([(row[-1], self._key(*row)) for row in asked])
        else:
            ids = arrays["sample_id"][begin:end]
            self._samples.announce(ids[ids >= 0].tolist())

    def fill(self, arrays: Arrays, size: int | None, begin: int, end: int) -> list[BadRow]:
        """Fills rows begin..end of a batch; returns what was wrong with those that were bad."""
        problems: list[BadRow] = []
        valid, ids, keys = arrays["valid"], arrays["sample_id"], arrays.get("augment_key")
        asked, counting = self._asked(arrays, begin, end), arrays["counts"][begin:end].tolist()
        for row, (epoch, offset, sample_id), counts in zip(range(begin, end), asked, counting):
            if sample_id < 0:
                self._content.clear(arrays, row)
                continue
            for attempt in range(_MOST_SUBSTITUTES + 1):
                try:
                    key = self._key(epoch, offset, sample_id)
                    example = self._samples.example(sample_id, key)
                    self._content.write(arrays, row, example, key, size)
                    ids[row] = sample_id
                    if keys is not None:
                        keys[row] = key
                    if counts:
                        if self.label:
                            self._write_label(arrays["label"], row, example)
                        valid[row] = 1.0
                    break
                except BadSample as error:
                    bad = BadRow.of(error, sample_id, epoch, "raised" if self.policy == "raise" else "masked")
                    if self.policy == "substitute" and self._substitute and attempt < _MOST_SUBSTITUTES:
                        offset, sample_id = self._substitute(epoch, offset)
                        bad = replace(bad, done="substituted", stand_in=sample_id)
                    if counts:
                        problems.append(bad)
                    if bad.stand_in is None:
                        self._content.clear(arrays, row)
                        break
        return problems

    def _asked(self, arrays: Arrays, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The epoch, offset and sample id of each of the rows."""
        return zip(*(arrays[name][begin:end].tolist() for name in ("epoch", "offset", "sample_id")))

    def _key(self, epoch: int, offset: int, sample_id: int) -> int:
        return self._augmentation_seed(epoch, offset, sample_id) if self._augmentation_seed else 0

    def _label_shape(self, size: int | None) -> tuple[int, ...]:
        """Of one row."""
        assert self.label, "the task asked for labels"
        if self.label.most_per_s is None:
            return self.label.shape
        assert self.sounds and size, "sequences belong to sounds"
        return (1 + _MOST_BESIDES + round(self.label.most_per_s * size / self.sounds.config.rate_hz),)

    def _write_label(self, labels: npt.NDArray[Any], row: int, example: Example) -> None:
        parsed = self._parse_label(example)
        assert self.label, "the task asked for labels"
        if self.label.most_per_s is None:
            labels[row] = parsed
            return
        if len(parsed) >= labels.shape[1]:
            what = f"its transcript has {len(parsed)} units, too many for so short a sound"
            raise BadSample(example.shard, example.key, "", what)
        labels[row] = 0
        labels[row, 0], labels[row, 1 : 1 + len(parsed)] = len(parsed), parsed

    def _parse_label(self, example: Example) -> Any:
        assert self.label, "the task asked for labels"
        try:
            return self.label.parse(example.label)
        except ValueError as error:
            label = example.label
            shown = label.decode("utf-8", "replace").strip() if isinstance(label, bytes) else repr(label)
            raise UserError(
                f"the label {shown[:40]} of {example.name} {error}",
                where=self.where,
                fix=f"Labels are {self.label.expected}: repack the data, name another component ({self.where}.label), "
                f"or fit {self.label.fits}.",
            ) from None
