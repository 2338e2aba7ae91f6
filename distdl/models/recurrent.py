"""Recurrent networks as they were first written down: Elman's (1990), and the LSTM, whose fused form is torch's.

elman   h_t = tanh(W x_t + U h_{t-1} + b)        (Elman 1990, "Finding structure in time")
lstm    i, f, o = sigma(W x_t + U h_{t-1} + b), g = tanh(...), c_t = f c_{t-1} + i g, h_t = o tanh(c_t)
        (Hochreiter and Schmidhuber 1997; the forget gate f: Gers, Schmidhuber and Cummins 2000)

With `bptt` the gradient goes back so many frames at most: the state is cut off at the borders of such stretches
(truncated back-propagation through time: Williams and Peng 1990).
"""

from typing import Any

import torch
from torch import Tensor, nn

from distdl.models.frames import OwnFrames, check_features
from distdl.models.layers import check_sizes


class ElmanCell(nn.Module):
    """h (inputs + h) + h parameters."""

    n_states = 1

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.of_input, self.of_state = nn.Linear(inputs, width), nn.Linear(width, width, bias=False)

    def forward(self, projected_BX: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """`projected_BX`: of_input(x_t), made for all frames at once."""
        return (torch.tanh(projected_BX + self.of_state(states[0])),)


class LstmCell(nn.Module):
    """4 (h (inputs + h) + h) parameters: one bias, where torch's fused one has two. Gates are in torch's order."""

    n_states = 2

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.of_input, self.of_state = nn.Linear(inputs, 4 * width), nn.Linear(width, 4 * width, bias=False)

    def forward(self, projected_BX: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden_BX, cell_BX = states
        i, f, g, o = (projected_BX + self.of_state(hidden_BX)).chunk(4, dim=1)
        cell_BX = torch.sigmoid(f) * cell_BX + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell_BX), cell_BX


class FusedCell(nn.Module):
    """A layer of torch's nn.LSTM, computed for a stretch of frames at once."""

    n_states = 2

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, width, batch_first=True)


class _Layer(nn.Module):
    """A block: a cell over all frames, (rows, frames, inputs) -> (rows, frames, width)."""

    def __init__(self, cell: ElmanCell | LstmCell | FusedCell, width: int, bptt: int | None) -> None:
        super().__init__()
        self.cell, self.width, self.bptt = cell, width, bptt

    def forward(self, values_BTX: Tensor) -> Tensor:
        n_rows, n_frames = values_BTX.shape[:2]
        states = tuple(values_BTX.new_zeros(n_rows, self.width) for _ in range(self.cell.n_states))
        parts = []
        for stretch_BTX in values_BTX.split(self.bptt or max(1, n_frames), dim=1):
            states = tuple(state.detach() for state in states)
            if isinstance(self.cell, FusedCell):
                out_BTX, (hidden, memory) = self.cell.lstm(stretch_BTX, (states[0][None], states[1][None]))
                states = hidden[0], memory[0]
            else:
                outputs = []
                for projected_BX in self.cell.of_input(stretch_BTX).unbind(1):
                    states = self.cell(projected_BX, states)
                    outputs.append(states[0])
                out_BTX = torch.stack(outputs, dim=1)
            parts.append(out_BTX)
        return torch.cat(parts, dim=1)


class Recurrent(nn.Module):
    """forward(features (rows, frames, features), lengths (rows,)) -> (logits (rows, frames, classes), lengths)."""

    is_acoustic = True

    def __init__(self, kind: Any, classes: int, features: int, layers: int, width: int, bptt: int | None) -> None:
        super().__init__()
        check_sizes(classes=classes, features=features, layers=layers, width=width)
        if bptt is not None:
            check_sizes(bptt=bptt)
        self.features = features
        sizes = [features, *[width] * (layers - 1)]
        self.layers = nn.ModuleList(_Layer(kind(before, width), width, bptt) for before in sizes)
        self.classifier = nn.Linear(width, classes)

    def output_lengths(self, lengths_B: Tensor) -> Tensor:
        return lengths_B

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        own = OwnFrames(lengths_B, features_BTF.shape[1])
        check_features(features_BTF, self.features)
        values_BTX = own.zeroed(features_BTF)
        for layer in self.layers:
            values_BTX = layer(values_BTX)
        return own.zeroed(self.classifier(values_BTX)), lengths_B

    def blocks(self) -> list[str]:
        return [f"layers.{number}" for number in range(len(self.layers))]


def to_fused(network: Recurrent) -> Recurrent:
    """An lstm_fused that computes what this lstm does. Raises ValueError for another network."""
    layers = [layer for layer in network.layers if isinstance(layer, _Layer)]
    first, out = layers[0], network.classifier
    fused = Recurrent(FusedCell, out.out_features, network.features, len(layers), first.width, first.bptt)
    fused.to(out.weight)
    with torch.no_grad():
        for own, other in zip(layers, fused.layers):
            if not isinstance(own.cell, LstmCell):
                raise ValueError("only an lstm of one's own has a fused form")
            assert isinstance(other, _Layer) and isinstance(other.cell, FusedCell)
            weights = dict(other.cell.lstm.named_parameters())
            weights["weight_ih_l0"].copy_(own.cell.of_input.weight)
            weights["weight_hh_l0"].copy_(own.cell.of_state.weight)
            weights["bias_ih_l0"].copy_(own.cell.of_input.bias)
            weights["bias_hh_l0"].zero_()
    fused.classifier.load_state_dict(out.state_dict())
    return fused


def elman(
    classes: int = 29, features: int = 40, layers: int = 1, width: int = 512, bptt: int | None = None
) -> Recurrent:
    return Recurrent(ElmanCell, classes, features, layers, width, bptt)


def lstm(
    classes: int = 29, features: int = 40, layers: int = 2, width: int = 512, bptt: int | None = None
) -> Recurrent:
    return Recurrent(LstmCell, classes, features, layers, width, bptt)


def lstm_fused(
    classes: int = 29, features: int = 40, layers: int = 2, width: int = 512, bptt: int | None = None
) -> Recurrent:
    return Recurrent(FusedCell, classes, features, layers, width, bptt)
