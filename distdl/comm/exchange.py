"""Our own gradient exchange: fixed buckets, summed over the workers while backward goes on.

Gradients are views into flat buckets, filled in reverse order of registration (about the order in which backward
produces them), so nothing is copied on the way. A bucket is sent as soon as backward has filled it and all before it,
so that the workers send in one order. The buckets never change during a run, hence neither does the order of the sums:
a resumed run has the bits of one that was never stopped. A parameter that a worker did not use counts as zero; one that
no worker used is left without a gradient, so that it is not updated and does not decay, as in one process.

At the end of the last bucket travel the step's status, sums of a few counts, among them the number of valid rows, so
that the mean is exact when shares are unequal; and for each parameter how many workers used it.
"""

import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from zlib import crc32

import torch
from torch import Tensor, nn

from distdl.comm import messages
from distdl.comm.collectives import Pending
from distdl.comm.reduction import Reduction
from distdl.comm.tree import LeafSums

_MIB = 2**20
_CARRIES_COUNTS = (torch.float32, torch.float64)  # exactly, up to 2^24


class Bucket:
    """A flat buffer: gradients of some parameters of one dtype, or other values; and `n_more` elements behind, which
    belong to the step and not to a part of the batch."""

    def __init__(
        self,
        name: str,
        parameters: Sequence[nn.Parameter],
        like: Tensor,
        *,
        n_values: int = 0,
        n_more: int = 0,
        multiple: int = 1,
    ) -> None:
        """`like`: a tensor of the dtype and on the device. The buffer is as long as the next `multiple`."""
        self.name, self.parameters = name, list(parameters)
        n = n_values + sum(p.numel() for p in self.parameters)
        self.flat = like.new_zeros(-(-(n + n_more) // multiple) * multiple)
        self.values, self.more = self.flat[:n], self.flat[n : n + n_more]
        self.views = []
        begin = 0
        for parameter in self.parameters:
            # The parameter's own strides (channels_last, say), so that the optimiser walks both in one order.
            self.views.append(self.flat.as_strided(parameter.size(), _dense_strides(parameter), begin))
            begin += parameter.numel()
        self.parts = LeafSums(self.flat, n)
        self.missing: set[nn.Parameter] = set()  # those that backward has not come to yet

    def attach(self) -> None:
        """Makes backward accumulate into it, from 0."""
        self.values.zero_()
        for parameter, view in zip(self.parameters, self.views):
            if parameter.grad is not view:
                parameter.grad = view


class Exchange:
    """The buckets of a model's trainable parameters, of at most `bucket_mib`; a larger tensor gets one of its own.

    A step calls `begin`, writes its counts to `status`, calls `keep` after each part of the batch but the last, `arm`
    before the last backward, and `finish` after it.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        bucket_mib: float,
        n_status: int,
        reduction: Reduction,
        others: Tensor,
        seal: Callable[[int], None] = lambda digest: None,
    ) -> None:
        """`others`, shape (n,): like what is summed besides gradients. `seal` is called when the status is about to be
        sent, with a digest of the buckets in the order in which they were sent.

        Raises RuntimeError if the workers' parameters differ.
        """
        _check_alike(parameters)
        groups = in_buckets(parameters, bucket_mib * _MIB)
        like: list[Tensor] = [group[0] for group in groups]
        if like[-1].dtype not in _CARRIES_COUNTS:
            groups.append([])
            like.append(like[-1].float())
        n_more = [0] * (len(groups) - 1) + [n_status + len(parameters)]
        make = partial(Bucket, multiple=reduction.multiple)
        self.buckets = [
            make(f"gradient bucket {i}", *each, n_more=n)
            for i, (each, n) in enumerate(zip(zip(groups, like), n_more, strict=True))
        ]
        self.status, self._users = self.buckets[-1].more.split([n_status, len(parameters)])
        first = make("buffers", [], others, n_values=others.numel())
        self.others = first.values
        """to be written before `keep` and before `arm`; the sums over all parts after `finish`"""
        self._sent = [first, *self.buckets] if others.numel() else [*self.buckets]
        self._reduction, self._seal = reduction, seal
        self._parameters = list(parameters)
        self._used: set[nn.Parameter] = set()  # by this worker in this step
        self._armed, self._digest = False, 0
        self._running: list[Running] = []
        for number, bucket in enumerate(self.buckets):
            for parameter in bucket.parameters:
                hook = partial(_arrived, weakref.ref(self), number)
                parameter.register_post_accumulate_grad_hook(hook)

    def begin(self) -> None:
        """Zeroes the gradients and the status."""
        self._armed, self._digest = False, 0
        self._running.clear()
        self._used.clear()
        for bucket in self.buckets:
            bucket.attach()
            bucket.more.zero_()
        self._users.fill_(1)  # when backward alone sends the last bucket, it has come to all of them

    def keep(self, part: int) -> None:
        """Ends a part of the batch that is not this worker's last."""
        for bucket in self._sent:
            bucket.parts.keep(part)
            bucket.attach()

    def arm(self) -> None:
        """From here on buckets are sent as backward fills them: nothing is added to a gradient after that."""
        self._armed = True
        for bucket in self._sent:
            bucket.missing = set(bucket.parameters)
        self._send_filled()

    def finish(self) -> None:
        """Sends what backward has left, such as buckets with unused parameters, and waits for all."""
        self._armed = False
        unused: list[int] = []
        if len(self._used) < len(self._parameters):
            unused = [i for i, parameter in enumerate(self._parameters) if parameter not in self._used]
            self._users[unused] = 0
        while len(self._running) < len(self._sent):
            self._send_next()
        for running in self._running:
            while not running.is_done:
                running.next()
                self._advance()
        if unused:  # what this worker used has a user: only others need to look, and to wait for a device
            users = self._users.tolist()
            for i in unused:
                if users[i] == 0:
                    self._parameters[i].grad = None

    def _arrived(self, bucket: Bucket, parameter: nn.Parameter) -> None:
        self._used.add(parameter)
        if not self._armed:
            return
        if parameter not in bucket.missing:
            raise RuntimeError(
                "a gradient came twice in one backward pass: does the network use reentrant activation checkpointing? "
                "Use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
            )
        bucket.missing.remove(parameter)
        self._send_filled()

    def _send_filled(self) -> None:
        while len(self._running) < len(self._sent) and not self._sent[len(self._running)].missing:
            self._send_next()
        self._advance()

    def _send_next(self) -> None:
        bucket = self._sent[len(self._running)]
        self._digest = crc32(bucket.name.encode(), self._digest)
        if bucket is self.buckets[-1]:
            self._seal(self._digest)
        parts = bucket.parts.close(self._reduction.parts[-1])
        self._running.append(Running(self._reduction.steps(parts, bucket.name)))

    def _advance(self) -> None:
        """Takes each sum as far as it goes without waiting, but no further than the one before it: so all workers call
        each step's collectives in the order of the buckets."""
        limit = math.inf
        for running in self._running:
            running.advance(limit)
            limit = running.n_begun


def _arrived(exchange: "weakref.ref[Exchange]", number: int, parameter: nn.Parameter) -> None:
    """A hook. It holds nothing: Python can't see that a parameter's hooks belong to it, and would never free either."""
    if live := exchange():
        live._arrived(live.buckets[number], parameter)


class Running:
    """A sum under way: some collectives, one after the other."""

    def __init__(self, steps: Iterator[Pending]) -> None:
        self._steps = steps
        self._pending = Pending(None)
        self.n_begun: float = 0
        self.is_done = False
        self.next()

    def advance(self, limit: float) -> None:
        """Begins what can be begun without waiting, while `n_begun` is below `limit`."""
        while not self.is_done and self.n_begun < limit and self._pending.test():
            self.next()

    def next(self) -> None:
        """Waits for its present collective and begins the next one."""
        self._pending.wait()
        following = next(self._steps, None)
        if following is None:
            self.is_done, self.n_begun = True, math.inf
        else:
            self._pending = following
            self.n_begun += 1


def in_buckets(parameters: Sequence[nn.Parameter], most_bytes: float) -> list[list[nn.Parameter]]:
    """Parameters of one dtype and device in reverse order, in groups of at most `most_bytes`.

    The first is small, so that the link has something to carry early. What would be the last one is cut again, three
    quarters and so on, so that little is left to send when backward ends; but below 1 MiB latency would outweigh that.
    """
    groups: list[list[nn.Parameter]] = []
    left = sum(_size_bytes(parameter) for parameter in parameters)
    filled, limit = 0, 0.0
    for parameter in reversed(parameters):
        size = _size_bytes(parameter)
        same_kind = groups and groups[-1][0].dtype == parameter.dtype and groups[-1][0].device == parameter.device
        if not same_kind or filled + size > limit:
            wanted = most_bytes if left > most_bytes else 0.75 * left
            limit = min(most_bytes, max(_MIB, wanted if groups else 0))
            filled = 0
            groups.append([])
        groups[-1].append(parameter)
        filled += size
        left -= size
    return groups


def _size_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _check_alike(parameters: Sequence[nn.Parameter]) -> None:
    listed = [f"{list(parameter.shape)} {parameter.dtype}" for parameter in parameters]
    for rank, others in enumerate(messages.gather_json(listed)):
        if others != listed:
            both = itertools.zip_longest(listed, others, fillvalue="missing")
            number, (mine, theirs) = next(each for each in enumerate(both) if each[1][0] != each[1][1])
            raise RuntimeError(
                f"the workers train unlike networks: parameter {number} is {mine} here, {theirs} on rank {rank}"
            )


def _dense_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """The tensor's strides where its elements fill one block without gaps, else contiguous ones."""
    return torch.empty_like(tensor, device="meta").stride()
