"""Mixtures of two images, of whose labels the network learns the same mixture.

mixup: each pixel is a mixture (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", equation 1). cutmix: a
rectangle is the other image's, and its labels' share is the rectangle's area (Yun et al. 2019, "CutMix: Regularization
strategy to train strong classifiers with localizable features", equation 1). With both, one of them is drawn.

A row is mixed with the one that mirrors it in its micro-batch. What is drawn, once for all of them, is keyed by (seed,
step, part of the batch, first row), so that a resumed run draws what it would have drawn.
"""

import math
import random
from typing import NamedTuple

import torch
from torch import Tensor

from distdl.config.schema import Config, TrainConfig
from distdl.data.order import seed_of
from distdl.errors import UserError

_MIXUP, _CUTMIX, _SWITCH = 14, 15, 16  # purposes of draws, as in seed_of(seed, purpose, step, ...)


def check(config: Config, n_parts: int, has_labels: bool) -> None:
    """Raises UserError where there is nothing to mix. `n_parts`: of a batch."""
    train = config.train
    name = "mixup" if train.mixup else "cutmix"
    where = f"train.{name}: {getattr(train, name)}"
    if not train.mixup and not train.cutmix:
        return
    if 1 in (train.micro_batch, train.global_batch // n_parts):
        raise UserError(
            f"{name} needs two rows in a forward, and some have one",
            where=where,
            fix="Use a larger train.micro_batch or train.global_batch, or fewer dist.leaves.",
        )
    if not has_labels:
        raise UserError(f"{name} mixes labels, from which this task can't learn", where=where, fix="Leave it out.")
    if train.adversarial:
        raise UserError(f"{name} and adversarial examples don't go together", where=where, fix="Leave one of them out.")


def mix(
    image_NCHW: Tensor, batch: dict[str, Tensor], config: TrainConfig, step: int, part: int, begin: int
) -> tuple[Tensor, dict[str, Tensor], float]:
    """The mixed images, the batch with the partners' labels, and the share of the loss that is of the own labels.

    Of the micro-batch whose first row is row `begin` of its part of the batch; mixup, cutmix or both are switched on.
    """
    place = (config.seed, step, part, begin)
    if config.cutmix and (not config.mixup or draw_switch(*place) < config.mix_switch):
        height, width = image_NCHW.shape[2:]
        box = draw_box(config.cutmix, height, width, *place)
        return *cut(image_NCHW, batch, box), 1 - box.area / (height * width)
    assert config.mixup
    share = draw_share(config.mixup, *place)
    return *mixed(image_NCHW, batch, share), share


def draw_switch(seed: int, step: int, part: int, begin: int) -> float:
    return random.Random(seed_of(seed, _SWITCH, step, part, begin)).random()


# --- mixup ---


def draw_share(alpha: float, seed: int, step: int, part: int, begin: int) -> float:
    """Of the row itself: from Beta(alpha, alpha)."""
    return random.Random(seed_of(seed, _MIXUP, step, part, begin)).betavariate(alpha, alpha)


def mixed(image: Tensor, batch: dict[str, Tensor], share: float) -> tuple[Tensor, dict[str, Tensor]]:
    """`share` of each image (rows, ...) and the rest of its partner's; and the batch with the partners' labels.

    A row that doesn't count, or whose partner doesn't, stays as it is.
    """
    mixes = _mixes(batch)
    shares = torch.where(mixes, share, 1.0).to(image.dtype).view(-1, *[1] * (image.dim() - 1))
    return torch.lerp(image.flip(0), image, shares), {**batch, "label": _partners(batch, mixes)}


# --- cutmix ---


class Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> int:
        return self.height * self.width


def draw_box(alpha: float, height: int, width: int, seed: int, step: int, part: int, begin: int) -> Box:
    """Of an image's aspect ratio and of a share of its area from Beta(alpha, alpha), its middle anywhere in the image;
    what then lies outside is cut off (the paper's equation 2)."""
    draws = random.Random(seed_of(seed, _CUTMIX, step, part, begin))
    side = math.sqrt(1 - draws.betavariate(alpha, alpha))  # as a share of the image's
    y, x = draws.randrange(height), draws.randrange(width)
    box_height, box_width = int(height * side), int(width * side)
    top, left = max(0, y - box_height // 2), max(0, x - box_width // 2)
    bottom, right = min(height, y + (box_height + 1) // 2), min(width, x + (box_width + 1) // 2)
    return Box(top, left, bottom - top, right - left)


def cut(image_NCHW: Tensor, batch: dict[str, Tensor], box: Box) -> tuple[Tensor, dict[str, Tensor]]:
    """The images with the box of their partners', and the batch with the partners' labels; rows as in `mixed`."""
    mixes = _mixes(batch)
    inside = (..., slice(box.top, box.top + box.height), slice(box.left, box.left + box.width))
    image = image_NCHW.clone()
    image[inside] = torch.where(mixes.view(-1, 1, 1, 1), image_NCHW.flip(0)[inside], image_NCHW[inside])
    return image, {**batch, "label": _partners(batch, mixes)}


# --- partners ---


def _mixes(batch: dict[str, Tensor]) -> Tensor:
    """Whether both a row and its partner count, (rows,)."""
    return (batch["valid"] * batch["valid"].flip(0)) > 0


def _partners(batch: dict[str, Tensor], mixes: Tensor) -> Tensor:
    """The labels of the rows that they are mixed with; their own where they are not."""
    partner = batch["label"].flip(0)
    return torch.where(mixes.view(-1, *[1] * (partner.dim() - 1)), partner, batch["label"])
