"""What crosses the link between two hosts of two workers each: sums in one stage and in two.

    python benchmarks/comm/hierarchical.py [--rate 100mbit] [--rounds 4]

The gradients of ResNet-50 (25.6 M parameters) are summed by each form in turn. The hosts are network namespaces whose
links tbf shapes; bytes are from their interfaces' counters, both hosts' sent bytes together, TCP's own included.

    flat ring         dist.reduction: fast in one stage: gloo's all-reduce
    flat all-to-all   chunks to their owners and back, each way by all-to-all
    flat tree         dist.reduction: tree in one stage: all-to-all, and back by all-gather, which gloo does in a ring
    fast, tree        with dist.hierarchical: inside the host first

With n workers on h hosts and S bytes of gradients, a host sends 2 (n - 1) / n S in a ring, 2 (n / h) (n - n / h) / n S
in an all-to-all and back, and 2 (h - 1) / h S in two stages: 1.5, 2 and 1 times S for 4 workers on 2 hosts.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
import workers
from hosts import Hosts
from torch import nn

from distdl import models
from distdl.bench.ratio import ratio
from distdl.comm import collectives
from distdl.comm import reduction as reductions
from distdl.comm.exchange import Exchange
from distdl.comm.world import detect
from distdl.config.schema import Config

CPU = torch.device("cpu")
FORMS = {
    "flat ring": {"reduction": "fast", "hierarchical": False},
    "flat all-to-all": {"reduction": "tree", "leaves": 4, "hierarchical": False},
    "flat tree": {"reduction": "tree", "leaves": 4, "hierarchical": False},
    "fast": {"reduction": "fast", "hierarchical": True},
    "tree": {"reduction": "tree", "leaves": 4, "hierarchical": True},
}


def worker(options):
    torch.set_num_threads(1)
    world = detect()
    collectives.join(world, "gloo", CPU)
    torch.manual_seed(0)
    sizes = [p.shape for p in models.build("resnet50", {}).parameters()]
    sums = {name: Sum(name, sizes, world) for name in FORMS}
    found = {name: {"seconds": [], "sent_bytes": []} for name in FORMS}
    for number in range(options["rounds"] + 1):  # the first is a warm-up
        for name in list(sums)[:: 1 if number % 2 else -1]:
            collectives.barrier()
            sent, began = sent_bytes(), time.perf_counter()
            sums[name]()
            seconds = time.perf_counter() - began
            collectives.barrier()
            if number:
                found[name]["seconds"].append(seconds)
                found[name]["sent_bytes"].append(sent_bytes() - sent)
    gradients = [each.gradients() for each in sums.values()]
    assert all(torch.allclose(gradients[0], each, rtol=1e-5, atol=1e-6) for each in gradients[1:])
    collectives.barrier()
    collectives.leave()
    workers.tell(world.rank, {"local_rank": world.local_rank, "forms": found})


class Sum:
    def __init__(self, name, sizes, world):
        config = Config.model_validate(
            {
                "model": {"name": "resnet50"},
                "data": {"train": {"shards": "none"}},
                "train": {"global_batch": 64, "steps": 1},
                "optim": {"lr": 0.1},
                "dist": FORMS[name],
            }
        )
        generator = torch.Generator().manual_seed(world.rank)
        self.parameters = [nn.Parameter(torch.zeros(size)) for size in sizes]
        self.values = [torch.randn(size, generator=generator) for size in sizes]
        reduction = reductions.build(config, world, CPU)
        if name == "flat all-to-all":
            there, back = (collectives.new_group([range(world.world_size)]) for _ in range(2))
            reduction = dataclasses.replace(reduction, steps=partial(all_to_all_and_back, there, back))
        self.exchange = Exchange(
            self.parameters,
            bucket_mib=25.0,
            n_status=1,
            reduction=reduction,
            others=torch.empty(0),
        )

    def __call__(self):
        self.exchange.begin()
        self.exchange.arm()
        torch.autograd.backward(self.parameters[::-1], self.values[::-1])
        self.exchange.finish()

    def gradients(self):
        return torch.cat([p.grad.reshape(-1) for p in self.parameters])


def all_to_all_and_back(there, back, parts, name):
    (flat,) = parts
    size = there.size
    received = torch.empty_like(flat).view(size, -1)
    yield there.start_all_to_all(received, flat.view(size, 1, -1), [1] * size, 1)
    chunk = received.sum(dim=0)
    sent = chunk.expand(size, 1, -1).contiguous()
    yield back.start_all_to_all(flat.view(size, -1), sent, [1] * size, 1)


def sent_bytes():
    return int(Path("/sys/class/net/eth0/statistics/tx_bytes").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--rate", default="100mbit")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(json.loads(arguments.worker))
        return
    with Hosts(2, arguments.rate) as hosts:
        results = workers.run(__file__, {"rounds": arguments.rounds}, per_host=2, hosts=hosts, n=4)
    seconds = {name: [max(each) for each in zip(*(r["forms"][name]["seconds"] for r in results))] for name in FORMS}
    of_hosts = [r for r in results if r["local_rank"] == 0]
    sent = {name: [sum(each) for each in zip(*(r["forms"][name]["sent_bytes"] for r in of_hosts))] for name in FORMS}
    rows = []
    for name in FORMS:
        row = {"form": name, "sent_bytes": statistics.median(sent[name]), "seconds": statistics.median(seconds[name])}
        for flat in ("flat ring", "flat all-to-all"):
            row[f"bytes_over_{flat}"] = row["sent_bytes"] / statistics.median(sent[flat])
            row[f"time_over_{flat}"] = ratio(seconds[name], seconds[flat]).median
        rows.append(row)
        print(json.dumps(row), flush=True)
    if arguments.out:
        command = " ".join(sys.argv)
        found = {"command": command, "torch": torch.__version__, "rate": arguments.rate, "rounds": arguments.rounds}
        arguments.out.write_text(json.dumps({**found, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
