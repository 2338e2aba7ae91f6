"""The loaders of one worker: which data goes into this model, opened and checked."""

import os
from typing import Any

import torch
from torch import nn

from distdl.comm import collectives
from distdl.comm.world import WorldInfo
from distdl.config.schema import Config, SplitConfig
from distdl.data.dataset import Dataset
from distdl.data.engine import Loader
from distdl.data.order import Plan
from distdl.errors import UserError


class LoaderFactory:
    """Makes the loaders of one worker, for data that a model of so many classes can take."""

    def __init__(self, config: Config, world: WorldInfo, device: torch.device, model: nn.Module, task: Any) -> None:
        self.config, self._n_classes = config, count_classes(model, config)
        self._workers = config.data.workers or share_of_cores(world)
        self._pin = device.type == "cuda"

    def __call__(self, split: SplitConfig, where: str, dataset: Dataset, plan: Plan | None) -> Loader:
        data = self.config.data
        # A stand-in would count a sample twice in an evaluation: there, substitute means mask.
        policy = "mask" if plan is None and data.bad_sample == "substitute" else data.bad_sample
        return Loader(
            split,
            where=where,
            n_classes=self._n_classes,
            seed=self.config.train.seed if plan else None,
            workers=self._workers,
            prefetch=data.prefetch,
            bad_sample=policy,
            substitute=plan.next_in_lane if plan else None,
            pin_memory=self._pin,
            dataset=dataset,
        )

    def evaluation(self) -> dict[str, Loader]:
        """A loader for each evaluation split."""
        loaders = {}
        for name, split in self.config.data.eval_sets.items():
            where = "data.eval" if name == "eval" else f"data.eval.{name}"
            loaders[name] = self(split, where, open_dataset(split, where), None)
        return loaders


def open_dataset(split: SplitConfig, where: str) -> Dataset:
    """Rank 0 first: it writes the missing index files that the others then find."""
    try:
        return collectives.rank0_first(lambda: Dataset.open(split.source, index_folder=split.index))
    except UserError as error:
        raise UserError(error.what, where=f"{where}.shards: {error.where or split.shards}", fix=error.fix) from None


def build_plan(config: Config, dataset: Dataset) -> Plan:
    """The order of the run's training samples. Raises UserError when no batch can be formed."""
    return Plan(
        dataset.sizes,
        seed=config.train.seed,
        global_batch=config.train.global_batch,
        lanes=config.data.lanes,
        window=config.data.window,
        tail=config.data.tail,
    )


def share_of_cores(world: WorldInfo) -> int:
    return max(1, len(os.sched_getaffinity(0)) // world.local_world_size)


def count_classes(model: nn.Module, config: Config) -> int | None:
    """The number of outputs, from the last linear layer or model.args.classes; it bounds the labels."""
    if isinstance(config.model.args.get("classes"), int):
        return config.model.args["classes"]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return linear[-1].out_features if linear else None
