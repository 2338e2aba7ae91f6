"""Counts that the workers add up in every step, on the way with the gradients: no collective and no wait of their own.

`put` before a step, `read` after it: the sums over all workers, the same on every worker at the same step. On a CPU
those of the step itself. On an accelerator they arrive there with the gradients, and to look at them would be a wait:
`read` gives those of the step before, whose copy has long come to the host, and `drain` the rest.
"""

from collections import Counter, deque

import torch

from distdl.comm import collectives
from distdl.watch import pulse

Counts = dict[str, int]


class Status:
    """`topics`: the names of the counters, the same on every worker; the first is the number of valid rows."""

    def __init__(self, topics: tuple[str, ...], device: torch.device) -> None:
        self.topics = topics
        self._lag = 0 if device.type == "cpu" else 1  # steps
        self._arriving: deque[tuple[int, torch.Tensor | list[float], torch.Event | None]] = deque()
        self._called = self._digest = 0
        self.use(torch.zeros(len(topics) + 1, dtype=torch.float32, device=device))

    def use(self, values: torch.Tensor) -> None:
        """Keeps the counts in `values`, shape (topics + 1,), fp32 or fp64, on the device.

        Whoever exchanges the gradients sums them over the workers, in place, between `put` and `exchanged`.
        """
        self.values = values
        self._on_host = values.numpy() if values.device.type == "cpu" else None  # the same memory
        self.n_valid = values[0]
        """valid rows, shape (), on the device; over all workers once it was exchanged"""

    def put(self, **counts: int) -> None:
        """This worker's counts for the step to come, each below 2^24; those of other topics are 0. ValueError if one is
        of none of them."""
        self._called = collectives.digest()
        mine = list((dict.fromkeys(self.topics, 0) | counts).values())
        if len(mine) > len(self.topics):
            raise ValueError(f"{sorted(counts.keys() - set(self.topics))}: counted, but not among {self.topics}")
        if self._on_host is not None:
            self._on_host[:-1] = mine
        else:
            self.values[:-1].copy_(torch.tensor(mine, dtype=self.values.dtype))

    def seal(self, sent: int = 0) -> None:
        """Adds what this worker has called, just before the values are sent: before the step (comm/collectives.py), and
        a digest of what it `sent` in it.

        Calls within the step wait for the next one: backward may have come further on one worker than on another.
        """
        most = 2**24 // collectives.world_size()  # fp32 holds the sum of that of all workers exactly
        self._digest = (self._called + sent) % most
        self.values[-1] = self._digest

    def exchanged(self) -> None:
        """`values` are sums over the workers now, for the current stream."""
        if self._on_host is not None:
            self._arriving.append((self._digest, self._on_host.tolist(), None))
            return
        copy = torch.empty(self.values.shape, dtype=self.values.dtype, pin_memory=True)
        copy.copy_(self.values, non_blocking=True)
        event = torch.Event(self.values.device.type)
        event.record()
        self._arriving.append((self._digest, copy, event))

    def read(self) -> Counts:
        """The newest sums that cost no wait; zeros where there are none yet.

        Raises RuntimeError where the workers did not call the same collectives.
        """
        return self._take() if len(self._arriving) > self._lag else dict.fromkeys(self.topics, 0)

    def drain(self) -> Counts:
        """The sums that were not read yet, waiting for them; zeros if there are none."""
        rest = Counter(dict.fromkeys(self.topics, 0))
        while self._arriving:
            rest.update(self._take())
        return dict(rest)

    def _take(self) -> Counts:
        digest, values, event = self._arriving.popleft()
        if event is not None:
            pulse.mine.wait()
            event.synchronize()
            pulse.mine.go_on()
        *counts, digests = map(int, values.tolist() if isinstance(values, torch.Tensor) else values)
        if digests != digest * collectives.world_size():
            raise RuntimeError(
                "the workers have called unlike collectives, or in another order, so their sums mean nothing. "
                "Do layers that meet in the forward pass (sync batch norm) run on some workers only?"
            )
        return dict(zip(self.topics, counts))
