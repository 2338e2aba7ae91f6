"""The shards of several places: of a folder on disk by catalog.py, of one elsewhere by what lies beside its tars.

Order, counts and identity are those of one local folder with the same tars: sorted by name, wherever each of them is.
"""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from distdl.config import addresses
from distdl.config.schema import RemoteConfig
from distdl.config.values import parse_period
from distdl.data.corpus import catalog, descriptor, index
from distdl.data.corpus.catalog import Shard
from distdl.data.corpus.index import ShardIndex
from distdl.data.remote.patience import PatientStore, RemoteFile
from distdl.data.remote.places import Place
from distdl.data.remote.stores import open_store
from distdl.errors import UserError

_SOON = "10 s"


def shards_of(
    places: Sequence[Place],
    index_folder: str | Path | None,
    remote: RemoteConfig,
    write_index: bool,
    *,
    as_remote: bool,
) -> tuple[list[Shard], dict[int, ShardIndex], list[str] | None]:
    """The shards sorted by name, indexes that are only in memory by shard number, and the classes.

    `as_remote`: folders on disk too, which are to be copied. Raises UserError for what is missing or contradictory.
    """
    opened = functools.cache(lambda folder: open_place(folder, remote))
    shards: list[Shard] = []
    built: dict[str, ShardIndex] = {}
    classes: list[str] | None = None
    for place in places:
        if place.is_local:
            found, in_memory, named = _local(place, index_folder, write_index)
            built |= {found[number].tar.name: shard_index for number, shard_index in in_memory.items()}
            if as_remote:
                found = [_as_remote(shard, opened) for shard in found]
        else:
            found, named = remote_shards(place, index_folder, remote)
        if named and classes and named != classes:
            raise UserError("these shards have other classes than the ones before", where=addresses.shown(place.folder))
        classes = classes or named
        shards += found
    shards.sort(key=lambda shard: shard.tar.name)
    twice = [name for name, n in Counter(shard.tar.name for shard in shards).items() if n > 1]
    if twice:
        first, second = [str(shard.tar) for shard in shards if shard.tar.name == twice[0]][:2]
        raise UserError(
            f"two shards are called {twice[0]}: {first} and {second}",
            fix="Shards are told apart, and ordered, by their names: rename some of them.",
        )
    numbers = {shard.tar.name: number for number, shard in enumerate(shards)}
    return shards, {numbers[name]: shard_index for name, shard_index in built.items()}, classes


def check_reachable(places: Sequence[Place], index_folder: str | Path | None) -> None:
    """Raises UserError within seconds where a host does not answer: for a command that somebody waits for."""
    folders = [place.folder for place in places] + [str(index_folder)] * (index_folder is not None)
    for folder in filter(addresses.is_address, folders):
        open_place(folder, RemoteConfig(deadline=_SOON)).read_whole(descriptor.FILE_NAME)


def open_place(folder: str, remote: RemoteConfig) -> PatientStore:
    deadline_s, _ = parse_period(remote.deadline)
    return PatientStore(open_store(folder, remote), deadline_s=deadline_s, connections=remote.connections)


def no_index(tar: str, where: str) -> UserError:
    return UserError(
        f"{tar} has no index, which remote shards need",
        where=where,
        fix="Index the folder that it was copied from, `distdl data index FOLDER`, and copy dataset.json and *.ddx "
        "beside the tars; or name a folder that has them: data.train.index.",
    )


def _local(
    place: Place, index_folder: str | Path | None, write_index: bool
) -> tuple[list[Shard], dict[int, ShardIndex], list[str] | None]:
    folder = Path(place.folder)
    tars = None if place.tars is None else [folder / name for name in sorted(place.tars)]
    for tar in tars or ():
        if not tar.is_file():
            raise UserError("there is no such shard", where=str(tar))
    return catalog.local_shards(folder, index_folder, write_index=write_index, tars=tars)


def _as_remote(shard: Shard, opened: Callable[[str], PatientStore]) -> Shard:
    assert isinstance(shard.tar, Path) and isinstance(shard.index, Path), "it is on disk, with its index"
    return Shard(
        tar=RemoteFile(opened(str(shard.tar.parent)), shard.tar.name),
        index=RemoteFile(opened(str(shard.index.parent)), shard.index.name),
        n_samples=shard.n_samples,
        size_bytes=shard.size_bytes,
        xxh3=shard.xxh3,
        excluded=shard.excluded,
        sounds=shard.sounds,
    )


def remote_shards(
    place: Place, index_folder: str | Path | None, remote: RemoteConfig
) -> tuple[list[Shard], list[str] | None]:
    """The shards as dataset.json lists them, beside the tars or in `index_folder`, or else as their indexes tell."""
    store = open_place(place.folder, remote)
    beside = [open_place(str(index_folder), remote), store] if index_folder is not None else [store]
    for lists in beside:
        content = lists.read_whole(descriptor.FILE_NAME)
        where = lists.shown(descriptor.FILE_NAME)
        listed = descriptor.parse(content, where, "FOLDER") if content is not None else None
        if listed is None:
            continue
        entries = {entry.name: entry for entry in listed.shards}
        names = sorted(entries) if place.tars is None else sorted(place.tars)
        if unknown := [name for name in names if name not in entries]:
            raise UserError(f"it does not list {', '.join(unknown[:3])}", where=where, fix="Is the pattern right?")
        return [
            Shard(
                tar=RemoteFile(store, name),
                index=RemoteFile(lists, entries[name].index),
                n_samples=entries[name].n_samples,
                size_bytes=entries[name].size_bytes,
                xxh3=entries[name].xxh3,
                excluded=entries[name].excluded,
                sounds=entries[name].sounds,
            )
            for name in names
        ], listed.classes
    names = sorted(place.tars) if place.tars is not None else _tars_in(store)
    with ThreadPoolExecutor(remote.connections) as pool:
        return list(pool.map(lambda name: _indexed(store, beside, name), names)), None


def _tars_in(store: PatientStore) -> list[str]:
    there = store.names()
    if there is None:
        raise UserError(
            f"there is no {descriptor.FILE_NAME} here, and a web server can't be asked what there is",
            where=store.where,
            fix="Copy the dataset.json and *.ddx that `distdl data index FOLDER` writes beside the tars, "
            "or name the tars: https://host/prefix/{000000..000099}.tar.",
        )
    tars = sorted(name for name in there if name.endswith(".tar"))
    if not tars:
        has = f"it has {', '.join(there[:5])}" if there else "nothing is below this address"
        raise UserError(f"no shard (*.tar) here: {has}", where=store.where, fix="Is the address right?")
    return tars


def _indexed(store: PatientStore, beside: Sequence[PatientStore], name: str) -> Shard:
    for folder in beside:
        file = RemoteFile(folder, name + index.SUFFIX)
        content = file.read_whole()
        if content is None:
            continue
        found = index.ShardIndex(content, str(file))
        size = store.size(name)
        if size != found.tar_size:
            raise UserError(
                f"this index was made of a tar of {found.tar_size} bytes, but {store.shown(name)} has {size}",
                where=str(file),
                fix="Copy the tars and their indexes again, from one folder.",
            )
        return Shard(
            tar=RemoteFile(store, name),
            index=file,
            n_samples=found.n_samples,
            size_bytes=size,
            xxh3=found.tar_xxh3,
        )
    raise no_index(name, store.shown(name))
