"""Sounds in training: their order, their batches on the device as features, the longest batch tried before the first.

rows of a step, of like lengths  ->  cut into forwards whose padded length is bounded  ->  int16 on the device
->  each forward as long as its longest row  ->  the split's transforms  ->  features, and how many frames a row has
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distdl.config.schema import Config
from distdl.config.sources import SoundConfig
from distdl.data import length_order
from distdl.data.engine import HostBatch, Loader
from distdl.data.fill import SoundRows
from distdl.data.forwards import micro_batches, sorted_in_parts
from distdl.data.iterable import OwnIterable
from distdl.data.mixture import AnyDataset, Mixture
from distdl.data.order import Int64s, Plan, Rows
from distdl.data.own import OwnDataset
from distdl.data.samples import BadRow, BadSample
from distdl.data.sound_lengths import lengths
from distdl.data.sounds import at_rate
from distdl.errors import UserError
from distdl.speech.sounds import Sounds
from distdl.speech.transforms import Chain

# Keys that say something about pictures.
_OF_IMAGES = ("mixup", "cutmix", "adversarial", "resolution", "distill", "channels_last", "micro_batch")

_STEPS_TRIED = 32  # for the costliest forward: one of the longest sounds may be cut more finely


def check(config: Config, world_size: int) -> None:
    """Raises UserError for what a config with sounds asks for and only images have, and where sync batch norm would
    have workers do unlike numbers of forwards."""
    sound = config.data.sound
    if sound is None:
        return
    if config.train.batch_norm == "ghost":
        what = "batch norms of sounds are over frames, of which there are no groups of rows"
        raise UserError(what, where="train.batch_norm: ghost", fix="Leave it out, or use batch_norm: sync.")
    if config.train.batch_norm == "sync" and config.train.global_batch % world_size:
        raise UserError(
            f"{world_size} workers with unlike numbers of rows may cut them into unlike numbers of forwards, and "
            "batch_norm: sync has all of them meet in each",
            where=f"train.global_batch: {config.train.global_batch}",
            fix="Use a global batch that the workers divide.",
        )
    for name in _OF_IMAGES:
        if getattr(config.train, name):
            fix = "data.sound.at_once_s bounds memory." if name == "micro_batch" else "Leave it out."
            raise UserError("this is not for sounds (data.sound)", where=f"train.{name}", fix=fix)
    if config.data.train.mixture:
        raise UserError(
            "sounds of several sources are not mixed by weight",
            where="data.train.mixture",
            fix="Name all their shards: data.train.shards: [one, another].",
        )
    if config.data.sampling != "natural" or config.data.draws:
        where = "data.draws" if config.data.draws else "data.sampling"
        raise UserError("an epoch of sounds is the corpus", where=where, fix="Leave it out.")
    if config.train.batch_growth:
        raise UserError("batches of sounds don't grow", where="train.batch_growth", fix="Leave it out.")


def rows_of(dataset: AnyDataset, config: SoundConfig, where: str) -> SoundRows:
    """How sounds are read, and how long they are. Raises UserError for a dataset that does not tell."""
    if isinstance(dataset, Mixture | OwnDataset | OwnIterable):
        raise UserError(
            "how long its sounds are can't be known before they are read",
            where=where,
            fix="Pack them: `distdl data pack`; or name their files in a manifest.",
        )
    found = lengths(dataset)
    return SoundRows(config, at_rate(found.n_samples, found.rate_hz, config.rate_hz))


def plan_of(config: Config, dataset: AnyDataset, **settings: Any) -> Plan:
    """The order of the run's sounds."""
    assert config.data.sound, "asked only where samples are sounds"
    sounds = rows_of(dataset, config.data.sound, "data.train")
    assert not isinstance(dataset, Mixture), "rows_of has refused it"
    for name in ("draws", "growth"):
        settings.pop(name)
    return length_order.LengthPlan(dataset.sizes, sounds.lengths, order=config.data.sound.order, **settings)


def cut(rows: Rows, sounds: SoundRows, n_parts: int) -> Rows:
    """The global batch as it is computed: rows of a part by length, with their size and where its forwards begin."""
    rows = sorted_in_parts(rows, _lengths_of(rows, sounds), n_parts)
    of_rows = _lengths_of(rows, sounds)
    cuts = _cuts(of_rows, n_parts, sounds.config)
    return replace(rows, size=max(1, int(of_rows.max())), cuts=cuts)


def _lengths_of(rows: Rows, sounds: SoundRows) -> Int64s:
    """0 of those that are going to be masked, for being too long."""
    lengths = np.where(rows.sample_id >= 0, sounds.lengths[rows.sample_id], 0)
    most = sounds.config.longest_s
    return lengths if most is None else np.where(lengths > most * sounds.config.rate_hz, 0, lengths)


def longest(sounds: SoundRows, global_batch: int, part: int, n_parts: int) -> Rows:
    """The costliest forward of a part of some steps that sounds of like length would make, up to the longest. Raises
    UserError where all sounds are too long."""
    config = sounds.config
    most = sys.maxsize if config.longest_s is None else config.longest_s * config.rate_hz
    fitting = np.flatnonzero(sounds.lengths <= most)
    if not len(fitting):
        raise UserError("there is no sound that is as short", where=f"data.sound.longest_s: {config.longest_s}")
    by_length = fitting[np.argsort(sounds.lengths[fitting], kind="stable")]

    def cost(forward: Int64s) -> int:
        return int(sounds.lengths[forward].max()) * len(forward)

    costliest = by_length[-1:]
    for end in np.linspace(min(global_batch, len(by_length)), len(by_length), _STEPS_TRIED).astype(np.int64).tolist():
        step = np.resize(by_length[max(0, end - global_batch) : end], global_batch)
        mine = cut(Rows.of(step), sounds, n_parts).part(part, n_parts)
        forwards = [mine.sample_id[slice(*each)] for each in pairwise(mine.cuts[0])]
        costliest = max(costliest, *forwards, key=cost)
    return Rows.of(costliest)


def _cuts(lengths: Int64s, n_parts: int, config: SoundConfig) -> tuple[tuple[int, ...], ...]:
    """For each part, where its forwards begin, and its end; without those of no row, which a smaller part may have."""
    at_once = sys.maxsize if config.at_once_s is None else max(1, round(config.at_once_s * config.rate_hz))
    borders = micro_batches(lengths, n_parts, at_once, config.least_saving)
    return tuple(tuple(sorted({int(border - of_part[0]) for border in of_part})) for of_part in borders)


def features(tensors: dict[str, Tensor], chain: Chain, rate_hz: int, device: torch.device) -> dict[str, Tensor]:
    """A batch on the device: `features` fp32 (rows, frames, features), `frames` int64 (rows,), and what it had besides.

    `length` and `augment_key` of `tensors` are on the CPU.
    """
    size = max(1, int(tensors["length"].max()))
    sound_BT = tensors["sound"][:, :size].to(device, non_blocking=True).float()
    made = chain(
        Sounds(
            values=sound_BT,
            lengths_B=tensors["length"].to(device, non_blocking=True),
            keys_B=tensors["augment_key"],
            rate_hz=rate_hz,
        )
    )
    kept = {
        name: tensor.to(device, non_blocking=True)
        for name, tensor in tensors.items()
        if name not in ("sound", "length", "sample_id", "augment_key")
    }
    return {"features": made.values, "frames": made.lengths_B, **kept}


def pieces(tensors: dict[str, Tensor], sounds: SoundRows | None) -> Iterator[dict[str, Tensor]]:
    """The rows of an evaluation's batch, as many at a time as memory is meant for; of pictures all."""
    if sounds is None:
        yield tensors
        return
    (cuts,) = _cuts(tensors["length"].numpy(), 1, sounds.config)
    for begin, end in pairwise(cuts):
        yield {name: tensor[begin:end] for name, tensor in tensors.items()}


class Padding:
    """What part of what this worker computes is padding, since it was last asked for."""

    def __init__(self) -> None:
        self._sound = self._computed = 0

    def add(self, host: HostBatch) -> None:
        first = 0
        for cuts in host.cuts:
            for begin, end in pairwise(cuts):
                lengths = host.tensors["length"][first + begin : first + end]
                self._sound += int(lengths.sum())
                self._computed += int(lengths.max()) * len(lengths)
            first += cuts[-1]

    def row(self) -> dict[str, float]:
        """`padding`, a fraction, of a training row; {} where nothing was computed, or no sounds."""
        if not self._computed:
            return {}
        share = 1 - self._sound / self._computed
        self._sound = self._computed = 0
        return {"padding": round(share, 4)}


class Feasible:
    """Which transcripts a network can tell at all: those that need no more frames than it gives.
    `frames_needed(labels)`: the task's."""

    def __init__(self, model: nn.Module, loader: Loader, frames_needed: Callable[[Tensor], Tensor]) -> None:
        assert loader.chain and loader.sounds, "it is a loader of sounds"
        self._frames_needed = frames_needed
        self._model, self._chain, self._dataset = model, loader.chain, loader.dataset
        self._rate_hz = loader.sounds.config.rate_hz

    def masked(self, host: HostBatch) -> HostBatch:
        """The batch with the others' weight 0, as bad samples. All tensors are on the CPU."""
        label_BU, valid_B = host.tensors["label"], host.tensors["valid"]
        output_lengths: Callable[[Tensor], Tensor] = self._model.output_lengths  # type: ignore[assignment]
        frames_B = output_lengths(self._chain.output_lengths(host.tensors["length"], self._rate_hz))
        needed_B = self._frames_needed(label_BU)
        wrong = ((needed_B > frames_B) & (valid_B > 0)).nonzero().flatten().tolist()
        if not wrong:
            return host
        valid_B[wrong] = 0
        problems = [
            self._bad(int(host.tensors["sample_id"][row]), int(needed_B[row]), int(frames_B[row])) for row in wrong
        ]
        return replace(
            host,
            n_valid=host.n_valid - len(wrong),
            n_bad=host.n_bad + len(wrong),
            problems=[*host.problems, *problems],
        )

    def _bad(self, sample_id: int, needed: int, frames: int) -> BadRow:
        assert not isinstance(self._dataset, Mixture | OwnDataset | OwnIterable), "it tells how long sounds are"
        number, row = self._dataset.locate(sample_id)
        reason = f"its transcript needs {needed} frames of the network, which gives {frames} for it"
        error = BadSample(self._dataset.place(number), self._dataset.key(number, row), "", reason)
        return BadRow.of(error, sample_id, 0, "masked")
