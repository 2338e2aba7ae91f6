"""The loaders of one worker: which data goes into this model, opened and checked."""

import os
from typing import Any

import torch
from torch import nn

from distdl.comm import collectives, messages
from distdl.comm.world import WorldInfo
from distdl.config.schema import Config, DataConfig, SplitConfig
from distdl.data import labels, reading_speed, sampling
from distdl.data.dataset import Dataset
from distdl.data.draws import Float64s
from distdl.data.engine import Loader
from distdl.data.folder import FolderDataset
from distdl.data.iterable import Own, OwnIterable, open_own
from distdl.data.order import Plan
from distdl.data.own import OwnDataset
from distdl.data.samples import Stored
from distdl.errors import UserError


class LoaderFactory:
    """Makes the loaders of one worker, for data with labels as the task reads them for this model."""

    def __init__(self, config: Config, world: WorldInfo, device: torch.device, model: nn.Module, task: Any) -> None:
        self.config = config
        self._label = getattr(task, "label", labels.class_number)(count_classes(model, config))
        self._workers = config.data.workers or share_of_cores(world)
        self._pin = device.type == "cuda"

    def __call__(self, split: SplitConfig, where: str, dataset: Stored | Own, plan: Plan | None) -> Loader:
        data = self.config.data
        # A stand-in would count a sample twice in an evaluation: there, substitute means mask.
        policy = "mask" if plan is None and data.bad_sample == "substitute" else data.bad_sample
        growing = self.config.train.resolution if plan else None
        return Loader(
            dataset,
            split,
            where=where,
            label=self._label,
            augmentation_seed=plan.augmentation_seed if plan else None,
            workers=self._workers,
            prefetch=data.prefetch,
            bad_sample=policy,
            substitute=plan.next_in_lane if plan else None,
            pin_memory=self._pin,
            short_side=growing.end if growing else None,
        )

    def evaluation(self) -> dict[str, Loader]:
        """A loader for each evaluation split."""
        loaders = {}
        for name, split in self.config.data.eval_sets.items():
            where = "data.eval" if name == "eval" else f"data.eval.{name}"
            dataset = open_dataset(split, where, self.config.data, for_training=False)
            loaders[name] = self(split, where, dataset, None)
        return loaders


def open_dataset(split: SplitConfig, where: str, data: DataConfig, *, for_training: bool = True) -> Stored | Own:
    """Rank 0 first: it writes the missing index files, or downloads, what the others then find."""
    shards, folder = split.shards, split.folder
    if split.dataset is not None and not for_training:
        return messages.rank0_first(lambda: OwnDataset.open(split, where))
    if split.dataset is not None:
        own = messages.rank0_first(lambda: open_own(split, where, data.draws))
        if isinstance(own, OwnIterable):
            own.compare(messages.gather_json(own.first_digest()))
        return own
    try:
        if folder is not None:
            return messages.rank0_first(lambda: FolderDataset.open(folder))
        assert shards is not None, "a split has one source"
        return messages.rank0_first(
            lambda: Dataset.open(shards, index_folder=split.index, remote=data.remote, stage=data.stage)
        )
    except UserError as error:
        key = "folder" if folder else "shards"
        raise UserError(error.what, where=f"{where}.{key}: {error.where or split.source}", fix=error.fix) from None


def build_plan(config: Config, dataset: Stored | Own) -> Plan:
    """The order of the run's training samples. Raises UserError when no batch can be formed."""
    return Plan(
        dataset.sizes,
        seed=config.train.seed,
        global_batch=config.train.global_batch,
        lanes=config.data.lanes,
        window=config.data.window,
        tail=config.data.tail,
        weights=_shared_weights(config.data, dataset),
        draws=config.data.draws,
        growth=config.train.batch_growth,
    )


def _shared_weights(config: DataConfig, dataset: Stored | Own) -> Float64s | None:
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


def remarks(dataset: Stored | Own) -> list[str]:
    """What whoever starts a run should know of its training data. Rank 0 only: a folder's files are tried."""
    if isinstance(dataset, FolderDataset):
        speed = reading_speed.measured(dataset)
        return [f"data.train.folder: {speed}"] if speed else []
    return dataset.remarks() if isinstance(dataset, OwnIterable) else []


def share_of_cores(world: WorldInfo) -> int:
    return max(1, len(os.sched_getaffinity(0)) // world.local_world_size)


def count_classes(model: nn.Module, config: Config) -> int | None:
    """The number of outputs, from the last linear layer or model.args.classes; it bounds the labels."""
    if isinstance(config.model.args.get("classes"), int):
        return config.model.args["classes"]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return linear[-1].out_features if linear else None
