"""`distdl data index --exclude FILE.jsonl`: which samples an index leaves out.

A line is a JSON object with "shard", the path or file name of a tar, and "key"; other fields don't matter. A run writes
such a file of the samples that it could not use: quarantine.jsonl. The tars stay as they are, and dataset.json says
what is left out, so that it is another corpus as far as a run is concerned. Indexing again without the file brings all
back.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from distdl.data.corpus.descriptor import Descriptor, ShardEntry
from distdl.errors import UserError

Excluded = Mapping[str, Collection[str]]
"""file name of a tar -> keys"""


def read(files: Sequence[Path], folder: Path, say: Callable[[str], None]) -> Excluded:
    """What the files name of this folder of tars. A "shard" with a folder in it counts if it is this folder.

    Raises UserError for a file that can't be read, and for a line that names no sample.
    """
    excluded: dict[str, set[str]] = {}
    elsewhere: list[Path] = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"can't read it: {error}", where=str(file)) from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                shard, key = _sample(line, f"{file}:{number}")
                if shard.parent == Path() or shard.parent.resolve() == folder.resolve():
                    excluded.setdefault(shard.name, set()).add(key)
                else:
                    elsewhere.append(shard)
    if elsewhere:
        say(f"of other folders: {len(elsewhere):,} of the samples to be left out, such as one in {elsewhere[0]}")
    return excluded


def _sample(line: str, where: str) -> tuple[Path, str]:
    try:
        value = json.loads(line)
        shard, key = value["shard"], value["key"]
    except (ValueError, KeyError, TypeError):
        shard = key = None
    if not isinstance(shard, str) or not isinstance(key, str):
        raise UserError(
            "this line names no sample",
            where=where,
            fix='Expected: {"shard": "000000.tar", "key": "a/b"}, a line each.',
        )
    return Path(shard), key


def report(excluded: Excluded, shards: list[ShardEntry], before: Descriptor | None, say: Callable[[str], None]) -> None:
    """What was left out, what is not here, and what comes back that was left out before."""
    now = {(shard.name, key) for shard in shards for key in shard.excluded}
    if now:
        say(f"left out {len(now):,} of the samples in the tars")
    named = {(name, key) for name, keys in excluded.items() for key in keys}
    if missing := sorted(named - now):
        say(f"not here: {len(missing):,} of the samples to be left out, such as '{missing[0][1]}' in {missing[0][0]}")
    earlier = {(shard.name, key) for shard in before.shards for key in shard.excluded} if before else set()
    if back := earlier - now:
        say(f"back again: {len(back):,} samples that were left out before")
