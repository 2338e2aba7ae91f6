"""A manifest of utterances, trained on in place: `data.train.manifest`. See distdl/data/manifests for its forms.

In the plan's eyes 1000 utterances that follow one another are a shard. A sample has its sound (the file's own bytes; of
a part of a file, a WAV of that part alone), its transcript as `txt`, and `json` with key, speaker and where it is from.

The rows are held as columns of bytes and numbers: 280,000 of them with transcripts of 190 letters take 80 MB in every
process that reads, and as objects would take 240 MB.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from distdl.data.audio import is_audio
from distdl.data.corpus.dataset import CorruptSample, Sample
from distdl.data.corpus.utterance import Utterance, file_bytes, sound, wav_of
from distdl.data.manifests import read
from distdl.errors import UserError
from distdl.run import exhausted

TEXT, ABOUT = "txt", "json"
_SHARD = 1000  # utterances
_NONE = -1
_WAV = "wav"


class ManifestDataset:
    """The samples of one split. Made by `open`; `read` may be called from any number of threads."""

    classes: list[str] | None = None

    def __init__(self, path: Path, utterances: Iterable[Utterance]) -> None:
        """Raises UserError where there are none."""
        self.path = str(path)
        self._place = str(path.absolute())
        columns = _Columns(utterances)
        self._keys, self._files = columns.texts("key"), columns.texts("file")
        self._texts, self._speakers = columns.texts("text"), columns.texts("speaker")
        self._begins_s, self._durations_s = np.array(columns.begins_s), np.array(columns.durations_s)  # nan: to the end
        self._channels = np.array(columns.channels, np.int16)
        self.n_listed = np.array(columns.n_listed, np.int64)  # samples of each channel as the manifest says; 0: unknown
        self.rates_listed_hz = np.array(columns.rates_hz, np.int64)
        self.n_samples = len(self._begins_s)
        if not self.n_samples:
            raise UserError("there are no utterances in it", where=self.path)
        self.sizes = np.diff([*range(0, self.n_samples, _SHARD), self.n_samples]).astype(np.int64)
        self.identity = self._identity()
        self._extensions = tuple(dict.fromkeys([*map(self._extension, range(self.n_samples)), TEXT, ABOUT]))

    @classmethod
    def open(cls, path: str | Path) -> "ManifestDataset":
        """Raises UserError for what is no manifest, can't be read, or names a first sound that is not there."""
        return cls(Path(path), read.utterances(Path(path)))

    def utterance(self, sample_id: int) -> Utterance:
        """What the manifest says of a sample."""
        channel, duration_s = int(self._channels[sample_id]), float(self._durations_s[sample_id])
        return Utterance(
            key=self._keys[sample_id] or "",
            path=Path(self._files[sample_id] or ""),
            text=self._texts[sample_id],
            speaker=self._speakers[sample_id],
            begin_s=float(self._begins_s[sample_id]),
            duration_s=None if np.isnan(duration_s) else duration_s,
            channel=None if channel == _NONE else channel,
        )

    def read(self, shard: int, row: int, only: Collection[str] | None = None) -> Sample:
        """Raises CorruptSample when the sound can't be read; what is read as a part is decoded as well."""
        sample_id = self.sample_id(shard, row)
        utterance, extension = self.utterance(sample_id), self._extension(sample_id)
        components: dict[str, bytes] = {}
        if only is None or extension in only:
            try:
                is_as_it_lies = utterance.is_whole and is_audio(utterance.path.suffix[1:].lower())
                components[extension] = file_bytes(utterance.path) if is_as_it_lies else wav_of(*sound(utterance))
            except (ValueError, OSError) as error:
                if exhausted.of_error(error):
                    raise
                raise CorruptSample(self.path, utterance.key, extension, f"{utterance.path}: {error}") from error
        if utterance.text is not None and (only is None or TEXT in only):
            components[TEXT] = " ".join(utterance.text.split()).encode()
        if only is None or ABOUT in only:
            about = {"speaker": utterance.speaker, "file": str(utterance.path), "begin_s": utterance.begin_s}
            components[ABOUT] = json.dumps(about, ensure_ascii=False, sort_keys=True).encode()
        return Sample(utterance.key, self.path, components)

    def extensions(self, shard: int) -> tuple[str, ...]:
        """Of all its samples: those of a manifest may differ."""
        return self._extensions

    def key(self, shard: int, row: int) -> str:
        return self._keys[self.sample_id(shard, row)] or ""

    def place(self, shard: int) -> str:
        return self._place

    def locate(self, sample_id: int) -> tuple[int, int]:
        """Sample id -> (shard, row). Raises IndexError unless 0 <= sample_id < n_samples."""
        if not 0 <= sample_id < self.n_samples:
            raise IndexError(f"sample {sample_id} of {self.n_samples}")
        return divmod(sample_id, _SHARD)

    def sample_id(self, shard: int, row: int) -> int:
        """(shard, row) -> sample id. Raises IndexError where there is no such row."""
        if not (0 <= shard < len(self.sizes) and 0 <= row < self.sizes[shard]):
            raise IndexError(f"shard {shard}, row {row}")
        return shard * _SHARD + row

    def announce(self, sample_ids: Iterable[int], only: Collection[str] | None) -> None:
        """Files come when they are asked for."""

    def advance(self) -> None:
        """Files come when they are asked for."""

    def close(self) -> None:
        """No file stays open."""

    def _extension(self, sample_id: int) -> str:
        """Of the component that holds the sound."""
        extension = (self._files[sample_id] or "").rpartition(".")[2].lower()
        is_part = self._begins_s[sample_id] or not np.isnan(self._durations_s[sample_id])
        return _WAV if is_part or self._channels[sample_id] != _NONE or not is_audio(extension) else extension

    def _identity(self) -> str:
        """xxh3-128 of all that the manifest says of the samples; what lies in the files is not looked at."""
        digest = xxhash.xxh3_128()
        for texts in (self._keys, self._files, self._texts, self._speakers):
            texts.feed(digest)
        for numbers in (self._begins_s, self._durations_s, self._channels):
            digest.update(np.ascontiguousarray(numbers).tobytes())
        return digest.hexdigest()


class _Texts:
    """Texts, or None, back to back."""

    def __init__(self, texts: Iterable[str | None]) -> None:
        content, ends, missing = bytearray(), [0], []
        for text in texts:
            content += (text or "").encode("utf-8", "surrogateescape")
            ends.append(len(content))
            missing.append(text is None)
        self._content, self._ends = bytes(content), np.array(ends, np.int64)
        self._missing: npt.NDArray[np.bool_] = np.array(missing, np.bool_)

    def __getitem__(self, i: int) -> str | None:
        if self._missing[i]:
            return None
        return self._content[int(self._ends[i]) : int(self._ends[i + 1])].decode("utf-8", "surrogateescape")

    def feed(self, digest: xxhash.xxh3_128) -> None:
        for part in (self._content, self._ends.tobytes(), self._missing.tobytes()):
            digest.update(part)


class _Columns:
    """Gathers utterances, of which only what training needs is kept."""

    def __init__(self, utterances: Iterable[Utterance]) -> None:
        self._texts: dict[str, list[str | None]] = {"key": [], "file": [], "text": [], "speaker": []}
        self.begins_s: list[float] = []
        self.durations_s: list[float] = []
        self.channels: list[int] = []
        self.n_listed: list[int] = []
        self.rates_hz: list[int] = []
        for each in utterances:
            for name, text in self._named(each):
                self._texts[name].append(text)
            self.begins_s.append(each.begin_s)
            self.durations_s.append(np.nan if each.duration_s is None else each.duration_s)
            self.channels.append(_NONE if each.channel is None else each.channel)
            self.n_listed.append(each.n_samples or 0)
            self.rates_hz.append(each.rate_hz or 0)

    @staticmethod
    def _named(utterance: Utterance) -> Iterator[tuple[str, str | None]]:
        yield "key", utterance.key
        yield "file", str(utterance.path)
        yield "text", utterance.text
        yield "speaker", utterance.speaker

    def texts(self, name: str) -> _Texts:
        """Once for each name: the list is let go of."""
        return _Texts(self._texts.pop(name))
