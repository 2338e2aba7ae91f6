"""Cases about the gradient exchange, beside those of cases.py: its sums, and workers that do unlike things."""

import copy
import inspect
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tiny
import torch
from torch import Tensor, nn

from distdl import models, registry
from distdl.catalogue import ENTRIES
from distdl.comm import collectives, reduction
from distdl.comm.exchange import Exchange
from distdl.comm.reduction import Reduction
from distdl.comm.status import Status
from distdl.comm.world import WorldInfo
from distdl.trainer import batch_norm

# --- sums ---


def unequal_parts_of_a_network(uses: dict[str, list[int]], bucket_mib: float) -> Any:
    """`uses`: rank -> the weights that its backward comes to, in this order. The summed gradients, and the status."""
    rank = collectives.rank()
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(4)]
    exchange = Exchange(
        weights, bucket_mib=bucket_mib, n_status=2, reduction=fast_reduction(), others=torch.empty(0)
    )
    exchange.begin()
    exchange.status.copy_(torch.tensor([rank + 1.0, float(rank == 2)]))
    exchange.arm()
    for number in uses[str(rank)]:
        weights[number].sum().mul(10**rank).backward()
    exchange.finish()
    return {"sums": [weight.grad[0].item() for weight in weights], "status": exchange.status.tolist()}


def fast_reduction() -> Reduction:
    rank, size = collectives.rank(), collectives.world_size()
    steps = partial(reduction.by_library, collectives.everyone())
    return Reduction(parts=range(rank, rank + 1), n_parts=size, steps=steps)


def exchanged(
    form: str,
    per_node: int,
    leaves: int,
    network: list[tuple[list[int], str]],
    bucket_mib: float,
    n_others: int,
    uses: list[list[int]],
) -> Any:
    """Two steps in which part p of the batch uses the weights uses[p]. What is wrong after them, as text.

    The gradients are small whole numbers, whose sums all types hold exactly.
    """
    weights = [nn.Parameter(torch.zeros(shape, dtype=getattr(torch, dtype))) for shape, dtype in network]
    form_of = reduction_of(form, per_node, leaves)
    exchange = Exchange(
        weights, bucket_mib=bucket_mib, n_status=2, reduction=form_of, others=torch.empty(n_others, dtype=torch.float64)
    )
    wrong: list[str] = []
    for step_number in range(2):
        exchange.begin()
        exchange.status.copy_(torch.tensor([1.0, collectives.rank()]))
        for part in form_of.parts:
            exchange.others.copy_(torch.arange(n_others) + part)
            if part == form_of.parts[-1]:
                exchange.arm()
            for number in reversed(uses[part]):
                weights[number].backward(_gradient(weights[number], number, part + step_number))
            if part != form_of.parts[-1]:
                exchange.keep(part)
        exchange.finish()
        for number, weight in enumerate(weights):
            of_parts = [_gradient(weight, number, p + step_number) for p, used in enumerate(uses) if number in used]
            if not of_parts:
                wrong += [f"{number}: a gradient that nobody has"] * (weight.grad is not None)
            elif weight.grad is None or not torch.equal(weight.grad, sum(of_parts[1:], of_parts[0])):
                wrong.append(f"{number}: {weight.grad} and not {sum(of_parts)}")
        n = collectives.world_size()
        if exchange.status.tolist() != [n, n * (n - 1) / 2]:
            wrong.append(f"status: {exchange.status.tolist()}")
        if exchange.others.tolist() != [len(uses) * i + sum(range(len(uses))) for i in range(n_others)]:
            wrong.append(f"others: {exchange.others.tolist()}")
    return wrong


def _gradient(weight: Tensor, number: int, part: int) -> Tensor:
    return ((torch.arange(weight.numel()) + number + part) % 5 - 2).to(weight.dtype).view(weight.shape)


def reduction_of(form: str, per_node: int, leaves: int) -> Reduction:
    """As of a run with these workers, `per_node` of them on each node."""
    rank, size = collectives.rank(), collectives.world_size()
    world = WorldInfo(rank=rank, world_size=size, local_rank=rank % per_node, local_world_size=per_node)
    overrides = {"dist.reduction": form, "train.global_batch": leaves * size}
    if form == "tree":
        overrides["dist.leaves"] = leaves
    return reduction.build(tiny.config(Path(), overrides), world, torch.device("cpu"))


# --- workers that do unlike things ---


def error_of(action: Callable[[], Any]) -> str | None:
    try:
        action()
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"
    return None


def unlike_calls(how: str) -> Any:
    """Rank 0 sums and then broadcasts four numbers; rank 1 does it a little otherwise."""
    four, otherwise = torch.ones(4), collectives.rank() == 1
    calls = [collectives.sum_, collectives.broadcast_]
    if otherwise and how == "order":
        calls.reverse()
    elif otherwise and how == "skipped":
        del calls[0]
    elif otherwise:
        four = {"shape": torch.ones(5), "dtype": four.double()}[how]
    return error_of(lambda: [call(four) for call in calls])


def call_on_some(ranks: list[int]) -> Any:
    return error_of(lambda: collectives.sum_(torch.ones(4))) if collectives.rank() in ranks else None


class Step:
    """One network's exchange and status, without the network: four weights, a bucket each."""

    def __init__(self, form: str, n_weights: int = 4, size: int = 1000) -> None:
        self.weights = [nn.Parameter(torch.ones(size)) for _ in range(n_weights)]
        self.status = Status(("valid",), torch.device("cpu"))
        per_node = 2 if form == "hierarchical" else collectives.world_size()
        self.reduction = reduction_of("tree" if form == "tree" else "fast", per_node, leaves=8)
        self.exchange = Exchange(
            self.weights,
            bucket_mib=1e-9,
            n_status=len(self.status.values),
            reduction=self.reduction,
            others=torch.empty(0),
            seal=self.status.seal,
        )
        self.status.use(self.exchange.status)

    def __call__(self, half_way: Callable[[], None] = lambda: None) -> None:
        self.exchange.begin()
        self.status.put(valid=1)
        for part in self.reduction.parts:
            if part == self.reduction.parts[-1]:
                self.exchange.arm()
            for number, weight in enumerate(reversed(self.weights)):
                if part == self.reduction.parts[-1] and number == len(self.weights) // 2:
                    half_way()
                weight.sum().backward()
            if part != self.reduction.parts[-1]:
                self.exchange.keep(part)
        self.exchange.finish()
        self.status.exchanged()
        self.status.drain()


def buckets_in_another_order(form: str) -> Any:
    """Rank 1 sends the first two buckets, which are of one size, the other way round."""
    a_step = Step(form)
    a_step()
    if collectives.rank() == 1:
        sent = a_step.exchange._sent
        sent[:2] = sent[1::-1]
    return error_of(a_step)


def unlike_networks() -> Any:
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4 + (collectives.rank() == 1)))]
    return error_of(
        lambda: Exchange(weights, bucket_mib=1, n_status=1, reduction=fast_reduction(), others=torch.empty(0))
    )


def die_in_a_step(form: str, when: str) -> Any:
    a_step = Step(form, size=1_000_000)
    a_step()
    if collectives.rank() < 2:
        error = error_of(a_step)
        # It ends as a worker does that fails, without waiting for the other one, which may be waiting for it: what is
        # under way is not cleared away before.
        threading.Timer(0.3, lambda: os._exit(a_step is None)).start()
        return error
    if when == "in the middle of a bucket":
        a_step(half_way=lambda: os._exit(1))
    os._exit(1)


def steps_without_end(form: str) -> Any:
    a_step = Step(form)

    def steps() -> None:
        while True:
            a_step()

    return error_of(steps)


# --- the zoo ---


def zoo_gradients(name: str, n_rows: int) -> Any:
    """How far the exchanged gradients of the workers' shares are from those of the whole batch in one process: the
    largest distance of a parameter's gradient, over its norm; in fp64, with synchronous batch norm, on rank 0 alone."""
    torch.manual_seed(0)
    known = inspect.signature(registry.resolve(name, registry.MODELS, "model")).parameters
    args = {each: 0.0 for each in ("dropout", "stochastic_depth") if each in known}
    if ENTRIES[name].is_acoustic:  # small ones, since these are large
        args |= {each: size for each, size in {"width": 24, "layers": 2, "channels": 4}.items() if each in known}
    network = models.build(name, args).double()
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    inputs = _zoo_inputs(name, n_rows)
    whole = copy.deepcopy(network)
    if any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in network.modules()):
        batch_norm.convert(network, "sync", ghost_rows=2)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    exchange = Exchange(
        weights, bucket_mib=0.25, n_status=1, reduction=fast_reduction(), others=torch.empty(0, dtype=torch.float64)
    )
    rank, size = collectives.rank(), collectives.world_size()
    exchange.begin()
    exchange.arm()
    _energy(network(*(each[rank * n_rows // size : (rank + 1) * n_rows // size] for each in inputs))).backward()
    exchange.finish()
    if rank > 0:
        return None
    _energy(whole(*inputs)).backward()
    expected = [weight.grad for weight in whole.parameters() if weight.requires_grad]
    # Behind a convolution of 1x1 maps a batch norm takes its weights' scale away: their gradient is 0 but for rounding.
    least = 1e-3 * max(grad.norm() for grad in expected)
    return max(
        ((ours.grad - grad).norm() / grad.norm().clamp(min=least)).item()
        for ours, grad in zip(weights, expected, strict=True)
    )


def _zoo_inputs(name: str, n_rows: int) -> tuple[torch.Tensor, ...]:
    """Images; or features of sounds and how many frames are each row's own."""
    if ENTRIES[name].is_acoustic:
        features_BTF = torch.randn(n_rows, 30, ENTRIES[name].input_size[1], dtype=torch.float64)
        return features_BTF, torch.arange(n_rows) % 5 * 6 + 6
    channels, height, width = ENTRIES[name].input_size
    side = min(height, 32)
    return (torch.randn(n_rows, channels, side, side * width // height, dtype=torch.float64),)


def _energy(said: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Of logits, or of those within their lengths: sum of squares."""
    if isinstance(said, torch.Tensor):
        return said.square().sum()
    logits_BTC, lengths_B = said
    return logits_BTC[torch.arange(logits_BTC.shape[1]) < lengths_B[:, None]].square().sum()
