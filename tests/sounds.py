"""Sound files for tests, by the standard library and soundfile."""

from pathlib import Path

import numpy as np

RATE = 8000


def tone(seconds: float = 0.5, *, channels: int = 1, rate_hz: int = RATE, seed: int = 0) -> np.ndarray:
    """int16 (samples, channels): a tone with noise."""
    n = round(seconds * rate_hz)
    noise = np.random.default_rng(seed).normal(0, 300, (n, channels))
    return np.round(noise + 8000 * np.sin(np.arange(n) * 2 * np.pi * 440 / rate_hz)[:, None]).astype(np.int16)


def write_sound(path: Path, samples: np.ndarray | None = None, rate_hz: int = RATE) -> Path:
    """In the format that its name says."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"mp3": "MP3", "opus": "OGG"}.get(path.suffix[1:])
    subtype = {"mp3": "MPEG_LAYER_III", "opus": "OPUS"}.get(path.suffix[1:])
    soundfile.write(path, tone() if samples is None else samples, rate_hz, format=kind, subtype=subtype)
    return path
