"""distdl's gradient exchange beside torch's DistributedDataParallel, in the same processes, round by round in turn.

    python benchmarks/comm/exchange.py [--workers 2,4] [--rounds 20]                        real compute, one machine
    python benchmarks/comm/exchange.py --double --rounds 2                                 the same in fp64
    python benchmarks/comm/exchange.py --rates 100mbit,1gbit [--step-s 1.2] [--rounds 6]    paced compute, links
    python benchmarks/comm/exchange.py --backends gloo,mpi [--mpi openmpi] ...              over these, without DDP

Real compute: ResNet-50 (25.6 M parameters), forward, backward and SGD with momentum. Both engines start with the same
weights and see the same batches; `difference` is the largest between their weights at the end, over the largest weight.
With --double, on smaller images and with constant statistics of batch norm, it tells whether they compute the same:
batch norm over few rows makes anything of one rounding error within 100 steps, in fp64 as well. (On 2 workers sums have
no order, and the difference is 0.)

Paced compute: two cores can't compute and feed links at once as hosts would. So each block of ResNet-50 sleeps for its
share of a step of --step-s instead of computing: by its multiply-accumulates, a backward as two forwards. Then it
leaves a gradient; each worker is a network namespace whose link is shaped by tbf. The bound: buckets leave one after
the other, each when backward has come that far, and take their share of what the exchange takes alone; then comes the
optimiser's step.

    hidden   (compute + exchange alone + update - step) / (the same - bound): 1 is the bound's overlap

With --backends each one's workers are processes of their own, and --sets of them take turns: gloo's threads beside an
MPI that waits on its core would disturb both. The step's time is the median over the sets of each set's median, and the
ratios are to the first backend in the same turn. --paced has paced compute on one machine, without links.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from zlib import crc32

import mpiruns
import torch
import workers
from hosts import Hosts
from torch import nn

from distdl import models
from distdl.bench.ratio import alternate, ratio
from distdl.comm import collectives, mpi_library
from distdl.comm import reduction as reductions
from distdl.comm.exchange import Exchange
from distdl.comm.world import detect
from distdl.config.schema import Config

BUCKET_MIB = 25.0
CPU = torch.device("cpu")


def worker(options):
    torch.set_num_threads(1)
    world = detect()
    collectives.join(world, options["backend"], CPU)
    torch.manual_seed(0)
    network = models.build("resnet50", {})
    if options["paced"]:
        build = lambda: Paced(network, options["step_s"])  # noqa: E731
    elif options["double"]:
        build = lambda: Real(network, world.rank, batch=4, size=32).double().eval()  # noqa: E731
    else:
        build = lambda: Real(network, world.rank)  # noqa: E731
    loops = {"exchange": ExchangeLoop(build(), world, options)}
    if options["beside_ddp"]:
        loops["ddp"] = DDPLoop(build(), options)
    for loop in loops.values():
        loop.step()  # DDP builds its buckets anew after the first
        loop.step()
    seconds = alternate({name: loop.step for name, loop in loops.items()}, options["rounds"], collectives.barrier)
    found = {"seconds": seconds}
    if options["paced"]:
        found["compute_s"] = loops["exchange"].compute_alone()
        found["alone_s"], found["bound_s"], found["update_s"] = loops["exchange"].bound()
    else:
        for _ in range(options["steps"] - options["rounds"] - 2):
            for loop in loops.values():
                loop.step()
        if options["beside_ddp"]:
            found["difference"] = difference(loops["exchange"].model, loops["ddp"].model.module)
        found["weights"] = digest(loops["exchange"].model)
        found["steps"] = options["steps"]
    collectives.barrier()
    collectives.leave()
    mpi_library.finish()
    workers.tell(world.rank, found)


class Real(nn.Module):
    """The network, on one batch of noise that differs from worker to worker."""

    def __init__(self, network, rank, batch=8, size=64):
        super().__init__()
        self.network = models.build("resnet50", {})
        self.network.load_state_dict(network.state_dict())
        generator = torch.Generator().manual_seed(rank)
        self.register_buffer("images", torch.randn(batch, 3, size, size, generator=generator))

    def forward(self):
        return self.network(self.images).square().mean()


class Paced(nn.Module):
    """The network's parameters in blocks that sleep."""

    def __init__(self, network, step_s):
        super().__init__()
        names = ["conv1", "bn1", *models.blocks(network), "fc"]
        self.blocks = [list(network.get_submodule(name).parameters()) for name in names]
        self.blocks = [[nn.Parameter(p.detach().clone()) for p in block] for block in self.blocks]
        self.all = nn.ParameterList([p for block in self.blocks for p in block])
        shares = block_shares(network, names)
        self.forward_s = [step_s * forward for forward, _ in shares]
        self.backward_s = [step_s * backward for _, backward in shares]

    def forward(self):
        value = torch.zeros((), requires_grad=True)
        for block, forward_s, backward_s in zip(self.blocks, self.forward_s, self.backward_s):
            value = Sleep.apply(value, forward_s, backward_s, *block)
        return value


class Sleep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, forward_s, backward_s, *parameters):
        ctx.backward_s, ctx.parameters = backward_s, parameters
        time.sleep(forward_s)
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        gradients = [torch.zeros_like(p) for p in ctx.parameters]  # in place of the kernels that would write them
        time.sleep(ctx.backward_s)
        return gradient, None, None, *gradients


def block_shares(network, names):
    """(forward, backward) of each block as shares of a step, from its multiply-accumulates: a backward is two."""
    rows = []
    hooks = []
    for name in names:
        module = network.get_submodule(name)
        hooks.append(module.register_forward_hook(lambda m, i, o: rows.append(macs(m, i[0], o))))
    network.eval()(torch.zeros(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    total = 3 * sum(rows)
    return [(each / total, 2 * each / total) for each in rows]


def macs(module, image, output):
    """Of the convolutions and linear layers in it, each weight times the places where it is used."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        type(module).forward(module, image)
    return counter.get_total_flops()


class ExchangeLoop:
    def __init__(self, model, world, options):
        self.model, self.world = model, world
        self.parameters = list(model.parameters())
        config = Config.model_validate({**MINIMAL, "dist": {"hierarchical": False}})
        self.exchange = Exchange(
            self.parameters,
            bucket_mib=options["bucket_mib"],
            n_status=1,
            reduction=reductions.build(config, world, CPU),
            others=torch.empty(0),
        )
        self.optimiser = torch.optim.SGD(self.parameters, lr=1e-3, momentum=0.9)
        self.share = torch.tensor(1 / world.world_size, dtype=self.parameters[0].dtype)

    def step(self):
        self.exchange.begin()
        loss = self.model()
        self.exchange.arm()
        loss.backward(gradient=self.share)
        self.exchange.finish()
        self.optimiser.step()

    def compute_alone(self):
        """Seconds of forward and backward without the exchange."""
        times = []
        for _ in range(3):
            self.exchange.begin()
            began = time.perf_counter()
            self.model().backward()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def bound(self):
        """(the exchange alone, the step if it were hidden as well as it can be, the update), in seconds."""
        ready, sizes = self.ready_times(), [bucket.flat.numel() for bucket in self.exchange.buckets]
        alone_s = self.time(self.exchange_alone)
        self.step()  # leaves gradients
        update_s = self.time(self.optimiser.step)
        end = 0.0
        for at, size in zip(ready, sizes, strict=True):
            end = max(end, at) + alone_s * size / sum(sizes)
        return alone_s, end + update_s, update_s

    def exchange_alone(self):
        self.exchange.begin()
        self.exchange.finish()

    def time(self, action):
        times = []
        for _ in range(3):
            collectives.barrier()
            began = time.perf_counter()
            action()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def ready_times(self):
        """When backward fills each bucket, in seconds since the step began."""
        missing = {p: i for i, bucket in enumerate(self.exchange.buckets) for p in bucket.parameters}
        ready = [0.0] * len(self.exchange.buckets)
        hooks = []
        for parameter, number in missing.items():
            note = lambda p, number=number: ready.__setitem__(number, time.perf_counter() - began)  # noqa: E731
            hooks.append(parameter.register_post_accumulate_grad_hook(note))
        self.exchange.begin()
        began = time.perf_counter()
        self.model().backward()
        for hook in hooks:
            hook.remove()
        return [max(ready[: i + 1]) for i in range(len(ready))]


class DDPLoop:
    def __init__(self, model, options):
        self.model = nn.parallel.DistributedDataParallel(
            model, bucket_cap_mb=options["bucket_mib"], broadcast_buffers=False, gradient_as_bucket_view=True
        )
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)

    def step(self):
        self.optimiser.zero_grad(set_to_none=True)
        self.model().backward()
        self.optimiser.step()


MINIMAL = {
    "model": {"name": "resnet50"},
    "data": {"train": {"shards": "none"}},
    "train": {"global_batch": 64, "steps": 1},
    "optim": {"lr": 0.1},
}


def difference(ours, theirs):
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    largest = max(theirs.abs().max().item() for _, theirs in pairs)
    return max((ours - theirs).abs().max().item() for ours, theirs in pairs) / largest


def digest(model):
    return crc32(torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy().tobytes())


def slowest_of(results, name):
    """Seconds of each round, on the worker that took longest."""
    return [max(times) for times in zip(*(result["seconds"][name] for result in results))]


def summary(results, n, options, rate):
    slowest = {name: slowest_of(results, name) for name in ("exchange", "ddp")}
    compared = ratio(slowest["exchange"], slowest["ddp"])
    row = {
        "workers": n,
        "rate": rate,
        "paced": options["paced"],
        "double": options["double"],
        "rounds": options["rounds"],
        "bucket_mib": options["bucket_mib"],
        **{f"{name}_s": statistics.median(times) for name, times in slowest.items()},
        "ratio": compared.median,
        "interval_95": [compared.low, compared.high],
    }
    if options["paced"]:
        keys = ("compute_s", "alone_s", "update_s", "bound_s")
        of_all = {key: max(result[key] for result in results) for key in keys}
        in_turn_s = of_all["compute_s"] + of_all["alone_s"] + of_all["update_s"]
        hidden = {
            f"{name}_hidden": (in_turn_s - row[f"{name}_s"]) / (in_turn_s - of_all["bound_s"]) for name in slowest
        }
        return row | of_all | hidden
    return row | {"steps": options["steps"], "difference": max(result["difference"] for result in results)}


def summary_of_backends(sets, n, options, rate):
    """`sets`: backend -> what the workers of each of its sets found."""
    row = {key: options[key] for key in ("paced", "double", "rounds", "bucket_mib", "mpi")}
    row |= {"workers": n, "rate": rate, "sets": len(next(iter(sets.values())))}
    step_s = {
        name: [statistics.median(slowest_of(results, "exchange")) for results in of_backend]
        for name, of_backend in sets.items()
    }
    first, *others = sets
    for name, of_backend in sets.items():
        row[f"{name}_s"] = statistics.median(step_s[name])
        row[f"{name}_s_of_sets"] = step_s[name]
        for key in ("compute_s", "alone_s", "update_s", "bound_s") if options["paced"] else ():
            row[f"{name}_{key}"] = statistics.median(max(result[key] for result in results) for results in of_backend)
    for name in others:
        compared = ratio(step_s[name], step_s[first])
        row |= {f"{name}_over_{first}": compared.median, f"{name}_over_{first}_95": [compared.low, compared.high]}
    if not options["paced"]:
        weights = {result["weights"] for of_backend in sets.values() for results in of_backend for result in results}
        row |= {"steps": options["steps"], "same_weights": len(weights) == 1}
    return row


def start(options, n, rate, mpi=None):
    if rate is None:
        return workers.run(__file__, options, per_host=n, hosts=None, n=n, mpi=mpi)
    with Hosts(n, rate) as hosts:
        return workers.run(__file__, options, per_host=1, hosts=hosts, n=n, mpi=mpi)


def compare_backends(backends, options, n, rate, n_sets):
    sets = {name: [] for name in backends}
    for number in range(n_sets):
        for name in backends[:: -1 if number % 2 else 1]:
            mpi = options["mpi"] if name == "mpi" else None
            sets[name].append(start({**options, "backend": name}, n, rate, mpi))
    return summary_of_backends(sets, n, options, rate)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--workers", default="2,4")
    parser.add_argument("--rates", default="", help="links of network namespaces, paced compute")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100, help="real compute: after which the weights are compared")
    parser.add_argument("--double", action="store_true", help="real compute in fp64")
    parser.add_argument("--step-s", type=float, default=1.2, help="paced compute: seconds of forward and backward")
    parser.add_argument("--bucket-mib", type=float, default=BUCKET_MIB)
    parser.add_argument("--backends", help="gloo,mpi: the exchange over each, instead of beside DDP")
    parser.add_argument("--mpi", default="openmpi", help=", ".join(mpiruns.LAUNCHERS))
    parser.add_argument("--paced", action="store_true", help="with --backends: paced compute on one machine too")
    parser.add_argument("--sets", type=int, default=5, help="with --backends: sets of processes of each")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(json.loads(arguments.worker))
        return
    rows = []
    for rate in arguments.rates.split(",") if arguments.rates else [None]:
        for n in map(int, arguments.workers.split(",")):
            options = {
                "paced": arguments.paced or rate is not None,
                "double": arguments.double,
                "step_s": arguments.step_s,
                "rounds": arguments.rounds,
                "steps": max(arguments.steps, arguments.rounds + 2),
                "bucket_mib": arguments.bucket_mib,
                "backend": "gloo",
                "mpi": arguments.mpi,
                "beside_ddp": not arguments.backends,
            }
            if arguments.backends:
                (options["mpi"],) = mpiruns.find(arguments.mpi)
                rows.append(compare_backends(arguments.backends.split(","), options, n, rate, arguments.sets))
            else:
                rows.append(summary(start(options, n, rate), n, options, rate))
            print(json.dumps(rows[-1]), flush=True)
    if arguments.out:
        command = " ".join(sys.argv)
        arguments.out.write_text(json.dumps({"command": command, "torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
