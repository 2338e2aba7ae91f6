"""Mixup (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", equation 1): the network learns from mixtures
of two images, with the same mixture of their losses.

A row is mixed with the one that mirrors it in its micro-batch; the share, one for all of them, is keyed by (seed, step,
part of the batch, first row), so that a resumed run draws what it would have drawn.
"""

import random

import torch
from torch import Tensor

from distdl.config.schema import Config
from distdl.data.order import seed_of
from distdl.errors import UserError

_MIXUP = 14  # purpose of draws, as in seed_of(seed, purpose, step, ...)


def check(config: Config, n_parts: int, has_labels: bool) -> None:
    """Raises UserError where there is nothing to mix. `n_parts`: of a batch."""
    where = f"train.mixup: {config.train.mixup}"
    if config.train.mixup and 1 in (config.train.micro_batch, config.train.global_batch // n_parts):
        raise UserError(
            "mixup needs two rows in a forward, and some have one",
            where=where,
            fix="Use a larger train.micro_batch or train.global_batch, or fewer dist.leaves.",
        )
    if config.train.mixup and not has_labels:
        raise UserError("mixup mixes labels, and this task has none", where=where, fix="Leave it out.")
    if config.train.mixup and config.train.adversarial:
        raise UserError("mixup and adversarial examples don't go together", where=where, fix="Leave one of them out.")


def draw_share(alpha: float, seed: int, step: int, part: int, begin: int) -> float:
    """Of the row itself: from Beta(alpha, alpha)."""
    return random.Random(seed_of(seed, _MIXUP, step, part, begin)).betavariate(alpha, alpha)


def mixed(image: Tensor, batch: dict[str, Tensor], share: float) -> tuple[Tensor, dict[str, Tensor]]:
    """`share` of each image (rows, ...) and the rest of its partner's; and the batch with the partners' labels.

    A row that doesn't count, or whose partner doesn't, stays as it is.
    """
    mixes = (batch["valid"] * batch["valid"].flip(0)) > 0
    partner = batch["label"].flip(0)
    label = torch.where(mixes.view(-1, *[1] * (partner.dim() - 1)), partner, batch["label"])
    shares = torch.where(mixes, share, 1.0).to(image.dtype).view(-1, *[1] * (image.dim() - 1))
    return torch.lerp(image.flip(0), image, shares), {**batch, "label": label}
