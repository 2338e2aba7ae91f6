"""The training loops that step_overhead.py compares, each in a process of its own: what its documentation recommends.

    python benchmarks/contenders.py FRAMEWORK NETWORK      started by step_overhead.py; a worker if RANK is set

All train the same network with the same optimiser (SGD, momentum 0.9) on the same uint8 batches in memory, log the
loss every 50 steps, and neither evaluate nor save. They take turns: the batches, which each draws in its own way, stop
coming at the end of a round, until step_overhead.py lets the next one begin. A round's time is what lies in between.
"""

import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distdl import models

LR, MOMENTUM = 0.01, 0.9
LOG_EVERY = 50
N_BATCHES = 50
N_SAMPLES = 60_000  # of MNIST, say
MEAN, STD = 0.4, 0.3
RANK, WORLD_SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    image_shape_HWC: tuple[int, int, int]
    classes: int
    global_batch: int
    steps_per_round: int


CASES = {
    "lenet5": Case((32, 32, 1), 10, global_batch=64, steps_per_round=50),
    "resnet18": Case((64, 64, 3), 10, global_batch=16, steps_per_round=5),
}


class Turns:
    """The worker's batches, over and over. A reply per round goes to a pipe: its seconds, of the first one 0."""

    def __init__(self, case: Case) -> None:
        self._steps_per_round, self._batches = case.steps_per_round, make_batches(case)
        self._replies = os.fdopen(int(os.environ["REPLY_DESCRIPTOR"]), "w")

    def __iter__(self) -> Iterator[Batch]:
        if WORLD_SIZE > 1:  # a framework that takes each worker for the only one would look fast
            assert torch.distributed.get_world_size() == WORLD_SIZE
        began = time.perf_counter()
        for number, batch in enumerate(itertools.cycle(self._batches)):
            if number % self._steps_per_round == 0:
                print(json.dumps(time.perf_counter() - began), file=self._replies, flush=True)
                if not sys.stdin.readline():  # the end
                    os._exit(0)
                began = time.perf_counter()
            yield batch


def make_batches(case: Case) -> list[Batch]:
    generator = torch.Generator().manual_seed(RANK)
    rows = case.global_batch // WORLD_SIZE
    return [
        {
            "image": torch.randint(0, 256, (rows, *case.image_shape_HWC), dtype=torch.uint8, generator=generator),
            "label": torch.randint(0, case.classes, (rows,), generator=generator),
        }
        for _ in range(N_BATCHES)
    ]


def normalised(image_NHWC: Tensor) -> Tensor:
    return image_NHWC.permute(0, 3, 1, 2).float().div_(255).sub_(MEAN).div_(STD)


def make_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return models.build(name, {"classes": CASES[name].classes})


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM)


# --- the bound: what a person would write ---


def bare(name: str, turns: Turns) -> None:
    network = make_network(name)
    if WORLD_SIZE > 1:
        torch.distributed.init_process_group("gloo")
        network = nn.parallel.DistributedDataParallel(network)
    optimiser = sgd(network)
    for step, batch in enumerate(turns, 1):
        optimiser.zero_grad()
        loss = functional.cross_entropy(network(normalised(batch["image"])), batch["label"])
        loss.backward()
        optimiser.step()
        if step % LOG_EVERY == 0:
            print(step, loss.item())


# --- distdl: its whole loop, from the sample plan to metrics.jsonl; only the batches are there already ---


def distdl(name: str, turns: Turns) -> None:
    from distdl.bench.loops import MemoryLoader, NoCheckpoints
    from distdl.bench.step import on_noise, only_steps
    from distdl.comm import collectives
    from distdl.comm.world import WorldInfo, detect
    from distdl.config.schema import Config
    from distdl.data.engine import HostBatch
    from distdl.data.order import Plan
    from distdl.run.folder import RunFolder
    from distdl.track import NullTracker, Tracker
    from distdl.trainer import loop, setup
    from distdl.trainer.quarantine import Quarantine
    from distdl.trainer.signals import StopRequests
    from distdl.trainer.state import TrainState

    case, world, device = CASES[name], detect() or WorldInfo(), torch.device("cpu")
    channels = case.image_shape_HWC[2]
    normalise = {"normalise": {"mean": [MEAN] * channels, "std": [STD] * channels}}
    config = Config.model_validate(
        {
            "model": {"name": name, "args": {"classes": case.classes}},
            "data": {"train": {"shards": "-", "transforms": [normalise]}},
            "train": {"global_batch": case.global_batch, "steps": 1, "threads": 1, "device": "cpu"},
            "optim": {"name": "sgd", "lr": LR, "momentum": MOMENTUM},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        config = only_steps(on_noise(config, Path(folder), case.image_shape_HWC), log_every=LOG_EVERY)
        setup.set_threads_and_kernels(config.train, world)
        collectives.join(world, "gloo", device)
        run = setup.build(config, world, device, TrainState())
        rows = case.global_batch // WORLD_SIZE
        others = {"valid": torch.ones(rows), "sample_id": torch.arange(rows)}
        batches = (HostBatch({**batch, **others}, rows, 0, 0.0) for batch in turns)
        run.train_loader = MemoryLoader(batches, run.train_loader.normalise)
        # The order of a corpus of usual size: that of the few images here would begin anew several times in a step.
        run.plan = Plan(np.array([N_SAMPLES]), seed=0, global_batch=case.global_batch)
        track = NullTracker()
        if world.rank == 0:
            track = Tracker.open(
                RunFolder(Path(folder)),
                config.track,
                config={},
                resume_step=None,
                total_steps=run.total_steps,
                samples_per_epoch=run.plan.epoch_length,
                verbosity=0,
                screen="plain",
            )
        nothing_bad = Quarantine(Path(os.devnull), "")
        loop.fit(run, track, NoCheckpoints(), StopRequests(), nothing_bad)


# --- the peers ---


def lightning(name: str, turns: Turns) -> None:
    import lightning as pl
    from lightning.pytorch.loggers import CSVLogger

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = make_network(name)

        def training_step(self, batch: Batch, batch_number: int) -> Tensor:
            loss = functional.cross_entropy(self.network(normalised(batch["image"])), batch["label"])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return sgd(self)

    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=WORLD_SIZE,
            strategy="ddp" if WORLD_SIZE > 1 else "auto",
            max_epochs=1,
            logger=CSVLogger(folder),
            log_every_n_steps=LOG_EVERY,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(), turns)


def fabric(name: str, turns: Turns) -> None:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=WORLD_SIZE, strategy="ddp" if WORLD_SIZE > 1 else "auto")
    fabric.launch()
    network = make_network(name)
    network, optimiser = fabric.setup(network, sgd(network))
    for step, batch in enumerate(turns, 1):
        optimiser.zero_grad()
        loss = functional.cross_entropy(network(normalised(batch["image"])), batch["label"])
        fabric.backward(loss)
        optimiser.step()
        if step % LOG_EVERY == 0:
            fabric.print(step, loss.item())


def accelerate(name: str, turns: Turns) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    network = make_network(name)
    network, optimiser = accelerator.prepare(network, sgd(network))
    for step, batch in enumerate(turns, 1):
        optimiser.zero_grad()
        loss = functional.cross_entropy(network(normalised(batch["image"])), batch["label"])
        accelerator.backward(loss)
        optimiser.step()
        if step % LOG_EVERY == 0:
            accelerator.print(step, loss.item())


def hf_trainer(name: str, turns: Turns) -> None:
    from transformers import Trainer, TrainingArguments

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = make_network(name)

        def forward(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
            logits = self.network(normalised(image))
            return {"loss": functional.cross_entropy(logits, label), "logits": logits}

    class OnTurns(Trainer):
        def get_train_dataloader(self) -> Turns:  # type: ignore[override]
            return turns

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            use_cpu=True,
            per_device_train_batch_size=CASES[name].global_batch // WORLD_SIZE,
            max_steps=10**9,
            logging_steps=LOG_EVERY,
            learning_rate=LR,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        network = WithLoss()
        OnTurns(network, arguments, train_dataset=[0], optimizers=(sgd(network), None)).train()


FRAMEWORKS = {each.__name__: each for each in (bare, distdl, lightning, fabric, accelerate, hf_trainer)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    FRAMEWORKS[sys.argv[1]](sys.argv[2], Turns(CASES[sys.argv[2]]))
