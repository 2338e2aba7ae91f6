"""Plain DistributedDataParallel with one fault, as torchrun starts it: what benchmarks/watch/faults.py compares with.

HANG='{"rank": 1, "after": 6, "how": "stopped", "at": "/path"}', as for distdl's run (tests/e2e/hanging.py).
"""

import itertools
import json
import os
import resource
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

SIZE, N_STEPS = 1000, 400


def main() -> None:
    fault = json.loads(os.environ["HANG"])
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(1024, 60), torch.nn.Tanh(), torch.nn.Linear(60, 10)
    )
    model = DistributedDataParallel(network)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    rank, how = dist.get_rank(), fault["how"]
    for step in itertools.count():
        is_mine = rank == fault["rank"] and step >= fault["after"]
        if step == N_STEPS or (how == "uneven" and is_mine):
            break
        if is_mine and step == fault["after"]:
            Path(fault["at"]).write_text(str(time.monotonic()))
        strike(how, is_mine)
        optimiser.zero_grad()
        model(torch.randn(16, 1, 32, 32)).square().mean().backward()
        optimiser.step()
        if rank == 0 and how in ("link", "one way"):
            Path(fault["at"]).with_name("steps").write_text(str(step))
            time.sleep(0.1)
    if how == "uneven" and rank == fault["rank"]:
        Path(fault["at"]).write_text(str(time.monotonic()))
    dist.barrier()


def strike(how: str, is_mine: bool) -> None:
    if how in ("killed", "stopped") and is_mine:
        os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    elif how == "left" and is_mine:
        os._exit(0)
    elif how == "on_its_own" and is_mine:
        dist.barrier()
    elif how in ("sleeps", "input") and is_mine:
        time.sleep(3600)
    elif how == "loop":
        while is_mine:
            pass
    elif how == "memory" and is_mine:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        torch.ones(1 << 28)
    elif how == "slow":
        time.sleep(1.0 if is_mine else 0.1)
    elif how == "other_shape":
        meet(SIZE + (7 if is_mine else 0))
    elif how == "other_dtype":
        meet(SIZE, torch.float64 if is_mine else torch.float32)
    elif how in ("skipped", "extra", "reordered"):
        sizes = [SIZE, SIZE + 8]
        if is_mine:
            sizes = {"skipped": [SIZE], "extra": [SIZE, SIZE, SIZE + 8], "reordered": [SIZE + 8, SIZE]}[how]
        for size in sizes:
            meet(size)


def meet(size: int, dtype: torch.dtype = torch.float32) -> None:
    dist.all_reduce(torch.ones(size, dtype=dtype))


if __name__ == "__main__":
    main()
