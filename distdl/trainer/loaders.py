"""The loaders of one worker: which data goes into this model, opened and checked."""

from functools import partial
from typing import Any

import torch
from torch import nn

from distdl.comm import collectives, messages
from distdl.comm.world import WorldInfo
from distdl.config.schema import Config, DataConfig
from distdl.config.sources import SplitConfig
from distdl.data import labels, reading_speed, sampling
from distdl.data.corpus.folder import FolderDataset
from distdl.data.draws import Float64s
from distdl.data.engine import Loader
from distdl.data.iterable import OwnIterable
from distdl.data.mixture import AnyDataset, Mixture, Source
from distdl.data.mixture_order import MixturePlan
from distdl.data.open import open_again, open_split
from distdl.data.order import Plan
from distdl.data.processes import Processes
from distdl.data.workers import Threads
from distdl.errors import UserError
from distdl.launch import binding
from distdl.speech.transforms import build as build_chain
from distdl.trainer import sounds


class LoaderFactory:
    """Makes the loaders of one worker, for data with labels as the task reads them for this model."""

    def __init__(self, config: Config, world: WorldInfo, device: torch.device, model: nn.Module, task: Any) -> None:
        self.config = config
        self._label = getattr(task, "label", labels.class_number)(count_classes(model, config))
        n_workers = n_loading(config, world)
        self._workers = (
            Processes(n_workers, world.rank)
            if config.data.worker_type == "process" and n_workers
            else Threads(n_workers)
        )
        self._pin = device.type == "cuda"

    def __call__(self, split: SplitConfig, where: str, dataset: AnyDataset, plan: Plan | None) -> Loader:
        data = self.config.data
        if isinstance(dataset, OwnIterable) and isinstance(self._workers, Processes):
            raise UserError(
                "an iterable is read by the training process, which alone knows how far it is",
                where="data.worker_type: process",
                fix="Use data.worker_type: thread; or name the shards by data.train.shards, which processes share.",
            )
        # A stand-in would count a sample twice in an evaluation: there, substitute means mask.
        policy = "mask" if plan is None and data.bad_sample == "substitute" else data.bad_sample
        growing = self.config.train.resolution if plan else None
        sound = data.sound
        loader = Loader(
            dataset,
            split,
            workers=self._workers,
            prefetch=data.prefetch,
            open_again=partial(open_again, split, data, dataset.identity, where),
            pin_memory=self._pin,
            where=where,
            label=self._label,
            augmentation_seed=plan.augmentation_seed if plan else None,
            bad_sample=policy,
            substitute=plan.next_in_lane if plan else None,
            short_side=growing.end if growing else None,
            sounds=sounds.rows_of(dataset, sound, where) if sound else None,
        )
        if sound:
            loader.chain = build_chain(split.transforms, where)
        return loader

    def evaluation(self) -> dict[str, Loader]:
        """A loader for each evaluation split."""
        loaders = {}
        for name, split in self.config.data.eval_sets.items():
            where = "data.eval" if name == "eval" else f"data.eval.{name}"
            dataset = open_dataset(split, where, self.config.data, for_training=False)
            loaders[name] = self(split, where, dataset, None)
        return loaders


def open_dataset(split: SplitConfig, where: str, data: DataConfig, *, for_training: bool = True) -> AnyDataset:
    """Rank 0 first: it writes the missing index files, or downloads, what the others then find."""
    dataset = messages.rank0_first(lambda: open_split(split, where, data, for_training=for_training))
    if isinstance(dataset, OwnIterable):
        dataset.compare(messages.gather_json(dataset.first_digest()))
    return dataset


def build_plan(config: Config, dataset: AnyDataset) -> Plan:
    """The order of the run's training samples. Raises UserError when no batch can be formed."""
    settings: dict[str, Any] = {
        "seed": config.train.seed,
        "global_batch": config.train.global_batch,
        "lanes": config.data.lanes,
        "window": config.data.window,
        "tail": config.data.tail,
        "draws": config.data.draws,
        "growth": config.train.batch_growth,
    }
    if config.data.sound:
        return sounds.plan_of(config, dataset, **settings)
    if isinstance(dataset, Mixture):
        weights = {name: source.weight for name, source in (config.data.train.mixture or {}).items()}
        return MixturePlan({name: source.sizes for name, source in dataset.sources.items()}, weights, **settings)
    return Plan(dataset.sizes, weights=_shared_weights(config.data, dataset), **settings)


def _shared_weights(config: DataConfig, dataset: Source | OwnIterable) -> Float64s | None:
    """Rank 0's, on all workers: they must not differ by a bit."""
    if isinstance(dataset, OwnIterable):
        if config.sampling != "natural":
            raise UserError("an iterable decides itself what it gives", where="data.sampling", fix="Leave it out.")
        return None
    if config.sampling == "natural":
        if config.draws:
            raise UserError(
                "with natural sampling an epoch is the corpus",
                where="data.draws",
                fix="Leave it out, or set data.sampling: balanced.",
            )
        return None
    found: list[Float64s] = []
    messages.on_rank0(lambda: found.append(sampling.weights_of(config, dataset)))
    weights = torch.from_numpy(found[0]) if found else torch.zeros(dataset.n_samples, dtype=torch.float64)
    return collectives.broadcast_(weights).numpy()


def remarks(dataset: AnyDataset) -> list[str]:
    """What whoever starts a run should know of its training data. Rank 0 only: a folder's files are tried."""
    found = dataset.remarks() if isinstance(dataset, OwnIterable) else []
    for source in dataset.sources.values() if isinstance(dataset, Mixture) else [dataset]:
        if isinstance(source, FolderDataset) and (speed := reading_speed.measured(source)):
            found.append(f"{source.path}: {speed}")
    return found


def n_loading(config: Config, world: WorldInfo) -> int:
    """How many threads or processes read and decode for this worker."""
    return share_of_cores(world) if config.data.workers is None else config.data.workers


def share_of_cores(world: WorldInfo) -> int:
    return max(1, int(binding.share(world.local_world_size)))


def count_classes(model: nn.Module, config: Config) -> int | None:
    """The number of outputs, from the last linear layer or model.args.classes; it bounds the labels."""
    if isinstance(config.model.args.get("classes"), int):
        return config.model.args["classes"]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return linear[-1].out_features if linear else None
