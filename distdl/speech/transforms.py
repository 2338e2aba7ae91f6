"""What a config's `transforms` do to sounds: a chain from waveforms to features, on the device, in whole batches.

    [{speed: {factors: [0.9, 1.0, 1.1]}}, {log_mel: {bins: 80}}, {cmvn: {over: utterance}}, {spec_augment: {}}]

A transform is a class with the attribute `of_sounds = True` that says what it `takes` and `gives` ("waveform" or
"features"), and is called with Sounds. One that changes lengths has `lengths_after(lengths_B, rate_hz)`, unless by
chance alone, as speed does. All that is random comes from the rows' keys; no row's result depends on the others, nor on
padding.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from distdl import registry
from distdl.errors import UserError
from distdl.speech.sounds import Kind, Sounds


class Transform(Protocol):
    takes: Kind
    gives: Kind

    def __call__(self, sounds: Sounds) -> Sounds: ...


class Chain:
    """Transforms one after the other."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = transforms

    @torch.no_grad()
    def __call__(self, sounds: Sounds) -> Sounds:
        for transform in self.transforms:
            sounds = transform(sounds)
        return sounds

    def output_lengths(self, lengths_B: Tensor, rate_hz: int) -> Tensor:
        """Frames of sounds of so many samples; of those that are perturbed in speed, at factor 1."""
        for transform in self.transforms:
            if lengths_after := getattr(transform, "lengths_after", None):
                lengths_B = lengths_after(lengths_B, rate_hz)
        return lengths_B


def build(configs: Sequence[Mapping[str, Any]], where: str) -> Chain:
    """Of a split at `where`. Raises UserError for wrong arguments, transforms of images, and a chain of no features."""
    transforms: list[Any] = []
    now: Kind = "waveform"
    for number, config in enumerate(configs):
        ((name, argument),) = config.items()
        here = f"{where}.transforms[{number}]"
        function = registry.resolve(name, registry.TRANSFORMS, "transform")
        if not getattr(function, "of_sounds", False):
            raise UserError(f"transform '{name}' is of images, and data.sound says that these are sounds", where=here)
        transform = _made(function, name, argument, here)
        if transform.takes != now:
            what = f"'{name}' takes {_shown(transform.takes)}, and what comes before it gives {_shown(now)}"
            fix = "Transforms of waveforms come first, then log_mel or its like, then those of features."
            raise UserError(what, where=here, fix=fix)
        now = transform.gives
        transforms.append(transform)
    if now != "features":
        raise UserError(
            "the network takes features, and these transforms give waveforms",
            where=f"{where}.transforms",
            fix="Add one such as {log_mel: {bins: 80}}.",
        )
    return Chain(transforms)


def _made(function: Any, name: str, argument: Any, where: str) -> Any:
    kind = f"transform '{name}'"
    try:
        if argument is None or isinstance(argument, Mapping):
            return registry.call_with_args(function, argument or {}, kind)
        return function(argument)
    except UserError as error:
        raise UserError(error.what, where=where, fix=error.fix) from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{kind}: {error}", where=where) from error


def _shown(kind: Kind) -> str:
    return "waveforms" if kind == "waveform" else "features"
