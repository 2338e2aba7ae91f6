"""A copy of the state that training may go on behind: one block of host memory, filled again at every save.

The block is allocated once, ahead of the first save where there is time. In fresh memory the page faults cost many
times as much as the copy itself, and the pause of the training thread is this copy. Memory for CUDA is pinned: the
copies are only queued, in the stream that also computes, so that the next step starts behind them and can't change
what is being copied; the host does not wait for them.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

_ALIGNMENT = 64  # bytes: a cache line, and enough for every dtype


class Snapshot:
    def __init__(self) -> None:
        self._copies: list[torch.Tensor] = []  # parts of the block
        self._layout: list[Any] = []  # shapes, strides and dtypes that the parts are made for
        self._copied: torch.Event | None = None

    @torch.no_grad()
    def take(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """CPU copies by name, to be read after `wait` and before the next `take`.

        Names that share memory (tied weights) share it in the copy as well. Elements keep their order in memory, as in
        channels_last: to permute them would cost ten times the copy.
        """
        places = [place_of(tensor) for tensor in tensors.values()]
        unique = self._make_room(places, tensors)
        torch._foreach_copy_(self._copies, list(unique.values()), non_blocking=True)
        device = _device_of(unique.values())
        if device is not None:
            self._copied = torch.Event(device.type)
            self._copied.record()
        copy_of = dict(zip(unique, self._copies))
        return {name: copy_of[place] for name, place in zip(tensors, places)}

    @torch.no_grad()
    def prepare(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Allocates for tensors like these, and writes to every page."""
        self._make_room([place_of(tensor) for tensor in tensors.values()], tensors)

    def _make_room(
        self, places: Sequence[tuple[Any, ...]], tensors: Mapping[str, torch.Tensor]
    ) -> dict[tuple[Any, ...], torch.Tensor]:
        """Returns the unique tensors by place."""
        unique = dict(zip(places, tensors.values()))
        layout = [place[2:] for place in unique]
        if layout != self._layout:
            self._copies = []  # gives the memory back before more is taken
            device = _device_of(unique.values())
            self._copies = _allocate(unique.values(), pin=device is not None and device.type == "cuda")
            self._layout = layout
        return unique

    def wait(self) -> None:
        """Returns when the copies have arrived. For any thread."""
        if self._copied is not None:
            self._copied.synchronize()


def place_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Equal for two tensors that are the same elements of the same memory."""
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def _device_of(tensors: Collection[torch.Tensor]) -> torch.device | None:
    """The accelerator that some of the tensors are on."""
    return next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), None)


def _allocate(tensors: Collection[torch.Tensor], *, pin: bool) -> list[torch.Tensor]:
    """Tensors like the given ones, in one block of host memory."""
    sizes = [-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in tensors]
    block = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=pin)
    block.fill_(0)  # fresh memory has no pages before it is written to
    parts = block.split(sizes)
    strides = [torch.empty_like(tensor, device="meta").stride() for tensor in tensors]  # without gaps
    return [
        part[: like.nbytes].view(like.dtype).as_strided(like.shape, stride)
        for part, like, stride in zip(parts, tensors, strides)
    ]
