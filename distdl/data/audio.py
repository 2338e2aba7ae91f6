"""Bytes of a sound -> samples, int16 of shape (samples, channels), and their rate in Hz.

WAV of 16-bit PCM is read without a decoder, and without a copy; FLAC, OGG, MP3 and the other kinds of WAV by soundfile
(`pip install 'distdl[audio]'`), outside the GIL. int16 is what a corpus has, and half of what float32 would move. Which
format it is follows from the first bytes, not from the name. Damaged data raises; it never comes back as a part.
"""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distdl.errors import UserError

AUDIO_EXTENSIONS = ("flac", "wav", "ogg", "opus", "mp3")

Samples = npt.NDArray[np.int16]

_MOST_SAMPLES = 1 << 30  # of all channels: 18 hours at 16 kHz
_UNKNOWN_LENGTH = 2**63 - 1  # <sndfile.h>: SF_COUNT_MAX
_NO_LENGTH = "its header does not say how long it is: encode it into a file, not into a pipe"
_PCM, _EXTENSIBLE = 1, 0xFFFE  # <mmreg.h>
_UNKNOWN_SIZE = 0xFFFFFFFF  # of a WAV that was written into a pipe
_OGG_PAGE_HEADER, _OGG_FLAGS, _OGG_LAST_PAGE = 27, 5, 4  # RFC 3533, section 6


class Length(NamedTuple):
    n_samples: int  # of each channel
    n_channels: int
    rate_hz: int

    @property
    def seconds(self) -> float:
        return self.n_samples / self.rate_hz


def is_audio(extension: str) -> bool:
    """Whether a component is a sound, by the last part of its extension: "flac", "left.wav"."""
    return extension.rpartition(".")[2] in AUDIO_EXTENSIONS


def decode_audio(data: bytes) -> tuple[Samples, int]:
    """(int16 of shape (samples, channels), rate in Hz). The samples may be a view of `data`, which can't be written.

    Of 24 and 32 bits the upper 16 are kept; floats are scaled so that 1.0 is 32768, rounded and clipped. Raises
    ValueError with the reason for data that can't be decoded whole, UserError where soundfile is needed and missing.
    """
    if (wav := _read_wav(data)) is not None and wav.is_pcm16:
        count = wav.size // (2 * wav.n_channels) * wav.n_channels
        return _checked(np.frombuffer(data, "<i2", count, wav.begin).reshape(-1, wav.n_channels)), wav.rate_hz
    _check_ogg(data)
    with _opened(data) as file:
        if file.subtype.startswith(("PCM", "ULAW", "ALAW")):
            return _checked(_read(file, "int16")), file.samplerate
        return _checked(_as_int16(_read(file, "float32"))), file.samplerate


def audio_length(data: bytes) -> Length:
    """Read off the header. Raises as decode_audio, but not for damage further in."""
    if (wav := _read_wav(data)) is not None and wav.is_pcm16:
        return Length(wav.size // (2 * wav.n_channels), wav.n_channels, wav.rate_hz)
    with _opened(data) as file:
        if file.frames == _UNKNOWN_LENGTH:
            raise ValueError(_NO_LENGTH)
        return Length(file.frames, file.channels, file.samplerate)


def file_length(path: Path) -> Length:
    """Of a file, read off its header, without the rest. Raises as audio_length."""
    with _opened_file(path) as file:
        if file.frames == _UNKNOWN_LENGTH:
            raise ValueError(_NO_LENGTH)
        return Length(file.frames, file.channels, file.samplerate)


def part_of(begin_s: float, duration_s: float | None, n_samples: int, rate_hz: int) -> tuple[int, int]:
    """(first sample, the one after the last) of a part of a sound; a duration of None goes to its end.

    Both ends are rounded to the nearest sample; a part may end up to 10 ms after its sound does, for what was rounded
    when it was written down, and then ends with it. Raises ValueError for a part that is not there.
    """
    begin = round(begin_s * rate_hz)
    end = n_samples if duration_s is None else round((begin_s + duration_s) * rate_hz)
    if begin < 0 or end > n_samples + rate_hz // 100 or min(end, n_samples) <= begin:
        raise ValueError(f"{begin_s:g} to {end / rate_hz:g} s is not in the file, which has {n_samples / rate_hz:g} s")
    return begin, min(end, n_samples)


def read_part(path: Path, begin_s: float, duration_s: float | None) -> tuple[Samples, int]:
    """(int16 of shape (samples, channels), rate in Hz) of a part of a file; None: to its end. The rest is not decoded.

    Raises ValueError as decode_audio, and for a part that is not there; UserError where soundfile is missing.
    """
    with _opened_file(path) as file:
        if file.frames == _UNKNOWN_LENGTH:
            raise ValueError(_NO_LENGTH)
        begin, end = part_of(begin_s, duration_s, file.frames, file.samplerate)
        try:
            file.seek(begin)
        except _soundfile().LibsndfileError as error:
            raise ValueError(f"it is damaged: {error.error_string.rstrip('.')}") from None
        scaled = not file.subtype.startswith(("PCM", "ULAW", "ALAW"))
        samples = _read(file, "float32" if scaled else "int16", end - begin)
        return _checked(_as_int16(samples) if scaled else samples), file.samplerate


def flac_of(samples: Samples, rate_hz: int) -> bytes:
    """FLAC of 16 bits; `samples` is int16 (samples, channels). Raises UserError where soundfile is missing."""
    file = io.BytesIO()
    _soundfile().write(file, samples, rate_hz, format="FLAC", subtype="PCM_16")
    return file.getvalue()


# --- WAV ---


class _Wav(NamedTuple):
    is_pcm16: bool
    n_channels: int
    rate_hz: int
    begin: int  # of the samples
    size: int  # of the samples in bytes


def _read_wav(data: bytes) -> _Wav | None:
    """The chunks `fmt ` and `data` of a RIFF file; None for any other."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    at, is_pcm16, n_channels, rate_hz = 12, False, 0, 0
    while at + 8 <= len(data):
        name, (size,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        at += 8
        if name == b"fmt " and size >= 16 and at + size <= len(data):
            kind, n_channels, rate_hz, _, per_sample, bits = struct.unpack_from("<HHIIHH", data, at)
            if kind == _EXTENSIBLE and size >= 26:
                (kind,) = struct.unpack_from("<H", data, at + 24)
            is_pcm16 = kind == _PCM and bits == 16 and n_channels > 0 and per_sample == 2 * n_channels and rate_hz > 0
        elif name == b"data":
            there = len(data) - at
            if size != _UNKNOWN_SIZE and size > there:
                raise ValueError(f"the sound ends after {there:,} of its {size:,} bytes")
            return _Wav(is_pcm16, n_channels, rate_hz, at, min(size, there))
        at += size + size % 2
    raise ValueError("a WAV without samples: it has no chunk 'data'")


# --- what soundfile decodes ---


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    soundfile = _soundfile()
    with _as_file(data) as file_or_descriptor:
        try:
            file = soundfile.SoundFile(file_or_descriptor, closefd=False)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"not a sound that can be decoded: {error.error_string.rstrip('.')}") from None
        with file:
            yield file


@contextmanager
def _as_file(data: bytes) -> Iterator[io.BytesIO | int]:
    """What libsndfile reads without calling Python for each few kilobytes, where the system has such files."""
    if not hasattr(os, "memfd_create"):
        yield io.BytesIO(data)
        return
    with os.fdopen(os.memfd_create("sound"), "wb", buffering=0) as file:
        file.write(data)
        file.seek(0)
        yield file.fileno()


def _opened_file(path: Path) -> Any:
    soundfile = _soundfile()
    try:
        return soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        if not path.is_file():
            raise ValueError("can't be read: there is no such file") from None
        raise ValueError(f"not a sound that can be decoded: {error.error_string.rstrip('.')}") from None


def _as_int16(values: npt.NDArray[Any]) -> Samples:
    """1.0 is 32768; libsndfile's own conversion wraps round."""
    return np.clip(np.round(values * np.float32(32768)), -32768, 32767).astype(np.int16)


def _read(file: Any, dtype: str, n_samples: int | None = None) -> npt.NDArray[Any]:
    """(samples, channels): `n_samples` from where the file is, or as many as the header says."""
    if file.frames == _UNKNOWN_LENGTH:
        raise ValueError(_NO_LENGTH)
    n_samples = file.frames if n_samples is None else n_samples
    if n_samples * file.channels > _MOST_SAMPLES:
        raise ValueError(f"more than {_MOST_SAMPLES:,} samples")
    samples = np.empty((n_samples, file.channels), dtype)
    try:
        n_read = file.buffer_read_into(samples, dtype)
    except _soundfile().LibsndfileError as error:
        raise ValueError(f"it is damaged: {error.error_string.rstrip('.')}") from None
    if n_read < n_samples:
        raise ValueError(f"the sound ends after {n_read:,} of its {n_samples:,} samples")
    return samples


def _check_ogg(data: bytes) -> None:
    """Raises ValueError unless the last page is there and whole: soundfile returns what is left of the others."""
    if not data.startswith(b"OggS"):
        return
    page = data.rfind(b"OggS")
    lengths = page + _OGG_PAGE_HEADER
    whole = lengths <= len(data) and lengths + data[lengths - 1] <= len(data)
    end = lengths + data[lengths - 1] + sum(data[lengths : lengths + data[lengths - 1]]) if whole else 0
    if not whole or end > len(data) or not data[page + _OGG_FLAGS] & _OGG_LAST_PAGE:
        raise ValueError("the sound is cut off: its last OGG page is missing")


def _checked(samples: Samples) -> Samples:
    if not len(samples):
        raise ValueError("the sound has no samples")
    return samples


def _soundfile() -> ModuleType:
    try:
        import soundfile
    except ImportError as error:
        raise UserError(
            "sounds other than WAV of 16 bits need the package soundfile", fix="pip install 'distdl[audio]'"
        ) from error
    return soundfile
