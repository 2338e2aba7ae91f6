"""From a row of the sample plan to a row of a batch: read, decode, transform, parse the label, in the row's own place.

`fields` says which arrays a batch has. `ask` writes into them which samples are wanted, and `fill` replaces that by the
samples, row by row: a thread or another process that sees the arrays needs nothing else. A row that is padding, or that
is bad under the policy "mask", has valid 0 and the label that is ignored.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

from distdl.config.sources import SplitConfig
from distdl.data.iterable import OwnIterable
from distdl.data.labels import LabelSpec
from distdl.data.mixture import AnyDataset, samples_of
from distdl.data.order import Rows
from distdl.data.pictures import geometry, of_batches, transforms
from distdl.data.pictures.picture import Pictures
from distdl.data.samples import BadRow, BadSample, Example
from distdl.data.slots import Arrays, Field
from distdl.errors import UserError

_MOST_SUBSTITUTES = 9

# (epoch, offset) -> (offset, sample id): the plan's next sample of the same lane
Substitute = Callable[[int, int], tuple[int, int]]
# (epoch, offset, sample id) -> the seed of a sample's augmentation
AugmentationSeed = Callable[[int, int, int], int]
BadSamplePolicy = Literal["raise", "mask", "substitute"]


class Filler:
    """Of one split of a dataset, which it closes. `label`: None if the task needs none.

    `augmentation_seed` is None where a split is evaluated. `short_side`: of the images, in pixels, for rows that name
    none themselves (None: as the transforms make them). `has_keys`: also where no transform of `split` asks for keys of
    augmentation on the device. Raises UserError at once if the first sample lacks the image or the label component.
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
    ) -> None:
        self.where, self.dataset, self.label = where, dataset, label
        built, self.normalise = transforms.build(split.transforms, where)
        of_images, self.on_device = of_batches.split(built, where)
        self.has_keys = has_keys or bool(self.on_device)
        self.n_of_images = len(of_images)
        self._augmentation_seed = augmentation_seed
        self.policy, self._substitute = bad_sample, substitute
        self._samples = samples_of(dataset, split, where, has_label=label is not None)
        has_normalise = len(built) < len(split.transforms)
        self._pictures = Pictures(
            self._samples,
            dataset.n_samples,
            geometry.fused(of_images),
            channels=len(self.normalise.mean) if has_normalise else None,
            short_side=short_side,
            where=where,
        )
        self.image_shape = self._pictures.shape()

    def close(self) -> None:
        self.dataset.close()

    def fields(self, n_rows: int, resolution: int | None) -> dict[str, Field]:
        """The arrays of a batch. `epoch`, `offset` and `counts` only say what is asked for."""
        fields = {
            "image": Field((n_rows, *self._pictures.shape(resolution)), "uint8"),
            "valid": Field((n_rows,), "float32"),
            "sample_id": Field((n_rows,), "int64"),
        }
        if self.label:
            fields["label"] = Field((n_rows, *self.label.shape), self.label.dtype)
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

    def fill(self, arrays: Arrays, resolution: int | None, begin: int, end: int) -> list[BadRow]:
        """Fills rows begin..end of a batch; returns what was wrong with those that were bad."""
        problems: list[BadRow] = []
        images, valid, ids, labels = arrays["image"], arrays["valid"], arrays["sample_id"], arrays.get("label")
        keys = arrays.get("augment_key")
        asked, counting = self._asked(arrays, begin, end), arrays["counts"][begin:end].tolist()
        for row, (epoch, offset, sample_id), counts in zip(range(begin, end), asked, counting):
            if sample_id < 0:
                images[row] = 0
                continue
            for attempt in range(_MOST_SUBSTITUTES + 1):
                try:
                    key = self._key(epoch, offset, sample_id)
                    example = self._samples.example(sample_id, key)
                    self._pictures.write(images[row], example, key, resolution)
                    ids[row] = sample_id
                    if keys is not None:
                        keys[row] = key
                    if counts:
                        valid[row] = 1.0
                        if labels is not None:
                            labels[row] = self._parse_label(example)
                    break
                except BadSample as error:
                    bad = BadRow.of(error, sample_id, epoch, "raised" if self.policy == "raise" else "masked")
                    if self.policy == "substitute" and self._substitute and attempt < _MOST_SUBSTITUTES:
                        offset, sample_id = self._substitute(epoch, offset)
                        bad = replace(bad, done="substituted", stand_in=sample_id)
                    if counts:
                        problems.append(bad)
                    if bad.stand_in is None:
                        images[row] = 0
                        break
        return problems

    def _asked(self, arrays: Arrays, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The epoch, offset and sample id of each of the rows."""
        return zip(*(arrays[name][begin:end].tolist() for name in ("epoch", "offset", "sample_id")))

    def _key(self, epoch: int, offset: int, sample_id: int) -> int:
        return self._augmentation_seed(epoch, offset, sample_id) if self._augmentation_seed else 0

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
                "or fit model.args.classes.",
            ) from None
