"""Our gradient exchange: fixed buckets, summed over the workers, with start / wait / test for each.

Gradients are views into flat buckets, filled in reverse order of registration (about the order in which backward
produces them), so nothing is copied on the way. The buckets never change during a run, hence neither does the order of
the sums: a resumed run has the bits of one that was never stopped. A parameter without a gradient counts as zero.
One more element in the last bucket carries the number of samples, so that the mean is exact when shares are unequal.
"""

from collections.abc import Sequence

import torch

from distdl.comm import collectives
from distdl.comm.collectives import Pending


class Bucket:
    """A flat buffer whose pieces are the gradients of some parameters of one dtype."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], extra: int) -> None:
        self.parameters = list(parameters)
        first = self.parameters[0]
        size = sum(p.numel() for p in self.parameters)
        self.flat = torch.zeros(size + extra, dtype=first.dtype, device=first.device)
        self.views = []
        begin = 0
        for parameter in self.parameters:
            # The parameter's own strides (channels_last, say), so that the optimiser walks both in one order.
            self.views.append(self.flat.as_strided(parameter.size(), _dense_strides(parameter), begin))
            begin += parameter.numel()
        self._pending = Pending(None)

    def attach(self) -> None:
        """Zeroes the bucket and makes backward accumulate into it."""
        self.flat.zero_()
        for parameter, view in zip(self.parameters, self.views):
            if parameter.grad is not view:
                parameter.grad = view

    def start(self) -> None:
        self._pending = collectives.start_sum(self.flat)

    def wait(self) -> None:
        self._pending.wait()

    def test(self) -> bool:
        return self._pending.test()


class Exchange:
    """The buckets of a model's trainable parameters, of at most `bucket_mib`; a larger tensor gets its own."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], bucket_mib: float) -> None:
        groups: list[list[torch.nn.Parameter]] = []
        filled = 0
        for parameter in reversed(parameters):
            size = parameter.numel() * parameter.element_size()
            same_kind = groups and groups[-1][0].dtype == parameter.dtype and groups[-1][0].device == parameter.device
            if not same_kind or filled + size > bucket_mib * 2**20:
                groups.append([])
                filled = 0
            groups[-1].append(parameter)
            filled += size
        last = len(groups) - 1
        self.buckets = [Bucket(group, extra=1 if i == last else 0) for i, group in enumerate(groups)]

    def attach(self) -> None:
        for bucket in self.buckets:
            bucket.attach()

    def all_reduce(self, n_samples: int) -> torch.Tensor:
        """Sums all gradients and the sample count over the workers; returns the count, shape (), on the device."""
        count = self.buckets[-1].flat[-1]
        count.fill_(n_samples)
        for bucket in self.buckets:
            bucket.start()
        for bucket in self.buckets:
            bucket.wait()
        return count


def _dense_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """The tensor's strides where its elements fill one block without gaps, else contiguous ones."""
    return torch.empty_like(tensor, device="meta").stride()
