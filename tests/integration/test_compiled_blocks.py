"""A network compiled block by block, with torch's compiler: what its shapes are, and when its gradients are sent."""

import pytest
import torch
import torch._dynamo

from distdl import models
from distdl.comm.collectives import Pending
from distdl.comm.exchange import Exchange
from distdl.comm.reduction import Reduction
from distdl.models.resnet_cifar import CifarResNet
from distdl.trainer import setup


@pytest.fixture
def dynamo():
    """Nothing compiled before, and nothing left for tests that follow."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=64):
        yield
    torch._dynamo.reset()


def three_blocks():
    """A ResNet-8."""
    return CifarResNet(8)


def test_compiled_blocks_know_each_shape_by_itself(dynamo):
    network, symbols = three_blocks(), []

    def backend(graph, inputs):
        symbols.extend(each for each in inputs if isinstance(each, torch.SymInt))
        return graph

    setup.compile_blocks(network, backend)
    for n_rows in (4, 6, 4, 5):
        network(torch.randn(n_rows, 3, 32, 32))

    assert not symbols


def test_a_network_compiled_block_by_block_sends_while_backward_goes_on(dynamo):
    network = three_blocks()
    for block in models.blocks(network):
        network.get_submodule(block).compile(backend="aot_eager")
    used_when_sent = []

    def steps(parts, name):
        used_when_sent.append(len(exchange._used))
        yield Pending(None)

    weights = list(network.parameters())
    alone = Reduction(parts=range(1), n_parts=1, steps=steps)
    exchange = Exchange(weights, bucket_mib=0.02, n_status=1, reduction=alone, others=torch.empty(0))
    exchange.begin()
    loss = network(torch.randn(2, 3, 32, 32)).sum()
    exchange.arm()

    loss.backward()

    assert len(used_when_sent) == len(exchange.buckets) > 6
    # If backward gave all gradients at its end, all would have been used from the first bucket on.
    assert sum(n < len(weights) for n in used_when_sent) > 5
