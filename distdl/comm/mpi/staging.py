"""Tensors as MPI takes them: contiguous, in the host's memory. What is so already is not copied, nor what is sparse.

With DISTDL_MPI_CUDA_AWARE=1 those on a device stay there: it is the user who knows that the MPI can take them.
"""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

_IS_CUDA_AWARE = os.environ.get("DISTDL_MPI_CUDA_AWARE") == "1"


def to_host(tensor: Tensor, is_read: bool) -> Tensor:
    """Flat, unless it is sparse. `is_read`: with its values; else only room for them."""
    if tensor.is_sparse:
        return tensor.cpu()
    if tensor.device.type == "cpu" or _IS_CUDA_AWARE:
        if is_read or tensor.is_contiguous():
            return tensor.detach().contiguous().view(-1)
        return tensor.new_empty(tensor.numel())
    host = torch.empty(tensor.numel(), dtype=tensor.dtype, pin_memory=True)
    if is_read:
        host.view(tensor.shape).copy_(tensor.detach())
    return host


def from_host(host: Tensor, tensor: Tensor) -> None:
    """Back, if it was a copy."""
    if tensor.is_sparse:
        if host is not tensor:
            tensor.copy_(host)
        return
    if host.data_ptr() != tensor.data_ptr() or host.device != tensor.device:
        tensor.detach().copy_(host.view(tensor.shape))


class Staged:
    """Some tensors in the host's memory while a `with` block lasts; those `written` go back at its end.

    On a device, the block begins after what its stream had to do when this was made, and `join` lets the stream of
    whoever calls it wait for the end.
    """

    __slots__ = ("_after", "_before", "_host", "_stream", "_tensors", "_written", "device")

    def __init__(self, tensors: Sequence[Tensor], written: Sequence[Tensor]) -> None:
        self._tensors, self._written = tensors, written
        self._host: list[Tensor] = []
        self.device = next((each.device for each in tensors if each.is_cuda), None)
        self._stream: Any = None
        self._before: Any = None
        self._after: Any = None
        if self.device is not None:
            if any(each.device != self.device for each in tensors):
                raise ValueError("tensors of one operation are on several devices")
            self._stream = _stream_of(self.device)
            self._before = torch.cuda.current_stream(self.device).record_event()

    def __enter__(self) -> list[Tensor]:
        if self._stream is None:
            self._host = [to_host(each, is_read=True) for each in self._tensors]
            return self._host
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._before)
            self._host = [to_host(each, is_read=True) for each in self._tensors]
            self._stream.synchronize()
        return self._host

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and self._stream is None:
            self._take_back()
        elif kind is None:
            with torch.cuda.stream(self._stream):
                self._take_back()
                self._after = self._stream.record_event()
        self._host, self._tensors, self._written = [], (), ()

    def _take_back(self) -> None:
        by_id = {id(each): host for each, host in zip(self._tensors, self._host)}
        for tensor in self._written:
            from_host(by_id[id(tensor)], tensor)

    def join(self) -> None:
        if self._after is not None:
            torch.cuda.current_stream(self.device).wait_event(self._after)


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _stream_of(device: torch.device) -> torch.cuda.Stream:
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]
