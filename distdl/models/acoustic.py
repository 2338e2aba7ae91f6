"""Acoustic models that look at a window of frames, `context` of them on each side: dense (Hinton et al. 2012, "Deep
neural networks for acoustic modeling in speech recognition"), and convolutional along frequency (Abdel-Hamid et al.
2014, "Convolutional neural networks for speech recognition")."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from distdl.errors import UserError
from distdl.models.frames import OwnFrames, check_features
from distdl.models.layers import check_sizes


def spliced(features_BTF: Tensor, context: int) -> Tensor:
    """(rows, frames, windows of 2 context + 1 frames, features), with zeros before the first and behind the last."""
    padded_BTF = functional.pad(features_BTF, (0, 0, context, context))
    return padded_BTF.unfold(1, 2 * context + 1, 1).transpose(2, 3)


def check_context(context: int) -> None:
    """Raises UserError for what is no number of frames."""
    if not isinstance(context, int) or context < 0:
        raise UserError(f"{context!r} is not a whole number from 0 on", where="model.args.context")


class AcousticModel(nn.Module):
    """forward(features (rows, frames, features), lengths (rows,)) -> (logits (rows, frames, classes), lengths)."""

    is_acoustic = True

    def __init__(
        self, front: "_Window | _Bands", features: int, classes: int, layers: int, width: int, context: int
    ) -> None:
        super().__init__()
        check_sizes(classes=classes, features=features, layers=layers, width=width)
        check_context(context)
        self.features, self.context, self.front = features, context, front
        sizes = [front.width, *[width] * layers]
        self.hidden = nn.ModuleList(_Hidden(before, after) for before, after in pairwise(sizes))
        self.classifier = nn.Linear(width, classes)

    def output_lengths(self, lengths_B: Tensor) -> Tensor:
        return lengths_B

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        check_features(features_BTF, self.features)
        own = OwnFrames(lengths_B, features_BTF.shape[1])
        values_BTX = self.front(spliced(own.zeroed(features_BTF), self.context))
        for layer in self.hidden:
            values_BTX = layer(values_BTX)
        return own.zeroed(self.classifier(values_BTX)), lengths_B

    def blocks(self) -> list[str]:
        return ["front", *(f"hidden.{number}" for number in range(len(self.hidden)))]


class _Hidden(nn.Module):
    """A block: dense, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, values_BTX: Tensor) -> Tensor:
        return functional.relu(self.dense(values_BTX))


class _Window(nn.Module):
    """The frames of a window side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, windows_BTWF: Tensor) -> Tensor:
        return windows_BTWF.flatten(2)


class _Bands(nn.Module):
    """Convolution along frequency of windows whose frames are channels, ReLU, and pooling (section III-B)."""

    def __init__(self, frames: int, features: int, maps: int, kernel: int, pool: int) -> None:
        super().__init__()
        check_sizes(features=features, maps=maps, kernel=kernel, pool=pool)
        bands = (features - kernel + 1) // pool
        if bands < 1:
            what = f"{features} features hold no pool of {pool} of filters over {kernel}"
            raise UserError(what, where="model.args.features")
        self.convolution = nn.Conv1d(frames, maps, kernel)
        self.pool, self.width = pool, maps * bands

    def forward(self, windows_BTWF: Tensor) -> Tensor:
        n_rows, n_frames = windows_BTWF.shape[:2]
        maps = functional.relu(self.convolution(windows_BTWF.flatten(0, 1)))
        return functional.max_pool1d(maps, self.pool).flatten(1).unflatten(0, (n_rows, n_frames))


def acoustic_dnn(
    classes: int = 2000, features: int = 40, layers: int = 7, width: int = 2048, context: int = 5
) -> AcousticModel:
    """7 layers of 2048 on windows of 11 frames, with ReLUs for the paper's sigmoids."""
    return AcousticModel(_Window((2 * context + 1) * features), features, classes, layers, width, context)


def acoustic_cnn(
    classes: int = 2000,
    features: int = 40,
    layers: int = 2,
    width: int = 1000,
    context: int = 7,
    maps: int = 84,
    kernel: int = 8,
    pool: int = 6,
) -> AcousticModel:
    """84 maps of filters over 8 bands, of which 6 are pooled, and two dense layers of 1000 (section V)."""
    front = _Bands(2 * context + 1, features, maps, kernel, pool)
    return AcousticModel(front, features, classes, layers, width, context)
