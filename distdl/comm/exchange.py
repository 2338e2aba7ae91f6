"""Our gradient exchange: fixed buckets, summed over the workers while backward goes on, with start / wait for each.

Gradients are views into flat buckets, filled in reverse order of registration (about the order in which backward
produces them), so nothing is copied on the way. A bucket is sent as soon as backward has filled it and all before it,
so that the workers send in one order. The buckets never change during a run, hence neither does the order of the sums:
a resumed run has the bits of one that was never stopped. A parameter that a worker did not use counts as zero; one that
no worker used is left without a gradient, so that it is not updated and does not decay, as in one process.

At the end of the last bucket travel the step's status, sums of a few counts, among them the number of valid rows, so
that the mean is exact when shares are unequal; and for each parameter how many workers used it.
"""

from collections.abc import Sequence
from functools import partial

import torch

from distdl.comm import collectives
from distdl.comm.collectives import Pending

_CARRIES_COUNTS = (torch.float32, torch.float64)  # exactly, up to 2^24


class Bucket:
    """A flat buffer whose pieces are the gradients of some parameters of one dtype, and `n_more` elements behind."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], n_more: int, like: torch.Tensor) -> None:
        """`like`: a tensor of the dtype and on the device."""
        self.parameters = list(parameters)
        size = sum(p.numel() for p in self.parameters)
        self.flat = like.new_zeros(size + n_more)
        self.more = self.flat[size:]
        self.views = []
        begin = 0
        for parameter in self.parameters:
            # The parameter's own strides (channels_last, say), so that the optimiser walks both in one order.
            self.views.append(self.flat.as_strided(parameter.size(), _dense_strides(parameter), begin))
            begin += parameter.numel()
        self.missing: set[torch.nn.Parameter] = set()  # those that backward has not come to yet
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
    """The buckets of a model's trainable parameters, of at most `bucket_mib`; a larger tensor gets its own.

    A step calls `begin`, writes its counts to `status`, calls `arm` before the last backward, and `finish` after it.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], bucket_mib: float, n_status: int) -> None:
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
        like: list[torch.Tensor] = [group[0] for group in groups]
        if like[-1].dtype not in _CARRIES_COUNTS:
            groups.append([])
            like.append(like[-1].float())
        n_more = [0] * (len(groups) - 1) + [n_status + len(parameters)]
        self.buckets = [Bucket(*each) for each in zip(groups, n_more, like, strict=True)]
        self.status, self._users = self.buckets[-1].more.split([n_status, len(parameters)])  # type: ignore[no-untyped-call]
        self._parameters = list(parameters)
        self._used: set[torch.nn.Parameter] = set()  # by this worker in this step
        self._armed = False
        self._n_started = 0
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                hook = partial(self._arrived, bucket)
                parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        """Zeroes the gradients and the status."""
        self._armed, self._n_started = False, 0
        self._used.clear()
        for bucket in self.buckets:
            bucket.attach()
        self._users.fill_(1)  # when backward alone sends the last bucket, it has come to all of them

    def arm(self) -> None:
        """From here on buckets are sent as backward fills them: nothing is added to a gradient after that."""
        self._armed = True
        for bucket in self.buckets:
            bucket.missing = set(bucket.parameters)

    def finish(self) -> None:
        """Sends what backward has left, such as buckets with unused parameters, and waits for all."""
        self._armed = False
        unused: list[int] = []
        if len(self._used) < len(self._parameters):
            unused = [i for i, parameter in enumerate(self._parameters) if parameter not in self._used]
            self._users[unused] = 0
        while self._n_started < len(self.buckets):
            self._start_next()
        for bucket in self.buckets:
            bucket.wait()
        if unused:  # what this worker used has a user: only others need to look, and to wait for a device
            users = self._users.tolist()
            for i in unused:
                if users[i] == 0:
                    self._parameters[i].grad = None

    def _arrived(self, bucket: Bucket, parameter: torch.nn.Parameter) -> None:
        self._used.add(parameter)
        if not self._armed:
            return
        if parameter not in bucket.missing:
            raise RuntimeError(
                "a gradient came twice in one backward pass: does the network use reentrant activation checkpointing? "
                "Use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
            )
        bucket.missing.remove(parameter)
        while self._n_started < len(self.buckets) and not self.buckets[self._n_started].missing:
            self._start_next()

    def _start_next(self) -> None:
        self.buckets[self._n_started].start()
        self._n_started += 1


def _dense_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """The tensor's strides where its elements fill one block without gaps, else contiguous ones."""
    return torch.empty_like(tensor, device="meta").stride()
