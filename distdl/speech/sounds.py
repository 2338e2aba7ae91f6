"""What goes from one transform of sounds to the next: a batch on the device, waveforms at first, features at last."""

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

Kind = Literal["waveform", "features"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sounds:
    """`values`: waveforms (rows, samples) fp32 in the units of int16, or features (rows, frames, features); 0 behind a
    row's own length.

    `lengths_B`: int64 (rows,), in samples or frames. `keys_B`: int64 (rows,) on the CPU, from which all that is random
    about a row comes (distdl.data.order.augmentation_key).
    """

    values: Tensor
    lengths_B: Tensor
    keys_B: Tensor
    rate_hz: int

    def having(self, values: Tensor, lengths_B: Tensor | None = None) -> "Sounds":
        """The same sounds with other values, and lengths if these are others, too."""
        return replace(self, values=values, lengths_B=self.lengths_B if lengths_B is None else lengths_B)
