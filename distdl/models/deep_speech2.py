"""Deep Speech 2 (Amodei et al. 2015): convolutions over time and frequency, recurrences with sequence-wise batch norm.

deep_speech2 looks both ways; deep_speech2_streaming goes forward alone, with a row convolution that looks ahead a few
frames (section 3.6), and can be called chunk by chunk (`step`). Batch norm is on what goes into a recurrence, before
its matrix and not behind it as in the paper's equation 9, so that torch's fused cells serve; ReLUs of dense and
convolutional layers are clipped at 20, those of plain recurrences are torch's.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from distdl.errors import UserError
from distdl.models.frames import FrameNorm, OwnFrames, Recurrence, check_features, clipped_relu, halved
from distdl.models.layers import check_sizes

_KERNELS = ((11, 41), (11, 21), (11, 21))  # time, frequency: table 4
_CHANNELS = (1, 1, 3)  # in units of the first layer's


class _Convolution(nn.Module):
    """A block: convolution, batch norm over the rows' own frames, clipped ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        self.edge = kernel[1] // 2
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, (kernel[0] // 2, self.edge), bias=False)
        self.norm = FrameNorm(outputs)

    def forward(self, maps_BTCF: Tensor, own: OwnFrames) -> Tensor:
        return clipped_relu(self.norm(self.convolution(maps_BTCF.transpose(1, 2)).transpose(1, 2), own))


class _Layer(nn.Module):
    """A block: batch norm, then a recurrence."""

    def __init__(self, inputs: int, width: int, cell: str, both_ways: bool, is_first: bool) -> None:
        super().__init__()
        self.norm = None if is_first else FrameNorm(inputs)  # the convolutions end in one
        self.recurrence = Recurrence(inputs, width, cell, both_ways=both_ways)

    def forward(self, values_BTX: Tensor, own: OwnFrames) -> Tensor:
        if self.norm is not None:
            values_BTX = self.norm(values_BTX, own)
        return self.recurrence(values_BTX, own)


class _LookAhead(nn.Module):
    """A row convolution (section 3.6, equation 12): each feature a weighted sum of this frame and `context` later."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, context + 1, groups=width, bias=False)

    def forward(self, values_BTX: Tensor) -> Tensor:
        padded_BXT = functional.pad(values_BTX.transpose(1, 2), (0, self.convolution.kernel_size[0] - 1))
        return self.convolution(padded_BXT).transpose(1, 2)


@dataclass(slots=True)
class State:
    """Of a stream of one or more sounds: what the convolutions have yet to see more of, and the recurrences'."""

    waiting: list[Tensor] = field(default_factory=list)  # (rows, channels, frames, features) for each convolution
    hidden: list[Tensor | tuple[Tensor, Tensor]] = field(default_factory=list)
    ahead: Tensor | None = None  # (rows, frames, width) that the row convolution has not given out


class DeepSpeech2(nn.Module):
    """forward(features (rows, frames, features), lengths (rows,)) -> (logits (rows, frames, classes), lengths)."""

    is_acoustic = True

    def __init__(
        self,
        *,
        classes: int,
        features: int,
        convolutions: int,
        channels: int,
        layers: int,
        width: int,
        cell: str,
        stride: int,
        look_ahead: int | None,
    ) -> None:
        check_sizes(classes=classes, features=features, channels=channels, layers=layers, width=width, stride=stride)
        if look_ahead is not None:
            check_sizes(look_ahead=look_ahead)
        if convolutions not in (1, 2, 3):
            raise UserError(f"{convolutions!r} convolutions: from 1 to 3", where="model.args.convolutions")
        super().__init__()
        self.features, self.stride = features, stride
        inputs, height, stack = 1, features, []
        for number, ((k_time, k_height), times) in enumerate(zip(_KERNELS[:convolutions], _CHANNELS)):
            k_height = min(k_height, height - 1 + height % 2)  # odd, and not more than there is
            outputs = channels * (times if convolutions == 3 else 1)
            stack.append(_Convolution(inputs, outputs, (k_time, k_height), (1 if number else stride, 2)))
            inputs, height = outputs, (height - 1) // 2 + 1
        self.convolutions = nn.ModuleList(stack)
        sizes = [inputs * height, *[width] * layers]
        both_ways = look_ahead is None
        self.layers = nn.ModuleList(
            _Layer(before, width, cell, both_ways, number == 0) for number, before in enumerate(sizes[:-1])
        )
        self.look_ahead = None if look_ahead is None else _LookAhead(width, look_ahead)
        self.norm = FrameNorm(width)
        self.classifier = nn.Linear(width, classes)

    def output_lengths(self, lengths_B: Tensor) -> Tensor:
        """How many frames of logits there are for each row's frames of features: (rows,) -> (rows,)."""
        return halved(lengths_B, self.stride)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Features (rows, frames, features) and their lengths (rows,) -> logits (rows, frames, classes), 1 frame for
        `stride` of them, and the logits' lengths. Raises UserError for features of another number."""
        check_features(features_BTF, self.features)
        own = OwnFrames(lengths_B, features_BTF.shape[1])
        maps_BTCF = own.zeroed(features_BTF)[:, :, None]
        lengths_B = self.output_lengths(lengths_B)
        own = OwnFrames(lengths_B, (features_BTF.shape[1] - 1) // self.stride + 1)
        for convolution in self.convolutions:
            maps_BTCF = convolution(maps_BTCF, own)
        values_BTX = maps_BTCF.flatten(2)
        for layer in self.layers:
            values_BTX = layer(values_BTX, own)
        if self.look_ahead is not None:
            values_BTX = clipped_relu(self.look_ahead(values_BTX))
        return self.classifier(self.norm(values_BTX, own)), lengths_B

    def blocks(self) -> list[str]:
        """Convolutions and recurrences. The row convolution and the classifier are left to the root."""
        return [
            *(f"convolutions.{number}" for number in range(len(self.convolutions))),
            *(f"layers.{number}" for number in range(len(self.layers))),
        ]

    # --- streaming ---

    @torch.no_grad()
    def step(self, features_BTF: Tensor, state: State | None = None, *, last: bool = False) -> tuple[Tensor, State]:
        """The logits (rows, frames, classes) that can be told once these frames, of any number, are there too; after
        the `last`, all of them together are those of the whole sounds. In evaluation mode, of a network that streams.

        Raises ValueError for a network that looks both ways.
        """
        if self.look_ahead is None or self.training:
            raise ValueError("only deep_speech2_streaming in evaluation mode goes on from chunk to chunk")
        state = state or State()
        maps_BCTF = features_BTF[:, None]
        for number, block in enumerate(self.convolutions):
            assert isinstance(block, _Convolution)
            maps_BCTF = self._convolved(maps_BCTF, block, number, state, last)
        values_BTX = maps_BCTF.transpose(1, 2).flatten(2)
        own = OwnFrames(
            torch.full((len(values_BTX),), values_BTX.shape[1], device=values_BTX.device), values_BTX.shape[1]
        )
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            values_BTX = self._recurred(values_BTX, own, layer, number, state)
        return self._told(values_BTX, state, last), state

    def _convolved(self, maps_BCTF: Tensor, block: _Convolution, number: int, state: State, last: bool) -> Tensor:
        convolution = block.convolution
        (k_time, _), (stride, _) = convolution.kernel_size, convolution.stride
        edge = k_time // 2
        if number == len(state.waiting):
            state.waiting.append(functional.pad(maps_BCTF[:, :, :0], (0, 0, edge, 0)))
        there_BCTF = torch.cat([state.waiting[number], maps_BCTF], dim=2)
        if last:
            there_BCTF = functional.pad(there_BCTF, (0, 0, 0, edge))
        n_out = max(0, (there_BCTF.shape[2] - k_time) // stride + 1)
        state.waiting[number] = there_BCTF[:, :, n_out * stride :]
        if not n_out:
            height = (maps_BCTF.shape[3] - 1) // 2 + 1
            return maps_BCTF.new_zeros(len(maps_BCTF), convolution.out_channels, 0, height)
        used_BCTF = there_BCTF[:, :, : (n_out - 1) * stride + k_time]
        padding = (0, block.edge)
        out_BCTF = functional.conv2d(used_BCTF, convolution.weight, None, convolution.stride, padding)
        normal_BCTF = block.norm.norm(out_BCTF.transpose(1, 2).flatten(0, 1))
        return clipped_relu(normal_BCTF.unflatten(0, (len(out_BCTF), n_out)).transpose(1, 2))

    def _recurred(self, values_BTX: Tensor, own: OwnFrames, layer: _Layer, number: int, state: State) -> Tensor:
        if not values_BTX.shape[1]:
            return values_BTX.new_zeros(len(values_BTX), 0, layer.recurrence.cell.hidden_size)
        if layer.norm is not None:
            values_BTX = layer.norm(values_BTX, own)
        before = state.hidden[number] if number < len(state.hidden) else None
        out_BTX, after = layer.recurrence.cell(values_BTX, before)
        state.hidden[number : number + 1] = [after]
        return out_BTX

    def _told(self, values_BTX: Tensor, state: State, last: bool) -> Tensor:
        assert self.look_ahead is not None, "asked only of a network that streams"
        context = self.look_ahead.convolution.kernel_size[0] - 1
        if state.ahead is not None:
            values_BTX = torch.cat([state.ahead, values_BTX], dim=1)
        n_told = values_BTX.shape[1] if last else max(0, values_BTX.shape[1] - context)
        state.ahead = values_BTX[:, n_told:]
        if not n_told:
            return values_BTX.new_zeros(len(values_BTX), 0, self.classifier.out_features)
        told_BTX = clipped_relu(self.look_ahead(values_BTX)[:, :n_told])
        own = OwnFrames(torch.full((len(told_BTX),), n_told, device=told_BTX.device), n_told)
        return self.classifier(self.norm(told_BTX, own))


def deep_speech2(
    classes: int = 29,
    features: int = 161,
    convolutions: int = 3,
    channels: int = 32,
    layers: int = 7,
    width: int = 1760,
    cell: str = "rnn",
    stride: int = 2,
) -> DeepSpeech2:
    """By default the paper's largest network for English: 3 convolutions, 7 recurrences of 1760 units (table 3)."""
    return DeepSpeech2(
        classes=classes,
        features=features,
        convolutions=convolutions,
        channels=channels,
        layers=layers,
        width=width,
        cell=cell,
        stride=stride,
        look_ahead=None,
    )


def deep_speech2_streaming(
    classes: int = 29,
    features: int = 161,
    convolutions: int = 2,
    channels: int = 32,
    layers: int = 5,
    width: int = 1280,
    cell: str = "gru",
    stride: int = 3,
    look_ahead: int = 19,
) -> DeepSpeech2:
    """By default as the paper's deployed one (section 3.6): forward recurrences, 19 frames of looking ahead."""
    return DeepSpeech2(
        classes=classes,
        features=features,
        convolutions=convolutions,
        channels=channels,
        layers=layers,
        width=width,
        cell=cell,
        stride=stride,
        look_ahead=look_ahead,
    )
