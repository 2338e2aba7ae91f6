"""From a config to everything a run needs, built in the order in which mistakes are cheapest to find."""

import ctypes
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from distdl import models, registry
from distdl.comm import reduction as reductions
from distdl.comm import slurm, tree
from distdl.comm.reduction import Reduction
from distdl.comm.status import Status
from distdl.comm.world import WorldInfo
from distdl.config.schema import Config, TrainConfig
from distdl.data import native
from distdl.data.engine import HostBatch, Loader
from distdl.data.order import Plan, Rows
from distdl.data.pictures import resolution
from distdl.errors import UserError, did_you_mean
from distdl.launch import binding
from distdl.launch.binding import Binding
from distdl.trainer import batch_norm, ema, engines, mixup, optim, phases, schedule, sounds
from distdl.trainer.distill import Teacher
from distdl.trainer.ema import AveragedWeights
from distdl.trainer.engines import Engine
from distdl.trainer.loaders import LoaderFactory, build_plan, n_loading, open_dataset
from distdl.trainer.noise import Noise
from distdl.trainer.phases import Phases
from distdl.trainer.state import TrainState
from distdl.trainer.throughput import Throughput, flops_per_sample

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


# What is counted in every step: a stop that a worker was asked for, samples that it could not use, and whether rank 0's
# clock says that something is due.
_COUNTED = ("valid", "preempted", "interrupted", "bad", "log", "eval", "save")


@dataclass(slots=True)
class Run:
    """All parts of a run. Functions take from it what they need by name."""

    config: Config
    world: WorldInfo
    device: torch.device
    task: Any
    engine: Engine
    reduction: Reduction  # which parts of a batch this worker computes, and how they become a sum
    status: Status  # what the workers tell each other in every step
    phases: Phases
    noise: Noise
    teacher: Teacher | None
    throughput: Throughput
    ema: AveragedWeights | None
    plan: Plan
    lr: schedule.Rate
    train_loader: Loader
    eval_loaders: dict[str, Loader]
    state: TrainState
    end: int  # position where the run ends
    feasible: sounds.Feasible | None  # of transcripts that are learned by CTC
    padding: sounds.Padding
    description: dict[str, Any]  # goes into every checkpoint: what a resumed run is checked against
    straggler: dict[str, float] = field(default_factory=dict)
    """of a training row: which worker holds the others up, and what part of the time it costs; {} while none does"""

    @property
    def total_steps(self) -> int:
        """Steps done and to do. The same at every step of a run, also after one that was extended."""
        return self.state.step + self.plan.n_steps(self.state.position, self.end)

    @property
    def global_batch(self) -> int:
        """Rows of the step that comes, over all workers."""
        return self.plan.batch_at(self.state.position)

    def lr_now(self) -> float:
        """The learning rate of the step that comes."""
        plateau = self.state.plateau
        return self.lr(self.state.step, self.total_steps, self.epoch, plateau["factor"] if plateau else 1.0)

    @property
    def stops_early(self) -> bool:
        early, seen = self.config.train.early_stop, self.state.early_stop
        return early is not None and seen is not None and seen["n_bad"] >= early.patience

    @property
    def is_over(self) -> bool:
        return self.state.position >= self.end or self.stops_early

    @property
    def epoch(self) -> float:
        return self.state.position / self.plan.epoch_length

    def host_batches(self) -> Iterator[HostBatch]:
        """This worker's share of every batch from the state's position to the end."""
        steps = self.plan.steps(self.state.position, self.end, end=self.end)
        if growing := self.config.train.resolution:
            steps = resolution.with_sides(steps, growing, self.state.position, self.plan.epoch_length)
        batches = self.train_loader.batches(map(self.share_of, steps))
        return map(self.feasible.masked, batches) if self.feasible else batches

    def share_of(self, rows: Rows) -> Rows:
        """What this worker computes of a global batch; of sounds with the forwards that it is cut into."""
        if self.train_loader.sounds:
            rows = sounds.cut(rows, self.train_loader.sounds, self.reduction.n_parts)
        return rows.parts(self.reduction.parts, self.reduction.n_parts)

    def node_rows(self, position: int) -> Iterator[Rows]:
        """What all workers of this node read from `position` to the end, step by step."""
        world, n_parts = self.world, self.reduction.n_parts
        first = world.rank - world.local_rank
        last = first + world.local_world_size - 1
        of_first, of_last = (tree.leaves_of(rank, world.world_size, n_parts) for rank in (first, last))
        parts = range(of_first.start, of_last.stop)
        for rows in self.plan.steps(position, self.end, end=self.end):
            yield rows.parts(parts, n_parts)

    def close(self) -> None:
        for loader in (self.train_loader, *self.eval_loaders.values()):
            loader.close()


def build(config: Config, world: WorldInfo, device: torch.device, state: TrainState) -> Run:
    """Raises UserError for anything in the config that cannot work with this data and these workers."""
    if config.train.global_batch < world.world_size:
        raise UserError(
            f"a global batch of {config.train.global_batch} can't be shared by {world.world_size} workers",
            where="train.global_batch",
            fix="Use a larger batch or fewer workers.",
        )
    reduction = reductions.build(config, world, device)
    batch_norm.check_sync(config, world.world_size)
    sounds.check(config, world.world_size)
    task = build_task(config)
    _check_metrics(config, task)
    model = build_model(config, device)
    teacher = Teacher.load(config, device) if config.train.distill else None
    timing, noise = phases.build(device), Noise(config.train.noise, model, config.train.seed)
    status = Status(_COUNTED, device)
    engine = engines.build(
        engines.Given(
            config=config,
            model=model,
            reduction=reduction,
            status=status,
            phases=timing,
            add_noise=noise.gradients_ if config.train.noise.gradient else None,
        )
    )

    dataset = open_dataset(config.data.train, "data.train", config.data)
    plan = build_plan(config, dataset)
    end = plan.end_position(epochs=config.train.epochs, steps=config.train.steps)
    if end == 0:
        raise UserError(
            f"{config.train.epochs} epochs of {plan.n_samples} samples are not one step", where="train.epochs"
        )
    make = LoaderFactory(config, world, device, model, task)
    train_loader = make(config.data.train, "data.train", dataset, plan)
    has_labels = train_loader.label is not None and getattr(task, "learns_from_mixtures", True)
    mixup.check(config, reduction.n_parts, has_labels)
    if train_loader.image_shape:
        _check_resolution(config, model, train_loader.image_shape)
    shape = None if config.train.resolution else train_loader.image_shape  # what differs from step to step has no MFU
    return Run(
        config=config,
        world=world,
        device=device,
        task=task,
        engine=engine,
        reduction=reduction,
        status=status,
        phases=timing,
        noise=noise,
        teacher=teacher,
        throughput=Throughput(model, shape, device, config.train.precision, world.world_size),
        ema=ema.build(config.train, model, plan),
        plan=plan,
        lr=schedule.build(config.schedule, optim.peak_lr(config.optim, config.train.global_batch)),
        train_loader=train_loader,
        eval_loaders=make.evaluation(),
        state=state,
        end=end,
        feasible=sounds.Feasible(model, train_loader, task.frames_needed) if hasattr(task, "frames_needed") else None,
        padding=sounds.Padding(),
        description={
            "config": config.model_dump(mode="json"),
            "data": {"identity": dataset.identity, **plan.identity},
            "teacher": teacher.identity if teacher else None,
            "world_size": world.world_size,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "jpeg_decoder": native.decoder,
        },
    )


def _check_metrics(config: Config, task: Any) -> None:
    """Every metric that something is decided by has to be one of the task's, and to be evaluated."""
    early = config.train.early_stop
    wanted = {
        "checkpoint.best": config.checkpoint.best,
        "train.early_stop.metric": early.metric if early else None,
        "schedule.args.metric": schedule.plateau_metric(config.schedule),
    }
    known = ("loss", *task.metric_names)
    for where, metric in wanted.items():
        if metric and metric not in known:
            what = f"this task has no metric '{metric}'{did_you_mean(metric, known)}"
            raise UserError(what, where=where, fix=f"It has: {', '.join(known)}.")
        if metric and where != "checkpoint.best" and config.train.eval_every is None:
            raise UserError("nothing is evaluated before the end", where=where, fix="Set train.eval_every as well.")
        if metric and not config.data.eval_sets:
            raise UserError("there is nothing to evaluate on", where=where, fix="Set data.eval.shards as well.")


def _check_resolution(config: Config, model: nn.Module, largest_HWC: tuple[int, int, int]) -> None:
    """Raises UserError for a network that takes the images of the end, but not the small ones of the start."""
    growing = config.train.resolution
    if growing is None or flops_per_sample(model, largest_HWC) is None:
        return  # nothing can be told of a network that can't be counted
    smallest_HWC = resolution.shape_at(largest_HWC, growing.start)
    if flops_per_sample(model, smallest_HWC) is None:
        raise UserError(
            f"'{config.model.name}' takes images of {largest_HWC[0]}x{largest_HWC[1]}, but not of "
            f"{smallest_HWC[0]}x{smallest_HWC[1]}",
            where="train.resolution.start",
            fix="Use a network that ends in global pooling, such as resnet18, a larger start, or one size.",
        )


def build_task(config: Config) -> Any:
    function = registry.resolve(config.task.name, registry.TASKS, "task")
    kind, smoothing = f"task '{config.task.name}'", config.task.label_smoothing
    if "label_smoothing" in inspect.signature(function).parameters:
        return registry.call_with_args(function, config.task.args, kind, label_smoothing=smoothing, where="task.args")
    if smoothing:
        raise UserError(f"{kind} has no label smoothing", where="task.label_smoothing", fix="Leave it out.")
    return registry.call_with_args(function, config.task.args, kind, where="task.args")


def build_model(config: Config, device: torch.device) -> nn.Module:
    """With the same initial weights on every worker."""
    torch.manual_seed(config.train.seed)
    model = models.build(config.model.name, config.model.args)
    optim.freeze(model, config.optim, config.model.freeze)
    if not any(p.requires_grad for p in model.parameters()):
        where = f"model.freeze: {config.model.freeze}" if config.model.freeze else f"model.name: {config.model.name}"
        raise UserError("this network has nothing to train", where=where)
    _check_dense(model, config.model.name)
    batch_norm.freeze_statistics(model)
    batch_norm.convert(model, config.train.batch_norm, config.train.ghost_rows)
    model.to(device)
    if config.train.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    if config.train.compile:
        compile_blocks(model)
    return model


def _check_dense(model: nn.Module, name: str) -> None:
    for layer, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise UserError(
                f"its layer '{layer}' makes sparse gradients, which can be neither exchanged nor clipped here",
                where=f"model.name: {name}",
                fix="Build the layer with sparse=False.",
            )


def pick_device(
    wanted: str, world: WorldInfo, where: str = "train.device", cpu: str = "train.device=cpu"
) -> torch.device:
    """The worker's device, made current. `wanted`: cpu, cuda or auto; `where` it was asked; what asks for the `cpu`.

    Raises UserError if there are fewer devices than workers on this host.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if wanted == "cpu" or (wanted == "auto" and accelerator is None):
        return torch.device("cpu")
    if accelerator is None:
        raise UserError(
            "no CUDA device is usable here",
            where=where,
            fix=f"Is this PyTorch a CUDA build, and does nvidia-smi list a GPU? Or use {cpu}.",
        )
    n_devices = torch.accelerator.device_count()
    # srun may give each task a device of its own, the only one that it sees.
    index = 0 if n_devices == 1 and slurm.is_one_of_several(os.environ) else world.local_rank
    if index >= n_devices:
        raise UserError(
            f"worker {world.local_rank} has no device: this host has {n_devices}",
            where=world.host,
            fix=f"Start as many workers as there are devices, or use {cpu}.",
        )
    torch.accelerator.set_device_index(index)
    return torch.device(accelerator.type, index)


def n_threads(config: TrainConfig, world: WorldInfo, *, is_tree: bool = False) -> tuple[int, str]:
    """Of the operators of this worker, and who says so.

    With a tree the bits of a run are not to depend on the number of workers, hence nor does that of threads.
    """
    if config.threads:
        return config.threads, "train.threads"
    return (1, "dist.reduction: tree") if is_tree else binding.threads(world.local_world_size)


def bind(config: Config, world: WorldInfo, device: torch.device) -> Binding:
    """Binds this worker to cores near its GPU, as dist.bind says: before its libraries start most of their threads."""
    if config.dist.bind == "none":
        return Binding(cores=(), node=None, reason="dist.bind: none")
    gpus = [_pci_address(index) if device.type == "cuda" else None for index in range(world.local_world_size)]
    threads, _ = n_threads(config.train, world, is_tree=config.dist.reduction == "tree")
    return binding.bind(world.local_rank, gpus, n_needed=max(threads, n_loading(config, world)))


def unused_gpus(config: TrainConfig, device: torch.device, environment: Mapping[str, str] = os.environ) -> str | None:
    """A warning where GPUs were given to this process, and torch sees none."""
    visible = environment.get("CUDA_VISIBLE_DEVICES", environment.get("SLURM_STEP_GPUS", ""))
    if device.type != "cpu" or config.device != "auto" or visible in ("", "-1", "NoDevFiles"):
        return None
    why = (
        "is built without CUDA"
        if torch.version.cuda is None
        else "finds none (nvidia-smi tells whether the driver does)"
    )
    return f"warning: GPUs {visible} are given to this run, but torch {torch.__version__} {why}: it trains on the CPU"


def _pci_address(index: int) -> str | None:
    """Of a CUDA device, in the order in which CUDA counts those that are visible."""
    if index >= torch.cuda.device_count():
        return None
    properties: Any = torch.cuda.get_device_properties(index)
    if hasattr(properties, "pci_bus_id"):
        return f"{properties.pci_domain_id:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
    return binding.address_of(str(getattr(properties, "uuid", "")))


def set_threads_and_kernels(config: TrainConfig, world: WorldInfo, *, is_tree: bool = False) -> int:
    """Pins what the bits of a run depend on besides its seed; returns the number of operator threads."""
    threads, _ = n_threads(config, world, is_tree=is_tree)
    torch.set_num_threads(threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # A debugging aid that would write every output twice.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = not config.deterministic
    return threads


def keep_freed_memory() -> None:
    """Has glibc keep what a step frees for the next one. Otherwise, as the layout of the heap happens to be, it gives
    the large blocks back to the system and takes a page fault for every 4 KiB of them in every step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # other C libraries don't have it
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def compile_blocks(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compiles block by block: gradients become ready one block after another, so that their exchange can overlap."""
    # Blocks of one class share their code, and so the limit (8) after which torch runs the rest of them eagerly.
    torch._dynamo.config.recompile_limit = 256
    names = models.blocks(model)
    for block in [model.get_submodule(name) for name in names] or [model]:
        # Each shape by itself: else what it is compiled to would depend on the shapes that came before it.
        block.compile(dynamic=False, backend=backend)
