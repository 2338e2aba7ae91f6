"""Conformer with CTC (Gulati et al. 2020, "Conformer: convolution-augmented transformer for speech recognition").

Features are taken down to a quarter of the frames by two convolutions of stride 2; then come blocks of half a
feed-forward layer, self-attention with relative positions (Dai et al. 2019, "Transformer-XL"), a convolution, another
half feed-forward layer, and a layer norm. Sizes are those of NVIDIA NeMo's Conformer-CTC, small and medium.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distdl.errors import UserError
from distdl.models.frames import FrameNorm, OwnFrames, check_features, halved
from distdl.models.layers import check_probabilities, check_sizes
from distdl.models.options import options_of


class _Subsampling(nn.Module):
    """A block: (rows, frames, features) -> (rows, a quarter of the frames, width)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(inputs, width, 3, stride=2, padding=1) for inputs in (1, width))
        self.out = nn.Linear(width * (((features - 1) // 2 + 1 - 1) // 2 + 1), width)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        maps_BCTF = features_BTF[:, None]
        for convolution in self.convolutions:
            own = OwnFrames(lengths_B, maps_BCTF.shape[2])
            maps_BCTF = functional.relu(convolution(own.zeroed(maps_BCTF.transpose(1, 2)).transpose(1, 2)))
            lengths_B = halved(lengths_B)
        return self.out(maps_BCTF.transpose(1, 2).flatten(2)), lengths_B


class _FeedForward(nn.Module):
    def __init__(self, width: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values_BTX: Tensor) -> Tensor:
        inner = self.dropout(functional.silu(self.inner(self.norm(values_BTX))))
        return self.dropout(self.outer(inner))


class RelativeAttention(nn.Module):
    """Self-attention whose scores are (q + u) k + (q + v) r of the distance (Dai et al. 2019, section 3.3)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        check_sizes(width=width, heads=heads)
        if width % heads:
            raise UserError(f"a width of {width} is not divided by {heads} heads", where="model.args.heads")
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.position = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.of_content = nn.Parameter(torch.zeros(heads, width // heads))
        self.of_position = nn.Parameter(torch.zeros(heads, width // heads))
        self.dropout = nn.Dropout(dropout)

    def forward(self, values_BTX: Tensor, positions_PX: Tensor, mask_BT: Tensor) -> Tensor:
        """`positions_PX`: encodings of the distances T - 1 to 1 - T; `mask_BT`: which frames may be looked at."""
        query_BTHD, key_BTHD, value_BTHD = (
            each(values_BTX).unflatten(2, (self.heads, -1)) for each in (self.query, self.key, self.value)
        )
        position_PHD = self.position(positions_PX).unflatten(1, (self.heads, -1))
        content_BHTT = torch.einsum("bthd,bshd->bhts", query_BTHD + self.of_content, key_BTHD)
        distance_BHTP = torch.einsum("bthd,phd->bhtp", query_BTHD + self.of_position, position_PHD)
        scores_BHTT = (content_BHTT + shifted(distance_BHTP)) / math.sqrt(query_BTHD.shape[3])
        hidden_B11T = ~mask_BT[:, None, None, :]
        scores_BHTT = scores_BHTT.float().masked_fill(hidden_B11T, torch.finfo(torch.float32).min)
        weights_BHTT = self.dropout(scores_BHTT.softmax(3).to(value_BTHD.dtype))
        return self.out(torch.einsum("bhts,bshd->bthd", weights_BHTT, value_BTHD).flatten(2))


def shifted(distance_BHTP: Tensor) -> Tensor:
    """(B, H, T, 2 T - 1), by distance from T - 1 down, -> (B, H, T, T): at (t, s) that of t - s (Dai et al. 2019,
    appendix B)."""
    n_frames = distance_BHTP.shape[2]
    padded_BHTP = functional.pad(distance_BHTP, (1, 0))
    rolled = padded_BHTP.flatten(2)[:, :, n_frames:].unflatten(2, (n_frames, -1))
    return rolled[..., :n_frames]


class _Convolution(nn.Module):
    """Pointwise with a gated linear unit, depthwise, batch norm over the rows' own frames, swish, pointwise."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise UserError(f"a kernel of {kernel} has no middle", where="model.args.kernel", fix="Use an odd one.")
        self.norm = nn.LayerNorm(width)
        self.gated = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.batch_norm = FrameNorm(width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values_BTX: Tensor, own: OwnFrames) -> Tensor:
        gated_BTX = own.zeroed(functional.glu(self.gated(self.norm(values_BTX)), dim=2))
        mixed_BTX = self.depthwise(gated_BTX.transpose(1, 2)).transpose(1, 2)
        return self.dropout(self.out(functional.silu(self.batch_norm(mixed_BTX, own))))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, kernel: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.before, self.after = (_FeedForward(width, expansion, dropout) for _ in range(2))
        self.attention_norm = nn.LayerNorm(width)
        self.attention = RelativeAttention(width, heads, dropout)
        self.attention_dropout = nn.Dropout(dropout)
        self.convolution = _Convolution(width, kernel, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, values_BTX: Tensor, positions_PX: Tensor, own: OwnFrames) -> Tensor:
        values_BTX = values_BTX + 0.5 * self.before(values_BTX)
        attended = self.attention(self.attention_norm(values_BTX), positions_PX, own.mask_BT)
        values_BTX = values_BTX + self.attention_dropout(attended)
        values_BTX = values_BTX + self.convolution(values_BTX, own)
        return self.norm(values_BTX + 0.5 * self.after(values_BTX))


class Conformer(nn.Module):
    """forward(features (rows, frames, features), lengths (rows,)) -> (logits (rows, frames / 4, classes), lengths)."""

    is_acoustic = True

    def __init__(
        self,
        width: int,
        layers: int,
        *,
        classes: int = 128,
        features: int = 80,
        heads: int = 4,
        kernel: int = 31,
        expansion: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_sizes(classes=classes, features=features, width=width, layers=layers, heads=heads)
        check_sizes(kernel=kernel, expansion=expansion)
        check_probabilities(dropout=dropout)
        self.features, self.width = features, width
        self.subsampling = _Subsampling(features, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_Block(width, heads, kernel, expansion, dropout) for _ in range(layers))
        self.classifier = nn.Linear(width, classes)

    def output_lengths(self, lengths_B: Tensor) -> Tensor:
        return halved(halved(lengths_B))

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        check_features(features_BTF, self.features)
        values_BTX, lengths_B = self.subsampling(features_BTF, lengths_B)
        own = OwnFrames(lengths_B, values_BTX.shape[1])
        positions_PX = positions(values_BTX.shape[1], self.width, values_BTX)
        values_BTX = self.dropout(values_BTX * math.sqrt(self.width))
        for layer in self.layers:
            values_BTX = layer(values_BTX, positions_PX, own)
        return own.zeroed(self.classifier(values_BTX)), lengths_B

    def blocks(self) -> list[str]:
        return ["subsampling", *(f"layers.{number}" for number in range(len(self.layers)))]


def positions(n_frames: int, width: int, like: Tensor) -> Tensor:
    """(2 n - 1, width): sines and cosines of the distances n - 1 to 1 - n (Vaswani et al. 2017, section 3.5)."""
    distance_P1 = torch.arange(n_frames - 1, -n_frames, -1, device=like.device, dtype=torch.float32)[:, None]
    rate_X = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(10000.0) / width))
    angles_PX = distance_P1 * rate_X
    return torch.stack([angles_PX.sin(), angles_PX.cos()], dim=2).flatten(1)[:, :width].to(like.dtype)


@options_of(Conformer)
def conformer_ctc_small(width: int = 176, layers: int = 16, **options: Any) -> Conformer:
    """12,995,264 parameters at 128 classes."""
    return Conformer(width, layers, **options)


@options_of(Conformer)
def conformer_ctc_medium(width: int = 256, layers: int = 18, **options: Any) -> Conformer:
    """30,538,368 parameters at 128 classes."""
    return Conformer(width, layers, **options)
