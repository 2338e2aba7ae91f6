"""data.stage: the shards that a node is going to read are copied to its own disk before training.

They come into the folder as into the cache of remote shards (distdl/data/remote), in the order in which they are read,
the workers of a node side by side and each shard once; what is there from an earlier launch stays. What has no room is
read over the network in training.
"""

import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from distdl.comm import collectives
from distdl.data.corpus.dataset import Dataset
from distdl.data.mixture import Mixture
from distdl.data.order import Rows
from distdl.data.remote.streaming import Streaming
from distdl.trainer.setup import Run

_POLL_S = 0.5
_TOLD_EVERY_S = 10.0


def stage(run: Run, say: Callable[[str], None]) -> None:
    """Returns on all workers at once, when every node has its share. `say` is called by rank 0, of its node."""
    if run.config.data.stage is None:
        return
    began = told_at = time.monotonic()
    tasks = []
    for dataset, steps in _trained_on(run):
        if dataset.streaming:
            tasks.append((dataset.streaming, share_of_node(dataset, steps)))
    for loader in run.eval_loaders.values():
        if isinstance(loader.dataset, Dataset) and loader.dataset.streaming:
            tasks.append((loader.dataset.streaming, loader.dataset.all_shards))
    for streaming, shards in tasks:
        streaming.want(shards)
    while not _all_done(tasks):
        time.sleep(_POLL_S)
        if time.monotonic() - told_at > _TOLD_EVERY_S:
            told_at = time.monotonic()
            say(_progress(run, tasks, began))
    say(_progress(run, tasks, began))


def fetch_ahead(run: Run) -> None:
    """Has remote shards come into the cache in the order in which this node reads them from now on."""
    steps_per_epoch = run.plan.epoch_length // run.plan.global_batch + 1
    for dataset, steps in _trained_on(run):
        dataset.follow(steps, steps_per_epoch)


def _trained_on(run: Run) -> Iterator[tuple[Dataset, Iterator[Rows]]]:
    """The sources that are shards, each with its rows that this node reads from now on, step by step."""
    dataset, position = run.train_loader.dataset, run.state.position
    if isinstance(dataset, Dataset):
        yield dataset, run.node_rows(position)
    if isinstance(dataset, Mixture):
        for name, source in dataset.sources.items():
            if isinstance(source, Dataset):
                yield source, dataset.rows_of(name, run.node_rows(position))


def share_of_node(dataset: Dataset, steps: Iterator[Rows]) -> list[int]:
    """The shards that the workers of this node read in these steps, in the order in which they come to them."""
    found: dict[int, None] = {}
    while len(found) < len(dataset.shards) and (some := list(itertools.islice(steps, 64))):
        ids = np.concatenate([rows.sample_id for rows in some])
        shards, first = np.unique(np.searchsorted(dataset.ends, ids[ids >= 0], side="right"), return_index=True)
        found |= dict.fromkeys(int(shard) for shard in shards[np.argsort(first)])
    return list(found)


def _all_done(tasks: list[tuple[Streaming, list[int]]]) -> bool:
    """On every worker: nobody waits in a collective for longer than a poll."""
    n_busy = torch.tensor([sum(not streaming.is_settled(shards) for streaming, shards in tasks)])
    return int(collectives.sum_(n_busy)) == 0


def _progress(run: Run, tasks: list[tuple[Streaming, list[int]]], began: float) -> str:
    counted = [streaming.count_whole(shards) for streaming, shards in tasks]
    n_whole, n_bytes, n_fetched_bytes = (sum(each) for each in zip(*counted)) if counted else (0, 0, 0)
    n_all = sum(len(shards) for _, shards in tasks)
    rate = n_fetched_bytes / 1e6 / max(1e-9, time.monotonic() - began)
    return (
        f"staged {n_whole:,} of {n_all:,} shards, {n_bytes / 1e9:,.2f} GB, in {run.config.data.stage} "
        f"on {run.world.host} ({rate:,.0f} MB/s by this worker)"
    )
