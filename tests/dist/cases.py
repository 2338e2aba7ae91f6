"""What the tests of this folder have every worker do. A case returns something that JSON can carry."""

import copy
import hashlib
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tiny
import torch
from torch import Tensor, nn

from distdl import models
from distdl.bench.loops import NoCheckpoints
from distdl.comm import collectives, messages, probe, reduction
from distdl.comm.exchange import Exchange
from distdl.comm.reduction import Reduction
from distdl.comm.status import Status
from distdl.comm.vote import Vote
from distdl.comm.world import WorldInfo
from distdl.errors import PeerLost, UserError
from distdl.models import zoo
from distdl.track import NullTracker
from distdl.trainer import batch_norm, loop, micro_batch, step
from distdl.trainer.distill import Teacher
from distdl.trainer.evaluate import Interrupted, evaluate
from distdl.trainer.quarantine import Quarantine
from distdl.trainer.signals import StopRequests

# --- the harness ---


def own_state() -> Any:
    """What a process of its own has of its own, though a fork would hand it on."""
    return {
        "rank": os.environ["RANK"],
        "draws": [random.random(), np.random.rand(), torch.rand((), dtype=torch.float64).item()],
        "ends at ctrl-c": signal.getsignal(signal.SIGINT) == signal.SIG_DFL,
    }


# --- collectives ---


def sum_of_ranks() -> Any:
    total = collectives.sum_(torch.full((3,), float(collectives.rank() + 1)))
    halves = collectives.sum_(torch.full((2,), 0.5, dtype=torch.float64))
    return [total.tolist(), halves.tolist()]


def sums_in_flight() -> Any:
    """Several sums begun before the first is waited for."""
    tensors = [torch.full((1000,), float(collectives.rank() + i)) for i in range(5)]
    pending = [collectives.start_sum(tensor) for tensor in tensors]
    for each in pending:
        each.wait()
    return [[tensor[0].item(), pending[i].test()] for i, tensor in enumerate(tensors)]


def broadcast_of_any_strides() -> Any:
    """Each worker has other values and rank 0's arrive, in tensors that are not contiguous."""
    mine = torch.arange(12.0).reshape(3, 4) + 100 * collectives.rank()
    image = mine.reshape(1, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    column, transposed = mine[:, 1], mine.t()
    collectives.broadcast_(column)
    collectives.broadcast_(image)
    collectives.broadcast_(transposed[2:])
    return {"matrix": mine.tolist(), "image": image.flatten().tolist(), "strides": image.stride()}


def json_from_rank_0(value: Any) -> Any:
    return messages.broadcast_json(value if collectives.rank() == 0 else "another")


def json_of_every_rank() -> Any:
    mine = ["", "äöü", list(range(1000)), {"a": None}][collectives.rank()]
    return messages.gather_json(mine)


def rank_0_alone(fails: bool) -> Any:
    calls = []

    def action() -> Any:
        calls.append(collectives.rank())
        if fails:
            raise UserError("no such folder", where="a.yaml:3", fix="Make it.")
        return {"made": True}

    try:
        return {"value": messages.on_rank0(action), "calls": calls}
    except UserError as error:
        return {"error": [error.what, error.where, error.fix], "calls": calls}


def rank_0_before_the_others(path: str) -> Any:
    """Rank 0 takes its time to write a file that the others find."""

    def action() -> bool:
        found = Path(path).exists()
        if collectives.rank() == 0:
            time.sleep(0.2)
            Path(path).touch()
        return found

    return messages.rank0_first(action)


def rank_0_fails_before_the_others() -> Any:
    calls = []

    def action() -> None:
        calls.append(collectives.rank())
        raise UserError("no such folder")

    try:
        messages.rank0_first(action)
    except UserError as error:
        return {"error": error.what, "calls": calls}
    return None


def lose_a_peer() -> Any:
    """Rank 1 ends without a word while the others wait for it."""
    if collectives.rank() == 1:
        os._exit(1)
    try:
        collectives.sum_(torch.ones(1))
    except PeerLost as error:
        return str(error)
    return None


def print_and_die() -> None:
    if collectives.rank() == 1:
        print("last words")
        os.kill(os.getpid(), signal.SIGKILL)


def sleep() -> None:
    time.sleep(1000)


def measured_operations(per_node: int, dtype: str) -> Any:
    """Each operation of `distdl bench comm`: whether its result is right before it was called, and after that."""
    rank, size = collectives.rank(), collectives.world_size()
    names = [name for name in probe.OPERATIONS if name != "hierarchical" or per_node < size]
    world = WorldInfo(rank=rank, world_size=size)
    workers = probe.find_workers(world, torch.empty(0, dtype=getattr(torch, dtype)), names, per_node)
    found = {}
    for name in names:
        call = probe.OPERATIONS[name](workers, 50 * size)
        before = call.is_right()
        call()
        found[name] = [before, call.is_right()]
    return found


def hang() -> None:
    if collectives.rank() == 1:
        time.sleep(1000)
    collectives.barrier()


def fail_on_rank(rank: int) -> None:
    if collectives.rank() == rank:
        raise ValueError("a bug on one worker")


# --- votes ---


def votes(n_steps: int, asks: dict[str, int]) -> Any:
    """`asks`: rank -> the step in which it votes for a stop. What each step reads, and the rest at the end."""
    vote = Vote("stop", "bad")
    mine = asks.get(str(collectives.rank()))
    read = [vote.cast(stop=int(number == mine), bad=1) for number in range(n_steps)]
    return {"read": read, "rest": vote.drain(), "after": vote.drain()}


# --- training ---


def train(corpus: str, overrides: dict[str, Any], per_node: int | None = None) -> Any:
    """Trains to the end of the run; weights, buffers, the losses of this worker, and how many of its rows counted."""
    run = tiny.build(tiny.config(Path(corpus), overrides), per_node=per_node)
    micro_batch.settle(run)
    sums = []
    try:
        for batch in run.host_batches():
            n_samples = min(run.config.train.global_batch, run.end - run.state.position)
            sums.append([sum(map(float, column)) for column in zip(*step.train_step(run, batch, run.lr_now()))])
            run.state.advance(n_samples)
    finally:
        run.close()
    network = run.engine.model
    return {
        "weights": {name: value.detach().flatten().tolist() for name, value in network.named_parameters()},
        "buffers": {name: value.flatten().tolist() for name, value in network.named_buffers()},
        "sums": sums,
        "micro_batch": run.state.micro_batch,
    }


def fitted(corpus: str, overrides: dict[str, Any], quarantine: str) -> Any:
    """The whole loop: where it ended, what the user is told, and at how many bad samples."""
    run = tiny.build(tiny.config(Path(corpus), overrides))
    found = Quarantine.open(Path(quarantine), "runs/x", step=0)
    error = None
    try:
        loop.fit(run, NullTracker(), NoCheckpoints(), StopRequests(), found)
    except UserError as mistake:
        error = list(mistake.args)
    finally:
        run.close()
    return {"step": run.state.step, "error": error, "n_bad": run.state.n_bad, "n_different": found.n_bad}


def sample_ids(corpus: str, overrides: dict[str, Any]) -> Any:
    """[[id, valid, label and pixels as a hash], ...] of this worker's rows, for each step."""
    run = tiny.build(tiny.config(Path(corpus), overrides))
    try:
        return [_rows(batch.tensors) for batch in run.host_batches()]
    finally:
        run.close()


def augmented_pixels(corpus: str, overrides: dict[str, Any]) -> Any:
    """What the network gets of this worker's rows, before they are mixed: a hash of each, for each step."""
    run = tiny.build(tiny.config(Path(corpus), overrides))
    config = run.config.train
    try:
        batches = [
            step.to_device(batch.tensors, run.train_loader, run.device, config)["image"] for batch in run.host_batches()
        ]
    finally:
        run.close()
    return [[hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] for image in batch] for batch in batches]


def _rows(batch: dict[str, Tensor]) -> list[list[Any]]:
    contents = [
        hashlib.sha256(image.numpy().tobytes() + str(label).encode()).hexdigest()[:16]
        for image, label in zip(batch["image"], batch["label"].tolist())
    ]
    return [list(row) for row in zip(batch["sample_id"].tolist(), batch["valid"].tolist(), contents)]


# --- evaluation ---


def evaluation(corpus: str, overrides: dict[str, Any], stopped_rank: int | None = None) -> Any:
    """The result, its floats in hex: every bit counts. Or what stopped it, after a signal to one worker."""
    run = tiny.build(tiny.config(Path(corpus), overrides))
    stops = StopRequests()
    if collectives.rank() == stopped_rank:
        stops._on_preempt(0, None)
    try:
        loader = run.eval_loaders["eval"]
        result = evaluate(run.engine.model, run.task, loader, run.device, run.config.train, stops)
    except Interrupted as interrupted:
        return {"stopped": interrupted.stop}
    finally:
        run.close()
    return {name: float(value).hex() for name, value in result.items()}


# --- batch norm ---


def sync_batch_norm(rows: list[int], **form: Any) -> Any:
    """The steps of a layer that was converted to sync, where worker r has rows[r] rows of the batch."""
    begin = sum(rows[: collectives.rank()])
    mine = slice(begin, begin + rows[collectives.rank()])
    return batch_norm_steps(sum(rows), mine, kind="sync", **form)


def batch_norm_steps(
    n_rows: int,
    mine: slice,
    *,
    kind: Literal["local", "sync"] = "local",
    dtype: str = "float32",
    channels_last: bool = False,
    mean: float = 3.0,
    options: dict[str, Any] = {},  # noqa: B006  # only read
) -> Any:
    """Two forwards and backwards of nn.BatchNorm2d(3, **options) on rows of a batch, then one in evaluation."""
    draws = torch.Generator().manual_seed(0)
    layer = nn.BatchNorm2d(3, **options, dtype=torch.float64 if dtype == "float64" else torch.float32)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 1.0, 0.5, generator=draws)
    batch_norm.convert(layer, kind, ghost_rows=2)
    found: dict[str, Any] = {"outputs": [], "gradients": []}
    for _ in range(2):
        values, wanted = torch.randn(2, n_rows, 3, 4, 5, generator=draws, dtype=torch.float64).to(getattr(torch, dtype))
        values = (values * 2 + mean)[mine].contiguous(
            memory_format=torch.channels_last if channels_last else torch.contiguous_format
        )
        outputs = layer(values.requires_grad_())
        (outputs * wanted[mine]).sum().backward()
        found["outputs"].append(outputs.flatten(1).tolist())
        found["gradients"].append(values.grad.flatten(1).tolist())
    found["weights"] = [parameter.grad.tolist() for parameter in layer.parameters()]
    found["buffers"] = {name: buffer.tolist() for name, buffer in layer.named_buffers()}
    found["kept"] = [str(outputs.dtype), outputs.is_contiguous(memory_format=torch.channels_last) == channels_last]
    found["evaluated"] = layer.eval()(values).flatten(1).tolist()
    return found


# --- distillation ---


def teacher(corpus: str, run: str) -> Any:
    """The teacher's outputs for an image, and its step; ranks other than 0 look for it in vain, if they look."""
    wanted = run if collectives.rank() == 0 else "only-rank-0-sees-it"
    try:
        loaded = Teacher.load(tiny.config(Path(corpus), {"train.distill": {"teacher": wanted}}), torch.device("cpu"))
    except UserError as error:
        return {"error": error.what}
    image = torch.arange(16.0).view(1, 1, 4, 4)
    return {"outputs": loaded.model(image).tolist(), "step": loaded.identity["step"]}


def refusal(corpus: str, overrides: dict[str, Any]) -> Any:
    """What the user is told when the run is built."""
    try:
        tiny.build(tiny.config(Path(corpus), overrides)).close()
    except UserError as error:
        return str(error)
    return None
