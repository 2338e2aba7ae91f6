"""Random arithmetic on a whole batch, on the device, between the transfer and `normalise`.

A transform with a method `of_batch(image_NCHW, draws, normalise)` runs here: image_NCHW holds levels of 0 to 255 as
fp32, `draws` numbers for each row (row_draws.py), which exist on the host. So the host knows which rows an
operation falls on, and takes them together without asking the device: nothing here waits for it.

Each transform of the list has draws of its own, keyed by the sample's key and its place in the list.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distdl.data.arguments import between, count, number, probability
from distdl.data.order import keyed
from distdl.data.pictures import colour
from distdl.data.pictures.of_batches import OnDevice
from distdl.data.pictures.row_draws import DEVIATION, MIDDLE, Int64s, RowDraws
from distdl.data.pictures.transforms import Normalise
from distdl.errors import UserError

FILLS = ("const", "rand", "pixel")


def augmented(image_NCHW: Tensor, transforms: Sequence[OnDevice], augment_key: Tensor, normalise: Normalise) -> Tensor:
    """`augment_key`: int64 (N,), on the host."""
    keys = augment_key.numpy().view(np.uint64)
    for place, transform in enumerate(transforms):
        image_NCHW = transform.of_batch(image_NCHW, RowDraws(keyed(keys, place)), normalise)
    return image_NCHW


class Brightness:
    """Levels times a number within `factor`, with probability `p`."""

    def __init__(self, factor: Sequence[float] = (0.8, 1.2), p: float = 1.0) -> None:
        self.factor = between(factor, "brightness", "factor", least=0, most=10)
        self.p = probability(p, "brightness")

    def of_batch(self, image_NCHW: Tensor, draws: RowDraws, normalise: Normalise) -> Tensor:
        factor = np.where(draws.uniform() < self.p, draws.uniform(*self.factor), 1.0)
        return colour.brightness(image_NCHW, on_device(factor, image_NCHW))


class ChannelShift:
    """A number of its own, of up to `levels` (of 255) either way, added to each channel, with probability `p`."""

    def __init__(self, levels: float = 20, p: float = 1.0) -> None:
        self.levels = number(levels, "channel_shift", "levels", least=0, most=255)
        self.p = probability(p, "channel_shift")

    def of_batch(self, image_NCHW: Tensor, draws: RowDraws, normalise: Normalise) -> Tensor:
        chosen = draws.uniform() < self.p
        shifts = [np.where(chosen, draws.uniform(-self.levels, self.levels), 0.0) for _ in range(image_NCHW.shape[1])]
        return colour.clamped(image_NCHW + on_device(np.stack(shifts, axis=1), image_NCHW))


class ColourJitter:
    """Brightness, contrast, saturation and hue, in an order of each image's own, with probability `p`.

    The first three are factors of 1 - x to 1 + x, the hue a turn by up to `hue` of the circle (0.5 is all of it). What
    is 0 is left out.
    """

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0, p: float = 1.0
    ) -> None:
        factors = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.reach = {name: number(reach, "colour_jitter", name, least=0, most=10) for name, reach in factors.items()}
        self.reach["hue"] = number(hue, "colour_jitter", "hue", least=0, most=0.5)
        self.p = probability(p, "colour_jitter")

    def of_batch(self, image_NCHW: Tensor, draws: RowDraws, normalise: Normalise) -> Tensor:
        chosen = draws.uniform() < self.p
        order = draws.order(len(self.reach))  # drawn whether or not they are 0: one can be switched off by itself
        operations: list[Callable[[Tensor, Int64s], Tensor]] = []
        for name, reach in self.reach.items():
            middle = 0.0 if name == "hue" else 1.0
            low = -reach if name == "hue" else max(0.0, 1.0 - reach)
            value = draws.uniform(low, middle + reach)
            if reach:
                operations.append(_with_values(getattr(colour, name), value))
            else:
                operations.append(_unchanged)
        for turn in range(order.shape[1]):
            image_NCHW = by_group(image_NCHW, np.where(chosen, order[:, turn], -1), operations)
        return image_NCHW


class RandomErasing:
    """A rectangle of the image is overwritten, with probability `p` (Zhong et al. 2017, "Random erasing data
    augmentation", algorithm 1).

    `area` is its share of the image, `ratio` height by width. `fill` is what stands there after normalisation, as in
    timm: const (0, so the mean colour), rand (one colour, each channel from the standard normal distribution) or pixel
    (so each pixel). The `n` rectangles of an image may overlap.
    """

    def __init__(
        self,
        p: float = 0.25,
        area: Sequence[float] = (0.02, 1 / 3),
        ratio: Sequence[float] = (0.3, 1 / 0.3),
        fill: str = "const",
        n: int = 1,
    ) -> None:
        self.p, self.fill = probability(p, "random_erasing"), fill
        self.area = between(area, "random_erasing", "area", least=0, most=1)
        self.ratio = between(ratio, "random_erasing", "ratio", least=0.01, most=100)
        self.n = count(n, "random_erasing", "n", least=1, most=100)
        if fill not in FILLS:
            raise UserError(f"random_erasing: fill is one of {', '.join(FILLS)} (got {fill})")

    def of_batch(self, image_NCHW: Tensor, draws: RowDraws, normalise: Normalise) -> Tensor:
        chosen = draws.uniform() < self.p
        for _ in range(self.n):
            boxes = self._boxes(draws, *image_NCHW.shape[2:])
            operation = self._filled(boxes, draws, image_NCHW.shape[1], normalise)
            image_NCHW = by_group(image_NCHW, np.where(chosen & (boxes[:, 2] > 0), 0, -1), [operation])
        return image_NCHW

    def _boxes(self, draws: RowDraws, height: int, width: int) -> Int64s:
        """(top, left, height, width) of each row; of height 0 where ten trials have found none that fits."""
        boxes = np.zeros((len(draws), 4), np.int64)
        for _ in range(10):
            area = height * width * draws.uniform(*self.area)
            ratio = np.exp(draws.uniform(*np.log(self.ratio)))
            h, w = (np.rint(np.sqrt(each)).astype(np.int64) for each in (area * ratio, area / ratio))
            fits = (h > 0) & (h < height) & (w > 0) & (w < width)
            top, left = draws.below(np.maximum(1, height - h + 1)), draws.below(np.maximum(1, width - w + 1))
            take = fits & (boxes[:, 2] == 0)
            boxes[take] = np.stack([top, left, h, w], axis=1)[take]
        return boxes

    def _filled(
        self, boxes: Int64s, draws: RowDraws, channels: int, normalise: Normalise
    ) -> Callable[[Tensor, Int64s], Tensor]:
        """What overwrites the boxes of some rows. The fill is made in levels: 255 * (mean + std * value)."""
        colours_NC = np.stack([draws.normal() for _ in range(channels)], axis=1)
        keys = draws.bits().view(np.int64)

        def fill(image: Tensor, rows: Int64s) -> Tensor:
            n_pixels = 1  # of a fill that is of one colour
            if self.fill == "pixel":
                n_pixels = int((boxes[rows, 2] * boxes[rows, 3]).max())
                value_NPC = noise(_sent(keys[rows], image), n_pixels, channels)
            else:
                value_NPC = _sent((colours_NC[rows] * (self.fill == "rand")).astype(np.float32)[:, None], image)
            mean_C, std_C = (_sent(np.array(each, np.float32) * 255, image) for each in (normalise.mean, normalise.std))
            level_NPC = mean_C + std_C * value_NPC
            image = image.clone()
            for row, (top, left, height, width) in enumerate(boxes[rows].tolist()):
                level_PC = level_NPC[row, : height * width].expand(height * width, channels)
                image[row, :, top : top + height, left : left + width] = level_PC.T.reshape(channels, height, width)
            return image

        return fill


# --- of some rows ---


def by_group(image_NCHW: Tensor, group: Int64s, operations: Sequence[Callable[[Tensor, Int64s], Tensor]]) -> Tensor:
    """Each row after the operation of its number in `group` (N,); -1 leaves it as it is.

    An operation gets the rows of its group, and their numbers.
    """
    order = np.argsort(group, kind="stable")
    groups, begins = np.unique(group[order], return_index=True)
    parts = []
    for each, rows in zip(groups.tolist(), np.split(order, begins[1:])):
        part = image_NCHW if len(groups) == 1 else image_NCHW.index_select(0, _sent(rows, image_NCHW))
        parts.append(part if each < 0 else operations[each](part, rows))
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts).index_select(0, _sent(np.argsort(order, kind="stable"), image_NCHW))


def on_device(values: npt.NDArray[np.float64], like: Tensor) -> Tensor:
    """(n,) or (n, C), as fp32 (n, 1 or C, 1, 1) where `like` is."""
    return _sent(values.astype(np.float32), like).view(len(values), -1, 1, 1)


def _sent(values: npt.NDArray[Any], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device, non_blocking=True)


def _with_values(
    operation: Callable[[Tensor, Tensor], Tensor], values: npt.NDArray[np.float64]
) -> Callable[[Tensor, Int64s], Tensor]:
    return lambda image, rows: operation(image, on_device(values[rows], image))


def _unchanged(image: Tensor, rows: Int64s) -> Tensor:
    return image


# --- noise that is keyed ---

_LANES, _LANE = 0x0000FFFF0000FFFF, 0xFFFFFFFF  # 16 bits in each half of 64, with room for sums; a half


def noise(keys: Tensor, n_pixels: int, channels: int) -> Tensor:
    """`RowDraws.normal` for each element of (N, n_pixels, channels), fp32, keyed by its row's key and its place.

    Whole numbers up to the last step: the bits are the same on every device.
    """
    place = torch.arange(n_pixels * channels, device=keys.device)
    first = _mix(keys[:, None] ^ place[None])
    second = _mix(first)
    halves = (first & _LANES) + ((first >> 16) & _LANES) + (second & _LANES) + ((second >> 16) & _LANES)
    total = (halves & _LANE) + (halves >> 32)
    return ((total - MIDDLE).float() * (1 / DEVIATION)).view(len(keys), n_pixels, channels)


def _mix(values: Tensor) -> Tensor:
    """splitmix64's finaliser on int64, whose products wrap; a shift to the right has to lose the sign."""
    z = values + _signed(0x9E3779B97F4A7C15)
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _signed(0x94D049BB133111EB)
    return z ^ ((z >> 31) & (2**33 - 1))


def _signed(bits: int) -> int:
    return bits - 2**64
