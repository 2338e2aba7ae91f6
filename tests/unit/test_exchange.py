"""The buckets of the gradient exchange: which gradients lie where."""

import pytest
import torch
from torch import nn

from distdl.comm.collectives import Pending
from distdl.comm.exchange import Exchange as RealExchange
from distdl.comm.reduction import Reduction

MIB = 2**20


def steps(parts, name):
    return iter(())


def Exchange(parameters, *, bucket_mib, n_status, n_others=0, steps=steps, **reduction):
    """That of a worker whose sums are its own values."""
    form = Reduction(**{"parts": range(1), "n_parts": 1, "steps": steps, **reduction})
    others = torch.empty(n_others)
    return RealExchange(parameters, bucket_mib=bucket_mib, n_status=n_status, reduction=form, others=others)


def parameters(*sizes):
    return [nn.Parameter(torch.zeros(size)) for size in sizes]


def layout(exchange):
    return [[parameter.numel() for parameter in bucket.parameters] for bucket in exchange.buckets]


def test_buckets_are_filled_in_reverse_order_of_registration():
    assert layout(Exchange(parameters(1, 2, 3, 4), bucket_mib=1, n_status=1)) == [[4, 3, 2, 1]]


def test_a_bucket_is_bounded_and_a_larger_tensor_gets_its_own():
    exchange = Exchange(parameters(10, 300, 40, 60), bucket_mib=400 / MIB, n_status=1)  # 100 elements of 4 bytes

    assert layout(exchange) == [[60, 40], [300], [10]]


def test_the_first_bucket_is_small_and_so_are_the_last_ones():
    quarter_mib = MIB // 16  # of 4 bytes
    exchange = Exchange(parameters(*[quarter_mib] * 400), bucket_mib=25, n_status=1)

    assert [len(each) / 4 for each in layout(exchange)] == [1, 25, 25, 25, 18, 4.5, 1, 0.5]


def test_a_bucket_has_one_kind_of_element():
    half = nn.Parameter(torch.zeros(5, dtype=torch.bfloat16))
    single = parameters(3, 4)

    exchange = Exchange([single[0], half, single[1]], bucket_mib=1, n_status=1)

    assert layout(exchange) == [[4], [5], [3]]
    assert [bucket.flat.dtype for bucket in exchange.buckets] == [torch.float32, torch.bfloat16, torch.float32]


def test_the_last_bucket_carries_the_status():
    exchange = Exchange(parameters(10, 20), bucket_mib=80 / MIB, n_status=3)
    exchange.begin()
    exchange.status.copy_(torch.tensor([7.0, 0.0, 1.0]))

    exchange.finish()

    assert [bucket.flat.numel() for bucket in exchange.buckets] == [20, 10 + 3 + 2]  # and the users of each parameter
    assert exchange.buckets[-1].flat[10:13].tolist() == [7, 0, 1]


def test_counts_do_not_travel_in_a_type_that_would_round_them():
    half = nn.Parameter(torch.zeros(5, dtype=torch.bfloat16))

    exchange = Exchange([half], bucket_mib=1, n_status=2)

    assert layout(exchange) == [[5], []]
    assert exchange.status.dtype == torch.float32 and exchange.status.shape == (2,)


class Recorder(list):
    """The first elements of the buckets that were sent, in order."""

    def __call__(self, parts, name):
        self.append(parts[-1][0].item())
        yield Pending(None)


@pytest.fixture
def sent():
    return Recorder()


def test_a_bucket_is_sent_when_backward_has_filled_it_and_all_before_it(sent):
    weights = parameters(1, 1, 1)
    exchange = Exchange(weights, bucket_mib=4 / MIB, n_status=1, steps=sent)  # one each: of weights 2, 1 and 0
    seen = []
    exchange.begin()
    weights[2].sum().mul(2).backward()  # an earlier micro-batch: sends nothing
    exchange.arm()

    for weight, factor in ((weights[1], 3), (weights[2], 4), (weights[0], 5)):
        weight.sum().mul(factor).backward()
        seen.append(list(sent))

    assert seen == [[], [2 + 4, 3], [2 + 4, 3, 5]]
    exchange.finish()
    assert len(sent) == 3


def test_a_bucket_that_backward_did_not_fill_is_sent_at_the_end_in_its_turn(sent):
    weights = parameters(1, 1, 1)
    exchange = Exchange(weights, bucket_mib=4 / MIB, n_status=1, steps=sent)
    exchange.begin()
    exchange.arm()
    (weights[2] * 2 + weights[0] * 3).sum().backward()  # weight 1 is not used
    assert sent == [2]

    exchange.finish()

    assert sent == [2, 0, 3]


def test_a_gradient_that_comes_twice_in_a_backward_pass_is_an_error_and_not_a_wrong_sum(sent):
    (weight,) = parameters(1)
    exchange = Exchange([weight], bucket_mib=1, n_status=1, steps=sent)
    exchange.begin()
    exchange.arm()
    weight.sum().backward()

    with pytest.raises(RuntimeError, match="reentrant activation checkpointing"):
        weight.sum().backward()


def test_backward_writes_the_gradients_straight_into_the_bucket():
    weights = parameters(2, 3)
    exchange = Exchange(weights, bucket_mib=1, n_status=1)
    exchange.begin()

    (weights[0].sum() * 5 + weights[1].sum() * 7).backward()
    (weights[0].sum() * 5).backward()  # the next micro-batch adds

    assert exchange.buckets[0].flat[:5].tolist() == [7, 7, 7, 10, 10]
    assert weights[0].grad.data_ptr() == exchange.buckets[0].flat[3:].data_ptr()


def test_a_step_begins_by_clearing_what_the_step_before_left_and_takes_back_a_gradient_that_was_replaced():
    (weight,) = parameters(2)
    exchange = Exchange([weight], bucket_mib=1, n_status=1)
    exchange.begin()
    weight.sum().backward()
    weight.grad = None

    exchange.begin()

    assert weight.grad is not None and weight.grad.tolist() == [0, 0]
    assert weight.grad.data_ptr() == exchange.buckets[0].flat.data_ptr()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_gradient_has_the_strides_of_its_parameter(memory_format):
    conv = nn.Conv2d(3, 4, 2).to(memory_format=memory_format)
    image = torch.rand(2, 3, 5, 5)
    conv(image).square().sum().backward()
    expected = conv.weight.grad.clone()

    exchange = Exchange(list(conv.parameters()), bucket_mib=1, n_status=1)
    exchange.begin()
    conv(image).square().sum().backward()

    assert conv.weight.grad.stride() == conv.weight.stride()
    torch.testing.assert_close(conv.weight.grad, expected, rtol=0, atol=0)
    bucket = exchange.buckets[0]
    assert bucket.flat.numel() - bucket.more.numel() == 3 * 4 * 2 * 2 + 4


def test_gradients_do_not_overlap_whatever_the_strides():
    weights = [nn.Parameter(torch.zeros(4, 3).t()), nn.Parameter(torch.zeros(2, 6)[:, ::2]), *parameters(5)]
    exchange = Exchange(weights, bucket_mib=1, n_status=1)
    exchange.begin()

    for value, weight in enumerate(weights, start=1):
        weight.grad.fill_(value)

    (bucket,) = exchange.buckets
    assert sorted(bucket.flat[: -bucket.more.numel()].tolist()) == [1] * 12 + [2] * 6 + [3] * 5
