"""Counts that the workers add up in every step, on the way with the gradients: no collective and no wait of their own.

`put` before a step, `read` after it: the sums over all workers, the same on every worker at the same step. On a CPU
those of the step itself. On an accelerator they arrive there with the gradients, and to look at them would be a wait:
`read` gives those of the step before, whose copy has long come to the host, and `drain` the rest.
"""

from collections import Counter, deque

import torch

Counts = dict[str, int]


class Status:
    """`topics`: the names of the counters, the same on every worker; the first is the number of valid rows."""

    def __init__(self, topics: tuple[str, ...], device: torch.device) -> None:
        self.topics = topics
        self.values = torch.zeros(len(topics), dtype=torch.float32, device=device)
        """What whoever exchanges the gradients sums over the workers, in place, between `put` and `exchanged`."""
        self._lag = 0 if device.type == "cpu" else 1  # steps
        self._arriving: deque[tuple[torch.Tensor, torch.Event | None]] = deque()

    @property
    def n_valid(self) -> torch.Tensor:
        """Valid rows, shape (), on the device; over all workers once it was exchanged."""
        return self.values[0]

    def put(self, **counts: int) -> None:
        """This worker's counts for the step to come, each below 2^24; those of other topics are 0."""
        self.values.copy_(torch.tensor([float(counts.get(topic, 0)) for topic in self.topics]))

    def exchanged(self) -> None:
        """`values` are sums over the workers now, for the current stream."""
        if self._lag == 0:
            self._arriving.append((self.values.clone(), None))
            return
        on_host = torch.empty(self.values.shape, dtype=self.values.dtype, pin_memory=True)
        on_host.copy_(self.values, non_blocking=True)
        event = torch.Event(self.values.device.type)
        event.record()
        self._arriving.append((on_host, event))

    def read(self) -> Counts:
        """The newest sums that cost no wait; zeros where there are none yet."""
        return self._take() if len(self._arriving) > self._lag else dict.fromkeys(self.topics, 0)

    def drain(self) -> Counts:
        """The sums that were not read yet, waiting for them; zeros if there are none."""
        rest = Counter(dict.fromkeys(self.topics, 0))
        while self._arriving:
            rest.update(self._take())
        return dict(rest)

    def _take(self) -> Counts:
        values, event = self._arriving.popleft()
        if event is not None:
            event.synchronize()
        return dict(zip(self.topics, map(int, values.tolist())))
