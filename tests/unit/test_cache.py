"""The folder of shards that all workers of a node share: its limit, who fetches, and what is never touched."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import xxhash

from distdl.data.remote.cache import CHUNK, NEVER, Cache, DiskFull, NoRoom
from distdl.errors import UserError


def key_of(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)


def content_of(seed: int, size: int = 3 * CHUNK + 17) -> bytes:
    return random.Random(seed).randbytes(size)


def put(cache: Cache, content: bytes, next_uses: dict[str, int] | None = None) -> str:
    """Fetches a whole shard into the cache."""
    key = key_of(content)
    part = cache.begin(key, len(content), next_uses or {})
    assert part
    for begin, end in part.missing():
        part.write(begin, content[begin:end])
    assert part.finish(key)
    return key


def whole(cache: Cache, key: str) -> bytes | None:
    descriptor = cache.open_whole(key)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache.open(tmp_path, 20 * CHUNK)


# --- fetching ---


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_was_fetched_is_there(cache, size):
    content = content_of(1, size)

    assert whole(cache, put(cache, content)) == content


def test_chunks_can_be_read_before_the_shard_is_whole(cache):
    content = content_of(1)
    part = cache.begin(key_of(content), len(content), {})
    part.write(CHUNK, content[CHUNK : 2 * CHUNK])

    assert cache.read_part(part.key, part.size, CHUNK + 5, 2 * CHUNK) == content[CHUNK + 5 : 2 * CHUNK]
    assert cache.read_part(part.key, part.size, CHUNK - 1, CHUNK + 5) is None, "partly in a chunk that is missing"
    assert cache.open_whole(part.key) is None


def test_only_one_fetches_a_shard(cache):
    content = content_of(1)
    part = cache.begin(key_of(content), len(content), {})

    assert cache.begin(part.key, len(content), {}) is None

    part.close()
    assert cache.begin(part.key, len(content), {}) is not None


def test_what_a_killed_process_had_fetched_is_kept_and_the_rest_is_fetched(tmp_path, cache):
    content = content_of(1)
    key = key_of(content)
    program = f"""
import os, random, signal
from distdl.data.remote.cache import CHUNK, Cache
from pathlib import Path
content = random.Random(1).randbytes({len(content)})
part = Cache.open(Path({str(tmp_path)!r}), None).begin({key!r}, len(content), {{}})
part.write(2 * CHUNK, content[2 * CHUNK : 3 * CHUNK])
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], timeout=60)

    part = cache.begin(key, len(content), {})

    assert [begin for begin, _ in part.missing()] == [0, CHUNK, 3 * CHUNK]
    for begin, end in part.missing():
        part.write(begin, content[begin:end])
    assert part.finish(key)
    assert whole(cache, key) == content


def test_wrong_bytes_are_not_kept(cache):
    content = content_of(1)
    key = key_of(content)
    part = cache.begin(key, len(content), {})
    for begin, end in part.missing():
        part.write(begin, content[begin:end] if begin else bytes(CHUNK))

    assert not part.finish(key)
    assert len(part.missing()) == 4, "nobody knows which of them was wrong"
    part.give_up()
    assert [path.name for path in cache.folder.iterdir()] == ["this-is-a-cache-of-distdl"]


def test_a_full_disk_is_told_apart(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no permission to mount")
    try:
        cache = Cache.open(folder, 20 * CHUNK)
        content = content_of(1)
        part = cache.begin(key_of(content), len(content), {})
        with pytest.raises(DiskFull):
            for begin, end in part.missing():
                part.write(begin, content[begin:end])
        part.give_up()
    finally:
        subprocess.run(["umount", folder], check=True)


# --- the limit ---


def test_the_shard_that_is_read_again_last_makes_room(cache):
    soon, late, never = (put(cache, content_of(seed, 6 * CHUNK)) for seed in range(3))
    next_uses = {soon: 1, late: 50, never: NEVER}
    new = content_of(3, 6 * CHUNK)

    put(cache, new, {**next_uses, key_of(new): 10})
    assert [cache.has(key) for key in (soon, late, never)] == [True, True, False]

    newer = content_of(4, 6 * CHUNK)
    put(cache, newer, {**next_uses, key_of(new): 10, key_of(newer): 20})
    assert [cache.has(key) for key in (soon, late, key_of(new))] == [True, False, True]


def test_nothing_makes_room_for_what_is_read_later_than_it(cache):
    kept = [put(cache, content_of(seed, 6 * CHUNK)) for seed in range(3)]

    with pytest.raises(NoRoom):
        cache.begin("0" * 32, 6 * CHUNK, {**dict.fromkeys(kept, 5), "0" * 32: 5})
    with pytest.raises(NoRoom):
        cache.begin("0" * 32, 21 * CHUNK, {"0" * 32: 0})

    assert all(cache.has(key) for key in kept)


def test_a_part_counts_as_what_it_is_going_to_be(cache):
    part = cache.begin("1" * 32, 15 * CHUNK, {})

    with pytest.raises(NoRoom):
        cache.begin("0" * 32, 6 * CHUNK, {"0" * 32: 0})

    part.close()
    assert cache.begin("0" * 32, 6 * CHUNK, {"0" * 32: 0}), "nobody fetches the other one any more"


def test_what_another_run_has_open_is_left_to_it(cache):
    others = put(cache, content_of(1, 15 * CHUNK))
    descriptor = cache.open_whole(others)

    with pytest.raises(NoRoom):
        cache.begin("0" * 32, 6 * CHUNK, {"0" * 32: 0})

    os.close(descriptor)
    assert cache.begin("0" * 32, 6 * CHUNK, {"0" * 32: 0})
    assert not cache.has(others)


def test_without_a_number_the_limit_is_a_share_of_the_disk(tmp_path):
    cache = Cache.open(tmp_path, None, share_of_free=0.0)

    with pytest.raises(NoRoom):
        cache.begin("0" * 32, CHUNK, {"0" * 32: 0})


# --- what is not its own ---


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "distdl-shards").mkdir()
    (tmp_path / "distdl-shards" / "thesis.tex").write_text("years of work")

    with pytest.raises(UserError, match="not a cache of distdl, and not empty"):
        Cache.open(tmp_path, CHUNK)


def test_files_of_other_names_are_never_deleted(tmp_path, cache):
    strange = [cache.folder / name for name in ("thesis.tex", "000000.tar", f"{'a' * 32}.tar.bak", f"{'A' * 32}.tar")]
    for path in strange:
        path.write_bytes(bytes(8 * CHUNK))
    beside = tmp_path / f"{'b' * 32}.tar"
    beside.write_bytes(b"beside")

    for seed in range(8):
        put(cache, content_of(seed, 6 * CHUNK), {key_of(content_of(seed, 6 * CHUNK)): 0})

    assert all(path.exists() for path in [*strange, beside])
    assert (
        sum(path.stat().st_size for path in cache.folder.glob("?" * 32 + ".tar") if path not in strange) <= 20 * CHUNK
    )


def test_half_an_index_of_a_process_that_was_killed_goes_after_an_hour(tmp_path: Path, cache: Cache) -> None:
    """A fresh one may be somebody's who is writing it; whatever else lies there is not ours."""
    names = [f".{'ab' * 16}.ddx.12.part", f".{'cd' * 16}.ddx.34.part", ".mine.ddx.56.part"]
    for name in names:
        (cache.folder / name).write_bytes(b"half")
    for name in (names[0], names[2]):
        os.utime(cache.folder / name, (0, 0))

    Cache.open(tmp_path, None)

    assert sorted(each.name for each in cache.folder.glob(".*.part")) == sorted(names[1:])
