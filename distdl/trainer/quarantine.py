"""quarantine.jsonl: the samples that a run could not use, a line each, as `distdl data index --exclude` takes them.

    a loader's bad rows -> noted by their worker -> gathered in the step in which all workers know that there are some
    -> new ones written by rank 0, and counted by all

Rank 0 alone writes: it may be the only one that sees the run folder, and on NFS two machines that append to a file
write over each other. To gather costs steps without a bad sample nothing. A sample is listed once, as it was first met,
however often and in whatever epochs and launches it is met again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distdl.comm import collectives, messages
from distdl.config.schema import DataConfig
from distdl.config.sources import SplitConfig
from distdl.data.engine import refusal
from distdl.data.samples import BadRow, BadSample
from distdl.errors import UserError
from distdl.run.folder import write_atomic
from distdl.track import jsonl

TRAIN = "data.train"
_NOT_LISTED = ("own_code", "traceback")  # what `raise` shows
_FEW = 100  # so many are no reason to stop, whatever their share

Row = dict[str, Any]
Sample = tuple[str, str, str]
"""set, shard, key"""


class Quarantine:
    """Made by `open`. All workers call `settle`, at the same step; what they call besides is their own affair."""

    def __init__(self, path: Path, shown: str, listed: Iterable[tuple[Sample, int]] = (), step: int = 0) -> None:
        """`listed`: the samples in the file, each with the step that first met it."""
        self._path, self.shown = path, shown
        met = dict(listed)
        self._listed = set(met)
        self._bad = {sample for sample, first in met.items() if sample[0] == TRAIN and first <= step}
        self._noted: list[Row] = []
        self._waiting: list[Row] = []
        self._may_be_torn = True

    @classmethod
    def open(cls, path: Path, folder: str, step: int) -> "Quarantine":
        """Of a run that begins, or goes on at `step`: what it met later counts once it has met it again. All workers
        call it. `folder`: the run's, as a person would write it."""
        wanted = ("set", "shard", "key", "step")
        rows = messages.on_rank0(
            lambda: [[row[name] for name in wanted] for row in jsonl.read(path) if row.keys() >= set(wanted)]
        )
        listed = (((split, shard, key), first) for split, shard, key, first in rows)
        return cls(path, f"{folder}/{path.name}", listed, step)

    @property
    def n_bad(self) -> int:
        """Different samples of the training set that the run could not use."""
        return len(self._bad)

    def note(self, rows: Iterable[BadRow], split: str, step: int) -> None:
        """`split`: its key in the config, such as TRAIN."""
        rank = collectives.rank()
        self._noted += [{**asdict(row), "set": split, "step": step, "rank": rank} for row in rows]

    def settle(self) -> tuple[list[Row], OSError | None]:
        """What all workers have noted, and what kept it from the disk: it is tried again with what comes next."""
        found = [row for of_rank in messages.gather_json(self._noted) for row in of_rank]
        self._noted = []
        for row in found:
            sample = (row["set"], row["shard"], row["key"])
            if row["set"] == TRAIN:
                self._bad.add(sample)
            if sample not in self._listed:
                self._listed.add(sample)
                if collectives.rank() == 0:  # rank 0 only
                    self._waiting.append({name: value for name, value in row.items() if name not in _NOT_LISTED})
        return found, self._write() if self._waiting else None

    def _write(self) -> OSError | None:
        try:
            if self._may_be_torn:
                _mend(self._path)
            self._may_be_torn = True
            with self._path.open("ab") as file:
                file.write(b"".join(map(jsonl.encode, self._waiting)))
        except OSError as error:
            return error
        self._waiting, self._may_be_torn = [], False
        return None


def _mend(path: Path) -> None:
    """Cuts off the part of a line that a full disk or a kill may have left at the end."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_atomic(path, whole)


def shown(row: Row) -> str:
    return str(_bad(row))


def _bad(row: Row) -> BadSample:
    return BadSample(*(row[name] for name in ("shard", "key", "component", "reason", *_NOT_LISTED)))


def check_limits(data: DataConfig, n_bad: int, n_read: int, quarantine: str) -> None:
    """Raises UserError where `n_bad` of `n_read` different samples are too many. `quarantine`: the file."""
    limit, rate = data.bad_sample_limit, data.bad_sample_rate
    if limit is not None and n_bad > limit:
        allowed = f"more than data.bad_sample_limit allows ({limit:,})"
    elif n_bad > _FEW and n_bad > rate * n_read:
        allowed = f"{n_bad / n_read:.2%} of the {n_read:,} read so far; data.bad_sample_rate allows {rate:.2%}"
    else:
        return
    stages = " Or mend the stages, where they gave them up: that file says why." if data.train.stages else ""
    raise UserError(
        f"{n_bad:,} different samples could not be used, {allowed}",
        where=f"data.train: {data.train.source}",
        fix=f"{way_out(data.train, quarantine)}{stages} Or raise the limit.",
    )


def check_policy(data: DataConfig, split: SplitConfig, where: str, found: Sequence[Row], quarantine: str) -> None:
    """Raises UserError under the policy "raise" if anything was found."""
    if data.bad_sample != "raise" or not found:
        return
    raise refusal(_bad(found[0]), f"{where}: {split.source}", way_out(split, quarantine, "it"))


def way_out(split: SplitConfig, quarantine: str, them: str = "them") -> str:
    """`them`: "it" where one sample is meant."""
    if split.shards is None:
        return f"{quarantine} lists {them}: repair or remove {them}."
    folder = split.shards if isinstance(split.shards, str) else "FOLDER"
    index = f"`distdl data index {folder} --exclude {quarantine}`"
    return f"Leave {them} out by {index}, and start a new run."
