"""Cepstral mean and variance normalisation: features less their mean, over their deviation.

Those of an utterance are its own. Those of a corpus come from a pass over it (`distdl cmvn`), in a file.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from distdl.errors import UserError
from distdl.speech.padding import mask_BT, zero_padding_
from distdl.speech.sounds import Sounds

_LEAST_DEVIATION = 1e-5  # of a feature that never changes, as in silence: it becomes 0


class Cmvn:
    """`over`: utterance, or corpus with its `mean` and `deviation`, a number for each feature, or a `file` of them.
    `variance`: whether deviations are made equal as well."""

    of_sounds, takes, gives = True, "features", "features"

    def __init__(
        self,
        over: str = "utterance",
        mean: Sequence[float] | None = None,
        deviation: Sequence[float] | None = None,
        file: str | None = None,
        variance: bool = True,
    ) -> None:
        if over not in ("utterance", "corpus"):
            raise UserError(f"over is utterance or corpus (got {over!r})")
        if over == "utterance" and (mean or deviation or file):
            raise UserError("an utterance has a mean of its own", fix="Say over: corpus, or leave it out.")
        self._variance = variance
        self._mean_F = self._deviation_F = None
        if over == "corpus":
            mean, deviation = _read(Path(file)) if file else (mean, deviation)
            if not mean or not deviation or len(mean) != len(deviation) or min(deviation) <= 0:
                what = "a corpus has a mean and a deviation above 0 for each feature"
                raise UserError(what, fix="`distdl cmvn CONFIG --out FILE` makes a file of them: file: FILE.")
            self._mean_F, self._deviation_F = torch.tensor(mean), torch.tensor(deviation)

    @property
    def is_of_utterance(self) -> bool:
        return self._mean_F is None

    def __call__(self, sounds: Sounds) -> Sounds:
        values_BTF, lengths_B = sounds.values, sounds.lengths_B
        if self._mean_F is None or self._deviation_F is None:
            mean, deviation = _of_utterances(values_BTF, lengths_B)
        else:
            mean, deviation = self._mean_F.to(values_BTF.device), self._deviation_F.to(values_BTF.device)
            if values_BTF.shape[2] != len(mean):
                raise UserError(f"cmvn: the corpus's mean is of {len(mean)} features, these are {values_BTF.shape[2]}")
        values_BTF = values_BTF - mean
        if self._variance:
            values_BTF = values_BTF / deviation
        return sounds.having(zero_padding_(values_BTF, lengths_B))


class Statistics:
    """Mean and deviation over all frames that are added, in fp64."""

    def __init__(self) -> None:
        self._count, self._sum_F, self._squares_F = 0, torch.zeros(0), torch.zeros(0)

    def add(self, features_BTF: Tensor, lengths_B: Tensor) -> None:
        own_NF = features_BTF[mask_BT(lengths_B, features_BTF.shape[1])].double().cpu()
        if not self._count:
            self._sum_F, self._squares_F = own_NF.new_zeros(own_NF.shape[1]), own_NF.new_zeros(own_NF.shape[1])
        self._count += len(own_NF)
        self._sum_F += own_NF.sum(0)
        self._squares_F += own_NF.square().sum(0)

    def as_json(self) -> str:
        """Raises UserError where there was no frame."""
        if not self._count:
            raise UserError("there is no frame to take a mean of")
        mean_F = self._sum_F / self._count
        deviation_F = (self._squares_F / self._count - mean_F.square()).clamp(min=_LEAST_DEVIATION**2).sqrt()
        return json.dumps({"count": self._count, "mean": mean_F.tolist(), "deviation": deviation_F.tolist()})


def _of_utterances(values_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, 1, features) each; padding is 0 and counts for nothing."""
    count_B11 = lengths_B.clamp(min=1)[:, None, None]
    mean_B1F = values_BTF.sum(1, keepdim=True) / count_B11
    centred_BTF = zero_padding_(values_BTF - mean_B1F, lengths_B)
    deviation_B1F = (centred_BTF.square().sum(1, keepdim=True) / count_B11).sqrt()
    return mean_B1F, deviation_B1F.clamp(min=_LEAST_DEVIATION)


def _read(path: Path) -> tuple[list[float], list[float]]:
    try:
        found = json.loads(path.read_text())
        return [float(x) for x in found["mean"]], [float(x) for x in found["deviation"]]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", fix="`distdl cmvn CONFIG --out FILE` makes it.") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} holds no mean and deviation", fix="`distdl cmvn CONFIG --out FILE` makes it."
        ) from None
