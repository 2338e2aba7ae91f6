"""Every key of a config: its type, its bounds, its default and what it means, one frozen model per section.

`key(default, text)` declares a key. A key marked `free=True` may change between the two halves of a resumed run; any
other change would make it another run and is refused. Texts are shown by `distdl config show`.
"""

import math
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from distdl import registry
from distdl.config import addresses
from distdl.config.cluster import PathsConfig, SlurmConfig
from distdl.config.sources import SoundConfig, SplitConfig, TrainSplitConfig
from distdl.config.values import (
    REQUIRED,
    Decay,
    Duration,
    Epoch,
    Period,
    Section,
    SignalName,
    key,
    name_in,
    parse_period,
)


class ModelConfig(Section):
    name: Annotated[str, name_in(registry.MODELS, "model")] = key(
        REQUIRED, "network: a name from `distdl zoo`, or package.module:attribute"
    )
    args: dict[str, Any] = key({}, "arguments of the network's function, such as classes")
    pretrained: str | None = key(
        None,
        "weights to start from: a file, torchvision:NAME, timm:NAME, an address (all brought here by `distdl fetch`), "
        "or a run of one's own as run:NAME[@STEP]",
    )
    partial: bool = key(False, "of `pretrained`, take the tensors that fit by name and shape, and leave the others")
    init_images: int | None = key(
        None, "a run's first images, from which a network starts whose start depends on data (airbench94_cifar)", ge=1
    )
    freeze: list[str] = key(
        [], "parameters that stay as they are, by pattern; '!pattern' keeps some of them in training"
    )

    @field_validator("pretrained")
    @classmethod
    def _no_secrets(cls, pretrained: str | None) -> str | None:
        return pretrained and addresses.check(pretrained)

    @model_validator(mode="after")
    def _starts_in_one_way(self) -> "ModelConfig":
        if self.partial and self.pretrained is None:
            raise ValueError("partial is said of pretrained, which is not set")
        if self.init_images and self.pretrained is not None:
            raise ValueError("pretrained weights and init_images are two ways to start")
        return self


class TaskConfig(Section):
    name: Annotated[str, name_in(registry.TASKS, "task")] = key("classify", "what a batch, a loss and a metric are")
    label_smoothing: float = key(0.0, "share of each target spread over all classes", ge=0, lt=1)
    args: dict[str, Any] = key({}, "further arguments of the task")


def _split_or_several(value: Any) -> str:
    """One split is written directly, several as a mapping name -> split."""
    if isinstance(value, SplitConfig):
        return "<one>"
    if isinstance(value, dict) and value and all(isinstance(v, dict | SplitConfig) for v in value.values()):
        return "<several>"
    return "<one>"


def _is_mixed(split: Any) -> bool:
    mixture = split.get("mixture") if isinstance(split, dict) else None
    return isinstance(mixture, dict) and all(isinstance(source, dict) for source in mixture.values())


class RemoteConfig(Section):
    cache: str | None = key(
        None,
        "folder for shards that were fetched, of all workers of a node (default: in paths.cache)",
        free=True,
    )
    cache_gb: float | None = key(
        None, "most GB of shards in it; 0 keeps none (default: half of what is free there)", ge=0, free=True
    )
    endpoint: str | None = key(None, "of s3://, where it isn't AWS and AWS_ENDPOINT_URL does not name it", free=True)
    region: str | None = key(None, "of s3:// (default: as the AWS settings say)", free=True)
    deadline: Duration = key("5 min", "how long a read is tried again before the run ends with an error", free=True)
    connections: int = key(16, "requests of a worker to a host at a time", ge=2, le=256, free=True)

    @field_validator("endpoint")
    @classmethod
    def _no_secrets(cls, endpoint: str | None) -> str | None:
        return endpoint and addresses.check(endpoint)


class DataConfig(Section):
    train: TrainSplitConfig = key(REQUIRED, "what is trained on")
    eval: (
        Annotated[
            Annotated[SplitConfig, Tag("<one>")] | Annotated[dict[str, SplitConfig], Tag("<several>")],
            Discriminator(_split_or_several),
        ]
        | None
    ) = key(None, "what is evaluated on: one split, or several by name; none switches evaluation off")
    sound: SoundConfig | None = key(None, "the samples are sounds, brought to one rate: {rate_hz: 16000}")
    sampling: str = key(
        "natural",
        "what an epoch holds: natural (each sample once), balanced (keyed draws, classes alike), or FILE (of weights)",
    )
    draws: int | None = key(
        None,
        "length of an epoch in samples: of draws, a mixture (default: as many as all sources hold) or an iterable",
        ge=1,
    )
    tail: Literal["carry", "drop"] = key(
        "carry", "what follows an epoch's last full batch: carry runs on into the next epoch, drop leaves it out"
    )
    lanes: int | None = key(
        None, "places of the corpus read side by side; shapes the shuffle (default min(128, N))", ge=1, le=2**20
    )
    window: int = key(1000, "samples shuffled together within a lane", ge=1, le=2**24)
    workers: int | None = key(
        None,
        "that read and decode, of each process (default: its share of the cores); 0: in its own thread, to debug",
        ge=0,
        free=True,
    )
    worker_type: Literal["thread", "process"] = key(
        "thread", "process pays where much of the time goes into Python of one's own", free=True
    )
    prefetch: int = key(4, "batches made ahead of the step", ge=1, free=True)
    bad_sample: Literal["raise", "mask", "substitute"] = key(
        "mask", "a sample that can't be decoded: stop; count it with weight 0; or take the lane's next one"
    )
    stage: str | None = key(
        None, "folder on a node's own disk to which its shards are copied before training", free=True
    )
    remote: RemoteConfig = key(RemoteConfig(), "how shards at an address are read")
    bad_sample_limit: int | None = key(
        None, "stop once more different samples than this were bad, over all workers", ge=0, free=True
    )
    bad_sample_rate: float = key(
        0.001, "stop once over 100 different samples were bad, and over this share of those read", ge=0, le=1, free=True
    )

    @property
    def is_remote(self) -> bool:
        """Whether training reads from addresses, for which `remote.deadline` says how long to wait."""
        return addresses.is_address(self.train.model_dump_json())

    @field_validator("eval", mode="before")
    @classmethod
    def _not_mixed(cls, value: Any) -> Any:
        if _is_mixed(value) or (isinstance(value, dict) and any(map(_is_mixed, value.values()))):
            raise ValueError("a mixture is only trained on; here its sources are sets by name: {web: {...}, ...}")
        return value

    @field_validator("sampling")
    @classmethod
    def _of_one_source(cls, sampling: str, info: ValidationInfo) -> str:
        train = info.data.get("train")
        if sampling != "natural" and train and train.mixture:
            raise ValueError(f"a mixture is drawn by the weights of its sources, so '{sampling}' has to be natural")
        return sampling

    @property
    def eval_sets(self) -> dict[str, SplitConfig]:
        """The evaluation splits by name; a single one is called "eval"."""
        if self.eval is None:
            return {}
        return {"eval": self.eval} if isinstance(self.eval, SplitConfig) else dict(self.eval)


class GrowthConfig(Section):
    epochs: list[float] = key(REQUIRED, "when the global batch grows", min_length=1)
    factor: int = key(2, "what it is multiplied by each time", ge=2, le=64)

    @model_validator(mode="after")
    def _in_order(self) -> "GrowthConfig":
        if self.epochs != sorted(set(self.epochs)) or self.epochs[0] <= 0:
            raise ValueError("epochs rise, from above 0")
        return self


class NoiseConfig(Section):
    input: float = key(0.0, "deviation of noise on the normalised input", ge=0)
    weight: float = key(0.0, "deviation of noise on the weights during forward and backward", ge=0)
    gradient: float = key(0.0, "eta of gradient noise of variance eta / (1 + step) ** 0.55", ge=0)


class DistillConfig(Section):
    teacher: str = key(REQUIRED, "run whose network is learned from: RUN or RUN@step")
    temperature: float = key(4.0, "softens both distributions", gt=0)
    weight: float = key(0.9, "share of the teacher in the loss", gt=0, le=1)


class AdversarialConfig(Section):
    epsilon: float = key(REQUIRED, "largest change of a pixel, in units where white is 1", gt=0, le=1)
    weight: float = key(0.5, "share of the adversarial examples in the loss", gt=0, le=1)


class ResolutionConfig(Section):
    start: int = key(REQUIRED, "short side of training images at first, in pixels", ge=1)
    end: int = key(REQUIRED, "short side of training images at last, in pixels", ge=1)
    epochs: tuple[Epoch, Epoch] = key(REQUIRED, "[first, last] epoch of the growth, which is linear in between")
    multiple: int = key(32, "sizes between start and end are multiples of it", ge=1)

    @model_validator(mode="after")
    def _grows(self) -> "ResolutionConfig":
        if self.start > self.end:
            raise ValueError("start is at most end")
        if self.epochs[0] > self.epochs[1]:
            raise ValueError("epochs is [first, last], in this order")
        return self


class EarlyStopConfig(Section):
    metric: str = key(REQUIRED, "metric of the first evaluation set that has to improve, such as top1 or loss")
    patience: int = key(5, "evaluations without improvement after which the run ends", ge=1)
    min_delta: float = key(0.0, "smallest change that counts as improvement", ge=0)


class TrainConfig(Section):
    global_batch: int = key(REQUIRED, "samples per optimiser step, over all workers", ge=1)
    batch_growth: GrowthConfig | None = key(None, "larger global batches later on: {epochs: [30, 60], factor: 2}")
    epochs: float | None = key(
        None, "length of the run in passes over the data (or give steps)", gt=0, le=1e6, free=True
    )
    steps: int | None = key(None, "length of the run in optimiser steps (or give epochs)", ge=1, le=10**12, free=True)
    micro_batch: int | Literal["auto"] | None = key(
        None, "rows per forward on each worker: bounds memory; auto finds the largest that fits (default: all its rows)"
    )
    precision: Literal["fp32", "bf16", "fp16"] = key("fp32", "arithmetic of forward and backward; weights stay fp32")
    seed: int = key(0, "of the weights, the sample order and the augmentation", ge=0, lt=2**63)
    log_every: Period = key(20, "how often a line of metrics is written", free=True)
    eval_every: Period | None = key("1 epoch", "how often the model is evaluated (it is at the end as well)", free=True)
    eval_batch: int = key(
        250, "rows per forward in evaluation; part of the result's bits, so not tied to the workers", ge=1
    )
    clip_norm: float | None = key(None, "largest norm of the whole gradient", gt=0)
    clip_layer: float | None = key(None, "largest norm of each weight's and each bias's gradient by itself", gt=0)
    clip_value: float | None = key(None, "largest absolute value of a gradient's element", gt=0)
    ema: float | None = key(
        None, "decay of the averaged weights that are evaluated instead of the trained ones", gt=0, lt=1
    )
    average_from: Period | None = key(
        None, "from here on the equal average of the weights is kept and evaluated: steps or epochs (not with ema)"
    )
    batch_norm: Literal["local", "sync", "ghost"] = key(
        "local",
        "rows that batch norm sees in training: those of a forward, of all workers' forwards, or groups of ghost_rows",
    )
    ghost_rows: int = key(32, "rows per group of ghost batch norm", ge=2)
    noise: NoiseConfig = key(NoiseConfig(), "keyed Gaussian noise, the same after a restart")
    distill: DistillConfig | None = key(None, "learn from a trained network as well: {teacher: RUN}")
    adversarial: AdversarialConfig | None = key(None, "train on FGSM examples as well: {epsilon: 0.03}")
    mixup: float | None = key(
        None, "learn from mixtures of two images: the share is drawn from Beta(mixup, mixup)", gt=0
    )
    cutmix: float | None = key(
        None, "learn from images with a part of another one: its share is drawn from Beta(cutmix, cutmix)", gt=0
    )
    mix_switch: float = key(0.5, "chance that a forward has cutmix, where there are both mixup and cutmix", ge=0, le=1)
    resolution: ResolutionConfig | None = key(
        None, "training images that grow: {start: 128, end: 224, epochs: [0, 60]}"
    )
    early_stop: EarlyStopConfig | None = key(None, "end when a metric stops improving: {metric: top1}", free=True)
    nonfinite: Literal["skip", "stop"] = key(
        "skip",
        "a gradient with NaN or Inf: leave the step out on all workers, or stop (on GPUs at the next log line)",
        free=True,
    )
    nonfinite_limit: int = key(20, "steps left out in a row after which the run stops", ge=1, free=True)
    stop_after: Literal["auto"] | Duration | None = key(
        None,
        "save and exit with 75 after this time in one launch, such as '23 h' (auto: in time before the end of the job "
        "of Slurm's that it belongs to)",
        free=True,
    )
    channels_last: bool = key(False, "keep images and convolution weights in NHWC memory order")
    compile: bool = key(False, "compile the network, block by block")
    deterministic: bool = key(True, "deterministic kernels: a resumed run ends with the same bits")
    device: Literal["auto", "cpu", "cuda"] = key("auto", "where to compute (auto: the accelerator if there is one)")
    threads: int | None = key(
        None,
        "CPU threads per worker in operators (default: OMP_NUM_THREADS, or its share of the cores; 1 with a tree)",
        ge=1,
        free=True,
    )
    stop_signals: list[SignalName] = key(
        ["SIGTERM", "SIGUSR1"], "signals that mean: save, stop, exit with 75", free=True
    )

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give the length of the run either in epochs or in steps (and the other as null)")
        if isinstance(self.micro_batch, int) and self.micro_batch < 1:
            raise ValueError("micro_batch is at least 1")
        if self.ema is not None and self.average_from is not None:
            raise ValueError("one kind of averaging at a time: ema or average_from")
        if self.average_from is not None and parse_period(self.average_from)[1] == "seconds":
            raise ValueError("average_from is given in steps or epochs")
        return self


class GroupConfig(Section):
    lr_scale: float = key(1.0, "factor of the learning rate; 0 freezes", ge=0)
    weight_decay: float | None = key(None, "instead of optim.weight_decay", ge=0)


class OptimConfig(Section):
    name: Annotated[str, name_in(registry.OPTIMISERS, "optimiser")] = key(
        "sgd", "optimiser, or package.module:attribute"
    )
    lr: float = key(REQUIRED, "learning rate at the schedule's peak", gt=0)
    lr_scaling: Literal["none", "linear", "sqrt"] = key(
        "none", "scale lr with train.global_batch / lr_base_batch: not, linearly, or by the square root"
    )
    lr_base_batch: int = key(256, "global batch that lr is meant for, where lr_scaling is on", ge=1)
    momentum: float = key(0.9, "of sgd, lars, muon and rmsprop", ge=0, lt=1)
    nesterov: bool = key(False, "look-ahead form of sgd's momentum")
    betas: tuple[Decay, Decay] = key((0.9, 0.999), "decay of the first and second moment of adam, adamw and lamb")
    eps: float = key(1e-8, "added to the denominator of the adaptive optimisers", gt=0)
    weight_decay: float = key(0.0, "decoupled for adamw and muon, L2 for the others", ge=0)
    decay_norm_and_bias: bool = key(False, "apply weight decay to normalisation weights and biases as well")
    l1: float = key(0.0, "weight of the sum of absolute weights in the loss, on what weight decay acts on", ge=0)
    groups: dict[str, GroupConfig] = key(
        {}, "settings by parameter name, the first pattern that fits: {'fc.*': {lr_scale: 10}}"
    )
    args: dict[str, Any] = key({}, "further arguments of the optimiser")


class ScheduleConfig(Section):
    name: Annotated[str, name_in(registry.SCHEDULES, "schedule")] = key("constant", "learning rate over the run")
    warmup_steps: int = key(0, "steps over which the rate rises linearly from 0", ge=0)
    args: dict[str, Any] = key({}, "of the schedule, such as final of cosine, epochs and gamma of multistep")


DEFAULT_BUCKET_MIB = 25.0  # DistributedDataParallel's
DEFAULT_STALL_S = 30.0


class DistConfig(Section):
    backend: Literal["auto", "nccl", "gloo", "mpi"] = key(
        "auto", "communication library (auto: nccl on GPUs, else gloo, or mpi under mpirun)", free=True
    )
    engine: Annotated[str, name_in(registry.ENGINES, "engine")] = key(
        "exchange", "who sums the gradients: exchange (own buckets) or ddp (torch's)"
    )
    reduction: Literal["fast", "tree"] = key(
        "fast", "order of the sums: the library's own (fast), or the same bits for any number of workers (tree)"
    )
    leaves: int | None = key(
        None,
        "parts of a batch that tree computes one by one, a power of two and at least the most workers "
        "(default: the largest up to 8 that divides the global batch)",
        ge=1,
    )
    hierarchical: Literal["auto"] | bool = key(
        "auto", "sum inside a node first, then between nodes (auto: with gloo, or tree, on several nodes)", free=True
    )
    bucket_mib: Annotated[float, Field(gt=0)] | Literal["auto"] = key(
        "auto",
        "MiB of a gradient bucket (auto: what `distdl bench comm` found for as many workers here, else "
        "and for a tree 25; the run's config.yaml records it)",
    )

    stall_s: Annotated[float, Field(gt=0)] | None = key(
        DEFAULT_STALL_S,
        "seconds without progress in a step after which a run counts as hanging: it tells who is missing, why, and its "
        "workers are stopped (20 times as long in the start, a first step, an evaluation, a save; null: never)",
        free=True,
    )
    bind: Literal["auto", "none"] = key(
        "auto", "auto binds a worker to the cores on the memory node of its GPU, where the system tells it", free=True
    )

    @model_validator(mode="after")
    def _used(self) -> "DistConfig":
        if self.leaves is not None and self.reduction != "tree":
            raise ValueError("leaves belong to reduction: tree, which is not asked for")
        if self.hierarchical is True and self.engine == "ddp":
            raise ValueError("engine: ddp sums in the library's way: leave hierarchical out")
        return self

    @property
    def timeout(self) -> timedelta:
        """Of a collective: for what nobody watches."""
        return timedelta(seconds=60 * (self.stall_s or DEFAULT_STALL_S))

    @property
    def bucket_size_mib(self) -> float:
        return DEFAULT_BUCKET_MIB if self.bucket_mib == "auto" else self.bucket_mib

    @field_validator("leaves")
    @classmethod
    def _power_of_two(cls, leaves: int | None) -> int | None:
        if leaves is not None and leaves & (leaves - 1):
            raise ValueError(f"a power of two is needed, such as {1 << leaves.bit_length()}")
        return leaves


class KeepConfig(Section):
    last: int = key(3, "newest checkpoints", ge=1)
    every: Period | None = key(None, "besides, one of each period for good: steps or epochs")
    best: int = key(1, "besides, the best ones by checkpoint.best", ge=0)

    @model_validator(mode="after")
    def _counted(self) -> "KeepConfig":
        if self.every is not None and parse_period(self.every)[1] == "seconds":
            raise ValueError("every is given in steps or epochs")
        return self


def _keep_last(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return {"last": value}
    if not isinstance(value, dict | KeepConfig):
        raise ValueError("should be a whole number or a mapping of keys")
    return value


class CheckpointConfig(Section):
    every: Period = key("1 epoch", "how often the whole state is saved (it is at the end as well)", free=True)
    keep: Annotated[KeepConfig, BeforeValidator(_keep_last)] = key(
        KeepConfig(), "what is kept: a number of newest ones, or {last: 3, every: 10 epochs, best: 1}", free=True
    )
    best: str | None = key(
        None, "metric of the evaluation whose best checkpoint is kept, such as top1 or loss", free=True
    )


class WandbConfig(Section):
    mode: Literal["disabled", "offline", "online"] = key("disabled", "whether and where to send metrics", free=True)
    project: str = key("distdl", "wandb project", free=True)
    entity: str | None = key(None, "wandb team or user", free=True)
    group: str | None = key(None, "wandb group, such as the name of a sweep", free=True)
    tags: list[str] = key([], "wandb tags", free=True)
    dir: str | None = key(None, "folder for wandb's files (default: the run folder)", free=True)


class TrackConfig(Section):
    tensorboard: bool = key(False, "write TensorBoard files into the run folder as well", free=True)
    wandb: WandbConfig = key(WandbConfig(), "Weights & Biases", free=True)
    system_every: Duration | None = key(
        "30 s", "how often CPU, memory and GPU use are noted (none switches it off)", free=True
    )


class Config(Section):
    model: ModelConfig = key(REQUIRED, "the network")
    task: TaskConfig = key(TaskConfig(), "what is learned")
    data: DataConfig = key(REQUIRED, "what it is learned from")
    train: TrainConfig = key(REQUIRED, "how long, in what portions, at what precision")
    optim: OptimConfig = key(REQUIRED, "how the weights are updated")
    schedule: ScheduleConfig = key(ScheduleConfig(), "how the learning rate moves")
    dist: DistConfig = key(DistConfig(), "how workers exchange gradients")
    checkpoint: CheckpointConfig = key(CheckpointConfig(), "what is kept")
    track: TrackConfig = key(TrackConfig(), "where metrics go besides metrics.jsonl")
    slurm: SlurmConfig = key(SlurmConfig(), "how `distdl submit` makes a job of it", free=True)
    paths: PathsConfig = key(PathsConfig(), "where things lie on the machines", free=True)
    plugins: list[str] = key(
        [], "Python files with networks, tasks, transforms, ... of one's own; relative to this file"
    )

    @property
    def n_leaves(self) -> int:
        """Of dist.reduction: tree."""
        return self.dist.leaves or math.gcd(self.train.global_batch, 8)
