"""An utterance before it is packed or trained on: a sound file or a part of one, its transcript, who speaks."""

import os
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distdl.data.audio import Samples, decode_audio, read_part

_WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")  # RIFF, then the chunks `fmt ` of 16 bytes and `data`


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    key: str  # names it in its corpus; what WebDataset makes of dots is not looked at here
    path: Path
    text: str | None  # the transcript as the source has it; None where there is none
    speaker: str | None = None
    begin_s: float = 0.0
    duration_s: float | None = None  # None: to the end of the file
    channel: int | None = None  # from 0 on; None: all of them
    label: int | None = None  # class number
    n_samples: int | None = None  # of each channel, where the source says it
    rate_hz: int | None = None
    about: dict[str, Any] = field(default_factory=dict)  # what else is known of it, such as chapter and language

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its file."""
        return self.begin_s == 0 and self.duration_s is None and self.channel is None


def file_bytes(path: Path) -> bytes:
    """Raises ValueError for what can't be read, a pipe and an empty file."""
    try:
        # Without O_NONBLOCK a pipe would be waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise ValueError("it is a folder, a pipe or a device, not a file")
            content = opened.readall()
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror}") from None
    if not content:
        raise ValueError("the file is empty")
    return content


def sound(utterance: Utterance) -> tuple[Samples, int]:
    """(int16 of shape (samples, channels), rate in Hz); of a part of a file only that part is read.

    Raises ValueError for a file that can't be read or decoded, and for a part that is not in it.
    """
    if utterance.is_whole:
        return decode_audio(file_bytes(utterance.path))
    samples, rate_hz = read_part(utterance.path, utterance.begin_s, utterance.duration_s)
    if utterance.channel is not None:
        if utterance.channel >= samples.shape[1]:
            raise ValueError(f"it has {samples.shape[1]} channels, and none has number {utterance.channel} (from 0)")
        samples = samples[:, utterance.channel : utterance.channel + 1]
    return samples, rate_hz


def wav_of(samples: Samples, rate_hz: int) -> bytes:
    """A WAV of 16-bit PCM; `samples` is int16 (samples, channels)."""
    data = np.ascontiguousarray(samples, "<i2").tobytes()
    channels = samples.shape[1]
    about = (1, channels, rate_hz, rate_hz * 2 * channels, 2 * channels, 16)
    return _WAV_HEADER.pack(b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, *about, b"data", len(data)) + data
