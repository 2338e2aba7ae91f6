"""Batches on their way to the device: the copy of one runs in a stream of its own, beside the computing of the one
before it. A batch's memory on the host is not let go of before its copy is complete."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from distdl.data.engine import HostBatch

_READ_ON_HOST = ("sample_id", "augment_key", "length")


def on_device(batches: Iterable[HostBatch], device: torch.device) -> Iterator[HostBatch]:
    """The same batches with their tensors on the device, as far as the network needs them there. Each is ready for the
    stream that is current when it is asked for."""
    if device.type != "cuda":
        yield from batches
        return
    copying = torch.cuda.Stream(device)
    on_the_way: deque[tuple[torch.cuda.Event, HostBatch]] = deque()
    for host in batches:
        while on_the_way and on_the_way[0][0].query():
            on_the_way.popleft()
        with torch.cuda.stream(copying):
            tensors = {
                name: tensor if name in _READ_ON_HOST else tensor.to(device, non_blocking=True)
                for name, tensor in host.tensors.items()
            }
            copied = copying.record_event()
        on_the_way.append((copied, host))
        computing = torch.cuda.current_stream(device)
        computing.wait_event(copied)
        for tensor in tensors.values():
            if tensor.is_cuda:
                tensor.record_stream(computing)  # its memory is not given to a later copy before that
        yield replace(host, tensors=tensors)
