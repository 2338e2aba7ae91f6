"""One worker's life: join the others, build, restore, train, and leave with the right exit code."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from distdl import plugins, registry
from distdl.checkpoint import load as checkpoint_load
from distdl.checkpoint import save as checkpoint_save
from distdl.checkpoint.load import Checkpoint
from distdl.checkpoint.save import Checkpoints
from distdl.comm import collectives, ending, messages
from distdl.comm.world import WorldInfo
from distdl.config import load
from distdl.config.schema import Config, DistConfig
from distdl.config.values import parse_period
from distdl.data import native
from distdl.data.order import Plan
from distdl.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_PREEMPTED, UserError
from distdl.launch import binding
from distdl.launch import worker as launched
from distdl.launch.binding import Binding
from distdl.launch.slurm.limit import job_ends_in_s
from distdl.run import failures, lease, versions
from distdl.run.environment import write_environment
from distdl.run.folder import RunFolder, find, split_step, write_json
from distdl.run.open import OpenRun, open_run
from distdl.track import NullTracker, Tracker, jsonl
from distdl.track.console import closing_summary
from distdl.trainer import first_images, loaders, loop, micro_batch, pretrained, setup, watched
from distdl.trainer.profile import Profile, traced
from distdl.trainer.quarantine import Quarantine
from distdl.trainer.setup import Run
from distdl.trainer.signals import StopRequests
from distdl.trainer.stage import fetch_ahead, stage
from distdl.trainer.state import TrainState, restore
from distdl.watch import pulse

_EXIT_CODES = {"done": EXIT_DONE, "preempted": EXIT_PREEMPTED, "interrupted": EXIT_INTERRUPTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What the command line says about this start, as against the run."""

    path: Path  # of the run folder
    resume: bool
    opened: RunFolder | None  # by the supervisor or by this process; None: rank 0 opens it (torchrun)
    fence: int | None
    verbosity: int = 0
    screen: Literal["tty", "plain"] = "plain"
    start_from: str | None = None  # RUN or RUN@step
    weights_only: bool = False
    check: bool = False
    profile: Profile | None = None


def run_worker(config: Config, launch: Launch, world: WorldInfo) -> int:
    """Trains as one of the workers; returns the exit code. A failure is recorded in the run folder."""
    state = TrainState()
    folder = launch.opened
    held: OpenRun | None = None  # keeps the lease until this function ends
    fence = launch.fence
    try:
        stops = StopRequests(
            config.train.stop_signals, announce=not launched.is_supervised(), **_ends(config.train.stop_after, world)
        )
        device = setup.pick_device(config.train.device, world)
        bound = setup.bind(config, world, device)
        setup.set_threads_and_kernels(config.train, world, is_tree=config.dist.reduction == "tree")
        if device.type == "cpu":
            setup.keep_freed_memory()
        collectives.join(world, config.dist.backend, device, config.dist.timeout)
        if world.world_size > world.local_world_size:
            versions.check(messages.gather_json((world.host, versions.here())))
        if folder is None:
            held, fence, folder = _open_on_rank0(config, launch, world)
        agent = watched.start(world, config.dist.stall_s, str(folder.path))
        if config.dist.bucket_mib == "auto":
            config = _as_recorded(config, folder)
        with registry.using(_own_code(config, folder)):
            outcome = _train(config, folder, launch, fence, world, device, bound, stops, state)
        pulse.mine.enter("end")  # whose end in the middle of something else would be taken for a failure
        collectives.barrier()  # nobody leaves while rank 0 still writes
        collectives.leave()
        watched.stop(agent)
        return _EXIT_CODES[outcome]
    except BaseException as error:
        code = launched.report(error, folder, world.rank, state.step)
        if world.world_size > 1:
            ending.without_the_others(code)  # who may be stuck in a collective with us
        return code
    finally:
        if held:
            held.lease.close()
            if launch.check:
                shutil.rmtree(held.folder.path.parent, ignore_errors=True)


def _ends(stop_after: str | None, world: WorldInfo) -> dict[str, float]:
    """When the run stops by itself. Rank 0 alone knows of the end of a job: one worker's vote is enough."""
    if stop_after == "auto":
        left_s = job_ends_in_s() if world.rank == 0 else None
        return {} if left_s is None else {"end_s": left_s}
    return {"after_s": parse_period(stop_after)[0]} if stop_after else {}


def _open_on_rank0(config: Config, launch: Launch, world: WorldInfo) -> tuple[OpenRun | None, int, RunFolder]:
    """Rank 0 holds what it has opened; all get the fence and the folder, for a check one that is deleted afterwards."""
    held: OpenRun | None = None

    def open_and_hold() -> tuple[int, str]:
        nonlocal held
        path = Path(tempfile.mkdtemp(prefix="distdl-check-")) / launch.path.name if launch.check else launch.path
        n_nodes = world.world_size // world.local_world_size
        held = open_run(path, config, resume=launch.resume, n_nodes=n_nodes, per_node=world.local_world_size)
        return held.lease.fence, str(path)

    fence, path = messages.on_rank0(open_and_hold)
    return held, fence, RunFolder(Path(path))


def _as_recorded(config: Config, folder: RunFolder) -> Config:
    """With the settings that were left open as the run folder has them, which rank 0 alone needs to see."""
    dist = messages.on_rank0(lambda: load(folder.config).config.dist.model_dump(mode="json"))
    return config.model_copy(update={"dist": DistConfig.model_validate(dist)})


def _own_code(config: Config, folder: RunFolder) -> registry.Registered:
    """Executes the run's copies of its plugins, which rank 0 alone needs to see: it sends their text to all."""
    if not config.plugins:
        return {}
    return plugins.load(messages.on_rank0(lambda: plugins.read(load(folder.config).config.plugins)))


def _train(
    config: Config,
    folder: RunFolder,
    launch: Launch,
    fence: int | None,
    world: WorldInfo,
    device: torch.device,
    bound: Binding,
    stops: StopRequests,
    state: TrainState,
) -> loop.Outcome:
    began = time.monotonic()
    run = setup.build(config, world, device, state)
    say = _printer(world.rank == 0 and launch.verbosity >= 0)
    resumed = _restore(run, folder, launch, say)
    if run.is_over and resumed and not state.eval_pending:
        how = "raise train.early_stop.patience" if run.stops_early else "raise its length"
        _printer(world.rank == 0)(f"this run is finished (step {state.step}, epoch {run.epoch:g}); {how} to go on")
        # It was killed after the last save, or was stopped and its length lowered since.
        if world.rank == 0 and not launch.check and _outcome(folder) != "done":
            _write_final(run, folder, "done", 0.0)
        return "done"
    stage(run, say)
    fetch_ahead(run)
    micro_batch.settle(run)
    micro_batch.try_longest(run)
    _describe(run, folder, bound, say, _printer(world.rank == 0 and launch.verbosity > 0))
    if (warmup := config.schedule.warmup_steps) >= run.total_steps > 0:
        say(f"warning: schedule.warmup_steps: {warmup}: the learning rate never gets to its peak in this run")
    checkpoints = Checkpoints(
        folder,
        keep=config.checkpoint.keep,
        epoch_length=run.plan.epoch_length,
        warn=lambda topic, message: track.warn_once(topic, message),
        still_ours=lambda: fence is None or lease.still_ours(folder, fence),
        took=stops.saved_in,
    )
    if launch.check:
        return loop.check(run, checkpoints, say)
    if resumed:
        checkpoints.prune(loop.best_steps(run))  # checkpoint.keep may have been lowered because the disk is full
    if world.rank == 0:  # rank 0 only
        folder.final.unlink(missing_ok=True)
        if not launched.is_supervised():
            failures.clear(folder)  # of an earlier launch
    track = _open_tracker(run, folder, launch, resume_step=state.step if resumed else None)
    if resumed:
        event = {"event": "resumed", "message": f"on {world.world_size} workers"}
        track.log({"kind": "event", **loop.place(run, loop.Clock(state.time_s)), **event})
    quarantine = Quarantine.open(folder.quarantine, folder.shown, state.step)
    outcome = "failed"
    try:
        outcome = loop.fit(run, track, checkpoints, stops, quarantine, **_trace(run, folder, launch, say))
        if world.rank == 0:  # rank 0 only
            _write_final(run, folder, outcome, time.monotonic() - began)
        return outcome
    finally:
        pulse.mine.enter("end")  # which may take long, also after an error
        checkpoints.close()
        track.close(outcome, _summary(run, folder, outcome) if outcome != "failed" else ())
        run.close()


def _trace(run: Run, folder: RunFolder, launch: Launch, say: Callable[[str], None]) -> dict[str, loop.Trace]:
    if launch.profile is None:
        return {}
    where = folder.path / "profile"
    return {"trace": lambda batches: traced(launch.profile, batches, run.phases, where, run.world.rank, say)}


def _restore(run: Run, folder: RunFolder, launch: Launch, say: Callable[[str], None]) -> bool:
    """Puts the newest whole checkpoint of this run in place, or else the one that --from names."""

    def has_own() -> bool:
        checkpoint_save.sweep(folder)
        return bool(checkpoint_load.committed(folder))

    own = messages.on_rank0(has_own)
    weights_only = launch.weights_only and not own
    if not own and run.config.model.pretrained:
        _start_from_pretrained(run, launch, say)
    elif not own and run.config.model.init_images and not launch.start_from:
        first_images.start_from_them(run)

    def find_checkpoint() -> Checkpoint | None:
        found = checkpoint_load.newest(folder, warn=lambda message: say(f"warning: {message}"))
        if found is not None:
            for name in checkpoint_save.set_aside(folder, found.step):
                say(f"warning: kept for inspection as {folder.checkpoints / name}")
        elif launch.start_from:
            name, step = split_step(launch.start_from)
            source = find(name)
            found = checkpoint_load.at_step(source, step)
            if not weights_only:
                _check_start(run, found)
            started_from = {"run": source.name, "run_id": source.run_id(), "step": found.step}
            folder.add_to_identity(started_from={**started_from, "weights_only": weights_only})
        return found

    context = restore(find_checkpoint, run.state, run.engine, run.ema, weights_only=weights_only)
    if context is None:
        return False
    if launch.start_from and not own:
        run.state.best, run.state.ranking, run.state.early_stop = None, [], None  # they name the other run's steps
        run.state.unlogged = (0.0, 0.0)
        say(f"started from {'the weights of ' * weights_only}{launch.start_from}; noted in {folder.identity.name}")
    if weights_only:
        return False
    _check_same_data(run, context)
    now, matters = run.description, ["threads", "torch", "jpeg_decoder"] + ["world_size"] * (not run.reduction.is_tree)
    changed = [
        f"{name} {context[name]} -> {now[name]}" for name in matters if context.get(name, now[name]) != now[name]
    ]
    say(f"resumed at step {run.state.step}, epoch {run.epoch:.2f}")
    if changed:
        say(f"the same samples as before, but other rounding: {', '.join(changed)}")
    return True


def _start_from_pretrained(run: Run, launch: Launch, say: Callable[[str], None]) -> None:
    """Into rank 0's network, whose weights all the others are going to be given."""
    if launch.start_from:
        raise UserError(
            "the weights to start from are named twice",
            where=f"model.pretrained: {run.config.model.pretrained}",
            fix="Leave out --from, or say model.pretrained=null.",
        )
    say(messages.on_rank0(lambda: pretrained.load_into(run.engine.model, run.config.model)))


def _check_start(run: Run, source: Checkpoint) -> None:
    """Whether this run can go on where another one was."""
    before, now = source.state["config"]["optim"]["name"], run.config.optim.name
    if before != now:
        raise UserError(
            f"the checkpoint holds the state of '{before}', which means nothing to '{now}'",
            where="optim.name",
            fix="Start from its weights alone: add --weights-only.",
        )
    position = source.state["train_state"]["position"]
    if position >= run.end:
        raise UserError(
            f"the checkpoint is at epoch {position / run.plan.epoch_length:g}, where this run would end",
            where="train.steps" if run.config.train.steps else "train.epochs",
            fix="Raise it: the epochs of the other run count. Or start from its weights alone: add --weights-only.",
        )


def _check_same_data(run: Run, context: dict[str, Any]) -> None:
    if context["data"] != run.description["data"]:
        raise UserError(
            "the training data is not what this run was started with (other shards, weights or order of samples)",
            where=f"data.train: {run.config.data.train.source}",
            fix="Put the shards back as they were, or start a new run from the weights: --from RUN --weights-only.",
        )
    if context.get("teacher") != run.description["teacher"]:
        raise UserError(
            f"the teacher is not the one that this run has learned from ({context.get('teacher')})",
            where="train.distill.teacher",
            fix="Name its step as well: RUN@step.",
        )


def _describe(
    run: Run, folder: RunFolder, bound: Binding, say: Callable[[str], None], say_more: Callable[[str], None]
) -> None:
    """One line for the reader, with -v another one, and environment.json."""
    config, world = run.config, run.world
    threads, threads_by = setup.n_threads(config.train, world, is_tree=run.reduction.is_tree)
    computing = threads if run.device.type == "cpu" else 1
    tight = binding.too_few(world.local_world_size, computing, loaders.n_loading(config, world))
    say_more(f"rank 0: {threads} thread{'s' * (threads > 1)} ({threads_by}), {bound}")
    mine = {
        "host": run.world.host,
        "device": torch.cuda.get_device_name() if run.device.type == "cuda" else run.device.type,
        "threads": torch.get_num_threads(),
        "threads_by": threads_by,
        "share_of_cores": binding.share(world.local_world_size),
        **bound.noted(),
        "jpeg_decoder": native.decoder,
    }
    told = messages.gather_json((mine, [setup.unused_gpus(config.train, run.device), tight]))
    workers = [worker for worker, _ in told]
    for warnings in {worker["host"]: warnings for worker, warnings in told if any(warnings)}.values():
        for warning in filter(None, warnings):
            say(warning)
    without = {worker["host"] for worker in workers if worker["jpeg_decoder"] != "native"}
    if 0 < len(without) < len({worker["host"] for worker in workers}):
        say(f"warning: only some hosts have the native JPEG decoder, and others round otherwise: {sorted(without)}")
    if run.world.rank == 0:  # rank 0 only
        first = next(iter(run.eval_loaders.values()), run.train_loader)
        noted: dict[str, Any] = {"image": list(first.image_shape)} if first.image_shape else {}
        if classes := run.train_loader.dataset.classes:
            noted["classes"] = list(classes)
        folder.add_to_identity(**noted)
        _warn_of_idle_outputs(run, say)
        remarks = loaders.remarks(run.train_loader.dataset)
        write_environment(
            folder,
            workers,
            backend=collectives.backend_name(),
            micro_batch=run.state.micro_batch,
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
            data=remarks,
        )
        for remark in remarks:
            say(remark)
    n_parameters = sum(p.numel() for p in run.engine.model.parameters())
    n_workers = run.world.world_size
    say(
        f"{run.config.model.name} ({n_parameters:,} parameters) on {n_workers} worker{'s' * (n_workers > 1)} "
        f"({workers[0]['device']}, {collectives.backend_name() or 'alone'}), {_samples(run.plan)}, "
        f"{run.total_steps:,} steps of {run.config.train.global_batch}; run folder {folder.shown}"
    )


def _warn_of_idle_outputs(run: Run, say: Callable[[str], None]) -> None:
    classes, n_outputs = run.train_loader.dataset.classes, loaders.count_classes(run.engine.model, run.config)
    if classes and n_outputs and n_outputs > len(classes) and run.config.task.name == "classify":
        say(f"warning: the network has {n_outputs} outputs for {len(classes)} classes (model.args.classes)")


def _samples(plan: Plan) -> str:
    shares = (f"{name} {100 * share:.4g} %" for name, share in plan.shares.items())
    return f"{plan.n_samples:,} samples" + f" ({', '.join(shares)})" * bool(plan.shares)


def _open_tracker(run: Run, folder: RunFolder, launch: Launch, resume_step: int | None) -> Tracker | NullTracker:
    if run.world.rank != 0:
        return NullTracker()
    return Tracker.open(
        folder,
        run.config.track,
        config=run.config.model_dump(mode="json"),
        resume_step=resume_step,
        total_steps=run.total_steps,
        samples_per_epoch=run.plan.epoch_length,
        verbosity=launch.verbosity,
        screen=launch.screen,
    )


def _outcome(folder: RunFolder) -> str | None:
    """Of the launch before this one; None if it wrote none."""
    try:
        return str(json.loads(folder.final.read_text())["outcome"])
    except (OSError, ValueError, KeyError):
        return None


def _write_final(run: Run, folder: RunFolder, outcome: str, wall_s: float) -> None:
    rows = jsonl.read(folder.metrics)
    last = {kind: next((row for row in reversed(rows) if row["kind"] == kind), None) for kind in ("train", "eval")}
    final = {
        "outcome": outcome,
        "steps": run.state.step,
        "samples": run.state.position,
        "epochs": run.epoch,
        "wall_s": run.state.time_s,
        "this_launch_s": wall_s,
        "bad_samples": run.state.n_bad,
        "skipped_steps": run.state.n_skipped,
        "stopped_early": run.stops_early,
        "best": run.state.best,
        "last": last,
    }
    write_json(folder.final, final)


def _summary(run: Run, folder: RunFolder, outcome: str) -> list[str]:
    """The last lines on the screen: what came of it, and what to try next."""
    if run.world.rank != 0:
        return []
    seconds, step, samples = 0.0, 0, 0
    for row in jsonl.read(folder.metrics):
        if row["kind"] == "train":
            seconds += (row["step"] - step) * row["step_s"]
            step, samples = row["step"], row["samples"]
    best = run.state.best
    next_lines = [f"next: `distdl eval {folder.name}` evaluates it again; `distdl runs` lists all runs"]
    if outcome != "done":
        next_lines = ["next: the same command with --resume goes on from here"]
    return closing_summary(
        outcome,
        step=run.state.step,
        total_steps=run.total_steps,
        wall_s=run.state.time_s,
        samples_per_s=samples / seconds if seconds else None,
        folder=Path(folder.shown),
        best=(best["metric"], best["value"], best["step"]) if best else None,
        next_lines=next_lines,
    )


def _printer(active: bool) -> Callable[[str], None]:
    return (lambda message: print(message, flush=True)) if active else (lambda message: None)
