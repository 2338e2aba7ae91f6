"""Batch norm over other rows than the worker's own: all workers' (sync), groups of a few (ghost), or none (frozen).

`convert` gives a network's BatchNorm modules another class and leaves all else in place: parameters, buffers, hooks and
names stay the objects that they were. In evaluation both are torch's own batch norm, without a collective.

Sync makes one small sum over the workers per layer and pass: a worker that does fewer forwards than the others would
leave them waiting. `check_sync` refuses configs under which that can happen.
"""

import itertools
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from distdl.comm import collectives
from distdl.config.schema import Config
from distdl.errors import UserError

_TORCHS_OWN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def convert(model: nn.Module, kind: Literal["local", "sync", "ghost"], ghost_rows: int) -> None:
    """Changes every nn.BatchNorm1d, 2d and 3d of the network, the root among them. Raises UserError if it has none."""
    if kind == "local":
        return
    norms = [m for m in model.modules() if type(m) in _TORCHS_OWN]
    if not norms and not any(isinstance(m, FrozenBatchNorm) for m in model.modules()):
        raise UserError(
            "this network has no batch norm", where=f"train.batch_norm: {kind}", fix="Leave train.batch_norm out."
        )
    for norm in norms:
        norm.__class__ = SyncBatchNorm if kind == "sync" else GhostBatchNorm
        norm.ghost_rows = ghost_rows  # type: ignore[assignment]  # nn.Module's attributes are typed as tensors


def freeze_statistics(model: nn.Module) -> None:
    """A batch norm whose weight and bias are frozen is used as in evaluation: with the statistics that it has.

    Otherwise what is frozen would still move with the new data, and features would depend on the rest of a batch.
    """
    for norm in model.modules():
        if type(norm) in _TORCHS_OWN and norm.affine and not any(p.requires_grad for p in norm.parameters()):
            norm.__class__ = FrozenBatchNorm
            norm.eval()


def check_sync(config: Config, world_size: int) -> None:
    """Raises UserError where sync batch norm would have workers do unlike numbers of forwards in a step."""
    train = config.train
    if train.batch_norm != "sync" or world_size == 1 or train.micro_batch is None:
        return
    if train.micro_batch == "auto":
        raise UserError(
            "each worker finds out alone how many rows fit, and batch_norm: sync has all of them meet in every layer",
            where="train.micro_batch: auto",
            fix="Give a number of rows, or use train.batch_norm: ghost.",
        )
    growth = train.batch_growth
    n_growths = len(growth.epochs) if growth else 0
    global_batches = [train.global_batch * (growth.factor if growth else 1) ** n for n in range(n_growths + 1)]
    unlike = [batch for batch in global_batches if _forwards_differ(batch, world_size, train.micro_batch)]
    if unlike:
        sizes = itertools.count(train.micro_batch + 1)
        better = next(m for m in sizes if not any(_forwards_differ(b, world_size, m) for b in global_batches))
        raise UserError(
            f"{world_size} workers would do unlike numbers of forwards for a global batch of {unlike[0]}, "
            "and batch_norm: sync has all of them meet in each",
            where=f"train.micro_batch: {train.micro_batch}",
            fix=f"Use train.micro_batch={better}, or a global batch that the workers divide.",
        )


def _forwards_differ(global_batch: int, world_size: int, micro_batch: int) -> bool:
    """Whether shares that differ by one row are cut into unlike numbers of micro-batches."""
    fewest, rest = divmod(global_batch, world_size)
    return rest > 0 and fewest % micro_batch == 0


class FrozenBatchNorm(_BatchNorm):
    """In evaluation mode always."""

    def train(self, mode: bool = True) -> "FrozenBatchNorm":
        return super().train(False)

    def reset_running_stats(self) -> None:
        """They stay: what estimates statistics anew is asked of other layers."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions: the class that it had knew which."""


class SyncBatchNorm(_BatchNorm):
    """Normalises by the statistics of all workers' rows. Workers may have unlike numbers of rows, or none."""

    def forward(self, values: Tensor) -> Tensor:
        """(rows, channels, ...) -> the same shape and dtype."""
        alone = collectives.world_size() == 1
        return self._forward_together(values) if self.training and not alone else super().forward(values)

    # Keeps collectives out of what is compiled. torch.compiler.disable is the same, but imports the compiler at once:
    # a second for every command, where only training needs it.
    @torch._disable_dynamo
    def _forward_together(self, values: Tensor) -> Tensor:
        with torch.no_grad():
            mean, variance, count = _statistics_of_all(values)
            _track(self, mean, variance * (count / (count - 1).clamp(min=1)))
        return _Normalise.apply(values, self.weight, self.bias, mean, variance, count, self.eps)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions: the class that it had knew which."""


class GhostBatchNorm(_BatchNorm):
    """Normalises each `ghost_rows` consecutive rows by their own statistics (Hoffer, Hubara and Soudry 2017, "Train
    longer, generalize better", algorithm 1), which keeps the noise of small batches in large ones.

    The running statistics move once per forward, towards the groups' mean, weighted by their rows. The paper moves
    them once per group; this way `momentum` means the same whatever the size of the groups.
    """

    ghost_rows: int

    def forward(self, values: Tensor) -> Tensor:
        """(rows, channels, ...) -> the same shape and dtype."""
        if not self.training:
            return super().forward(values)
        mean, variance = _zeros(2, values)
        outputs, n_rows = [], 0
        for group in values.split(_group_sizes(len(values), self.ghost_rows)):
            n_rows += len(group)
            weight = len(group) / max(1, n_rows)  # by which `mean` becomes the mean over all rows so far
            outputs.append(functional.batch_norm(group, mean, variance, self.weight, self.bias, True, weight, self.eps))
        _track(self, mean, variance)
        return torch.cat(outputs)

    def _check_input_dim(self, input: Tensor) -> None:
        """As for SyncBatchNorm."""


def _group_sizes(n_rows: int, ghost_rows: int) -> list[int]:
    """Groups of `ghost_rows`; a last one may be smaller, but a single row, which has no variance, joins the others."""
    sizes = [min(ghost_rows, n_rows - begin) for begin in range(0, n_rows, ghost_rows)] or [0]
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [ghost_rows + 1]
    return sizes


def _statistics_of_all(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number of values of each channel over all workers, each (channels,), at least fp32.

    A worker's own statistics are torch's, which shift by the mean. They are put together in fp64, as (count, sum, sum
    of squares): 53 bits leave that as exact as merging them pair by pair (Chan, Golub and LeVeque 1979) in fp32 would
    be, and one sum of a size that does not depend on the number of workers does it.
    """
    sums = _zeros(3, values, torch.float64)
    if values.numel():
        # Zeros stand in for the running statistics: fp32 in, fp32 out, also for values in half precision.
        zeros = _zeros(2, values)
        mean, variance = (s.double() for s in torch.batch_norm_update_stats(values, zeros[0], zeros[1], 0.0))
        sums = torch.stack([torch.ones_like(mean), mean, variance + mean.square()]) * (values.numel() // len(mean))
    collectives.start_sum(sums).wait()  # not sum_, which asks the others first
    count, total, squares = sums
    count.clamp_(min=1)
    mean = total / count
    variance = (squares / count - mean.square()).clamp_(min=0)
    dtype = torch.promote_types(values.dtype, torch.float32)
    return mean.to(dtype), variance.to(dtype), count.to(dtype)


class _Normalise(torch.autograd.Function):
    """weight * (values - mean) / sqrt(variance + eps) + bias, where mean and variance depend on all workers' values."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(values, weight, mean, variance, count)
        ctx.eps = eps
        return functional.batch_norm(values, mean, variance, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """With x the normalised values and g their gradient, over N values of a channel (Ioffe and Szegedy 2015,
        section 3): g - mean(g) - x mean(g x), times weight / sqrt(variance + eps). The first term is that of constant
        statistics; the others are a batch norm of the values again, with another weight and bias.
        """
        values, weight, mean, variance, count = ctx.saved_tensors
        g_values, (sum_gx, sum_g) = gradient, _zeros(2, values)
        if values.numel():
            g_values, sum_gx, sum_g = torch.ops.aten.native_batch_norm_backward(
                gradient, values, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
            )
        scale = (variance + ctx.eps).rsqrt() * (1 if weight is None else weight)
        sums = torch.stack([sum_gx, sum_g])
        collectives.start_sum(sums).wait()
        mean_gx, mean_g = sums / count
        g_values += functional.batch_norm(values, mean, variance, -scale * mean_gx, -scale * mean_g, eps=ctx.eps)
        g_weight, g_bias = (None, None) if weight is None else (sum_gx, sum_g)
        return g_values, g_weight, g_bias, None, None, None, None


def _track(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Moves the running statistics by `momentum` towards the given ones; without momentum they are the mean of all."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    weight = (1 / norm.num_batches_tracked).to(mean) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, weight)
    norm.running_var.lerp_(variance, weight)


def _zeros(n: int, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(n, channels) of values (rows, channels, ...), on their device, in at least fp32."""
    return values.new_zeros(n, values.shape[1], dtype=dtype or torch.promote_types(values.dtype, torch.float32))
