"""What `distdl data show` says of sounds and transcripts: hours, lengths, rates, speakers, words, characters."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from distdl.data import sound_lengths
from distdl.data.audio import is_audio
from distdl.data.corpus import sound_column
from distdl.data.corpus.dataset import Dataset
from distdl.data.some_samples import READERS, components_of, read, spread_out
from distdl.data.sound_lengths import SoundLengths

_TEXT, _ABOUT = "txt", "json"
_BINS = 8
_BAR = 40  # characters of the longest bar
_MOST_CHARACTERS = 120
_NICE_S = (0.1, 0.2, 0.25, 0.5, 1, 2, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)


def lines(dataset: Dataset, counts: Mapping[str, int]) -> list[str]:
    """`counts`: how many samples have each component. Nothing where none is a sound."""
    n_sounds = sum(n for name, n in counts.items() if is_audio(name))
    if not n_sounds:
        return []
    listed = sound_lengths.listed(dataset)
    found = listed or _of_some(dataset)
    is_known = found.n_samples > 0
    unreadable = int((~is_known).sum()) - (dataset.n_samples - n_sounds if listed else 0)
    shown = []
    if is_known.any():
        seconds, rates_hz = found.seconds[is_known], np.unique(found.rate_hz[is_known])
        low, middle, high = np.quantile(seconds, [0, 0.5, 1], method="nearest")
        hours = float(seconds.sum()) / 3600
        total = f"{hours:,.2f} hours"
        if len(seconds) + unreadable < n_sounds:
            total = f"about {hours * n_sounds / len(seconds):,.1f} hours, from {len(seconds):,} sounds"
        rates = ", ".join(f"{rate_hz} Hz" for rate_hz in rates_hz)
        shown.append(f"sounds      {total}; {low:.2f}/{middle:.2f}/{high:.2f} s (min/median/max); {rates}")
        shown += _histogram(seconds)
    if unreadable > 0:
        shown.append(f"unreadable  {unreadable} sounds: `distdl data verify {dataset.path}`")
    return shown + (_text_lines(dataset) if counts.get(_TEXT) else [])


def _of_some(dataset: Dataset) -> SoundLengths:
    pairs = [sound_column.of_bytes(data) for _, _, data in components_of(dataset, spread_out(dataset), is_audio)]
    n_samples, rates_hz = np.array(pairs, np.int64).reshape(-1, 2).T
    return SoundLengths(n_samples, rates_hz)


def _histogram(seconds: np.ndarray) -> list[str]:
    """A line for each of up to 8 spans of time, and one for what is longer than 99 % and far beyond them."""
    if seconds.max() <= seconds.min():
        return []
    usual = float(np.quantile(seconds, 0.99))
    step = next((nice for nice in _NICE_S if nice * _BINS >= usual), usual / _BINS)
    edges = np.append(np.arange(_BINS) * step, np.inf)
    counts, _ = np.histogram(seconds, edges)
    last = int(np.flatnonzero(counts)[-1])
    rows = [(f"{edges[i]:g} to {edges[i + 1]:g} s", int(counts[i])) for i in range(min(last + 1, _BINS - 1))]
    if last == _BINS - 1:
        rows.append((f"{edges[last]:g} s and more", int(counts[last])))
    width = max(len(name) for name, _ in rows)
    most = max(n for _, n in rows)
    return [f"  {name:<{width}}  {'#' * -(-n * _BAR // most):<{_BAR}}  {n:,}" for name, n in rows]


def _text_lines(dataset: Dataset) -> list[str]:
    """Of all transcripts on disk; of some elsewhere."""
    words: Counter[str] = Counter()
    characters: set[str] = set()
    speakers: set[str] = set()
    n_texts = 0
    for components in _texts(dataset):
        text = components.get(_TEXT, b"").decode("utf-8", "replace")
        n_texts += bool(text)
        words.update(text.split())
        characters.update(text)
        if (speaker := _speaker(components.get(_ABOUT, b""))) is not None:
            speakers.add(speaker)
    of = f", of {n_texts:,} transcripts" if dataset.streaming else ""
    alphabet = "".join(sorted(characters))
    rest = f" and {len(alphabet) - _MOST_CHARACTERS:,} more" if len(alphabet) > _MOST_CHARACTERS else ""
    shown = [f"speakers    {len(speakers):,}{of}"] if speakers else []
    return [
        *shown,
        f"words       {words.total():,}, {len(words):,} different{of}",
        f"characters  {len(characters):,}: '{alphabet[:_MOST_CHARACTERS]}'{rest}",
    ]


def _texts(dataset: Dataset) -> Iterator[dict[str, bytes]]:
    sample_ids = spread_out(dataset) if dataset.streaming else range(dataset.n_samples)
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(lambda i: read(dataset, *dataset.locate(i), (_TEXT, _ABOUT)).components, sample_ids)


def _speaker(about: bytes) -> str | None:
    try:
        speaker = json.loads(about).get("speaker")
    except (ValueError, AttributeError):
        return None
    return None if speaker is None else str(speaker)
