"""A folder of sounds to mix into others: noises, or impulse responses of rooms. Read once, kept in memory."""

from pathlib import Path

import torch
from torch import Tensor

from distdl.data.audio import decode_audio, is_audio
from distdl.data.sounds import one_channel
from distdl.errors import UserError

_MOST_BYTES = 1 << 30  # as int16


class Corpus:
    """The sounds below a folder, in the order of their paths. Raises UserError where there is none."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._files = sorted(path for path in Path(folder).rglob("*") if is_audio(path.suffix[1:].lower()))
        if not self._files:
            raise UserError(f"there is no sound below {folder}", fix="Name a folder of sound files.")
        self._sounds: dict[int, list[Tensor]] = {}

    def at(self, rate_hz: int) -> list[Tensor]:
        """int16 (samples,) of each, on the CPU. Raises UserError for one that is damaged, and for too many."""
        if rate_hz not in self._sounds:
            self._sounds = {rate_hz: self._read(rate_hz)}
        return self._sounds[rate_hz]

    def _read(self, rate_hz: int) -> list[Tensor]:
        found, n_bytes = [], 0
        for path in self._files:
            try:
                sound = one_channel(*decode_audio(path.read_bytes()), rate_hz)
            except (OSError, ValueError) as error:
                raise UserError(f"{path}: {error}", fix="Repair it, or take it out of this folder.") from None
            found.append(torch.tensor(sound))
            n_bytes += 2 * len(sound)
            if n_bytes > _MOST_BYTES:
                raise UserError(
                    f"{self.folder} holds more than {_MOST_BYTES >> 30} GiB of sound, which is kept in memory",
                    fix="Name a folder with some of it.",
                )
        return found
