"""Optimisers: torch's as torch has them, what is in which group, and a state that is named by parameter."""

import json

import pytest
import small_network as small
import torch
from torch import nn

from distdl import registry
from distdl.config.schema import GroupConfig, OptimConfig
from distdl.errors import UserError
from distdl.trainer import optim

TORCHS = {  # name in a config -> torch's class, and what it is called with there
    "sgd": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "adam": (torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-6}),
    "adamw": (torch.optim.AdamW, {"betas": (0.8, 0.95), "eps": 1e-6}),
    "adagrad": (torch.optim.Adagrad, {"eps": 1e-6}),
    "adadelta": (torch.optim.Adadelta, {}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.8, "eps": 1e-6}),
}


def config(**changes):
    given = {"lr": 0.02, "momentum": 0.8, "nesterov": True, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    return OptimConfig(**{**given, **changes})


def names_of(network, parameters):
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [names[id(parameter)] for parameter in parameters]


# --- the optimisers by name ---


@pytest.mark.parametrize("name", TORCHS)
def test_those_of_torch_agree_with_torchs_own_plain_loop(name):
    found, expected = small.network(), small.network()
    kind, given = TORCHS[name]
    decayed = [p for name, p in expected.named_parameters() if name in small.MATRICES]
    plain = [p for name, p in expected.named_parameters() if name not in small.MATRICES]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]

    small.train(found, optim.build(config(name=name), found), small.batches())
    small.train(expected, kind(groups, lr=0.02, foreach=False, **given), small.batches())

    small.assert_same_weights(found, expected)
    small.assert_trained(found)


def test_arguments_that_only_torch_knows_are_passed_on():
    optimiser = optim.build(config(name="adadelta", args={"rho": 0.5}), small.network())

    assert [group["rho"] for group in optimiser.param_groups] == [0.5, 0.5]
    with pytest.raises(UserError, match="optimiser 'adadelta' takes no argument 'roh' - did you mean rho"):
        optim.build(config(name="adadelta", args={"roh": 0.5}), small.network())


def test_an_optimiser_of_ones_own_and_its_arguments():
    network = small.network()

    own = optim.build(OptimConfig(name="torch.optim:RMSprop", lr=0.1, args={"alpha": 0.9}), network)

    assert isinstance(own, torch.optim.RMSprop) and own.param_groups[0]["alpha"] == 0.9
    with pytest.raises(UserError, match="takes no argument 'alfa' - did you mean alpha"):
        optim.build(OptimConfig(name="torch.optim:RMSprop", lr=0.1, args={"alfa": 0.9}), network)


@pytest.mark.parametrize("name", registry.OPTIMISERS)
def test_parameters_can_be_updated_a_part_at_a_time(name):
    whole, parts = small.network(), small.network()
    of_whole, of_parts = optim.build(config(name=name), whole), optim.build(config(name=name), parts)

    for batch in small.batches(5):
        small.train(whole, of_whole, [batch])
        small.backward(parts, batch)
        gradients = {p: p.grad for p in parts.parameters()}
        for part in (list(gradients)[:3], list(gradients)[3:]):
            for parameter, gradient in gradients.items():
                parameter.grad = gradient if any(parameter is each for each in part) else None
            of_parts.step()

    small.assert_same_weights(parts, whole, relative=1e-12)


# --- groups ---


def test_norms_and_biases_do_not_decay_unless_told():
    network = small.network()

    by_default = optim.parameter_groups(network.named_parameters(), config())
    told = optim.parameter_groups(network.named_parameters(), config(decay_norm_and_bias=True))

    assert names_of(network, by_default[0]["params"]) == list(small.MATRICES)
    assert [(len(group["params"]), group["weight_decay"]) for group in by_default] == [(3, 0.1), (4, 0.0)]
    assert [(len(group["params"]), group["weight_decay"]) for group in told] == [(7, 0.1)]


def test_the_first_pattern_that_fits_sets_the_rate_and_the_decay():
    network = small.network()
    groups = {"5.weight": {"lr_scale": 10.0}, "5.*": {"weight_decay": 0.3}, "2.*": {"weight_decay": 0.0}}

    optimiser = optim.build(config(groups=groups), network)
    optim.set_lr(optimiser, 0.5)

    assert [
        (names_of(network, group["params"]), group["lr"], group["weight_decay"]) for group in optimiser.param_groups
    ] == [
        (["0.weight"], 0.5, 0.1),
        (["1.weight", "1.bias"], 0.5, 0.0),
        (["5.weight"], 5.0, 0.1),
        (["5.bias"], 0.5, 0.0),
        (["2.weight"], 0.5, 0.0),
        (["2.bias"], 0.5, 0.0),
    ]


def test_a_pattern_without_effect_is_the_users_mistake():
    with pytest.raises(UserError, match=r"'5.wieght\*': fits no parameter - did you mean 5.weight") as caught:
        optim.build(config(groups={"5.wieght*": GroupConfig()}), small.network())
    assert caught.value.where == "optim.groups" and caught.value.fix == "Names begin with: 0, 1, 2, 5."

    with pytest.raises(UserError, match=r"'5.bias': the patterns before it fit all that it fits"):
        optim.build(config(groups={"5.*": GroupConfig(), "5.bias": GroupConfig()}), small.network())


@pytest.mark.parametrize("name", registry.OPTIMISERS)
def test_a_scale_of_0_freezes(name):
    network, start = small.network(), small.network()
    optimiser = optim.build(config(name=name, groups={"2.*": {"lr_scale": 0.0}}), network)

    for batch in small.batches(3):
        optim.set_lr(optimiser, 0.1)
        small.train(network, optimiser, [batch])

    assert torch.equal(network[2].weight, start[2].weight) and torch.equal(network[2].bias, start[2].bias)
    assert not torch.equal(network[5].weight, start[5].weight)


def test_frozen_parameters_are_not_trained_at_all_once_the_network_was_told():
    network = small.network()
    told = config(groups={"5.*": {"lr_scale": 10}, "[0-4].*": {"lr_scale": 0}})

    optim.freeze(network, told)

    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert trained == ["5.weight", "5.bias"]
    assert [group["lr_scale"] for group in optim.build(told, network).param_groups] == [10, 10]


# --- in each step ---


def test_the_rate_of_a_group_without_a_scale_is_the_rate():
    own = torch.optim.SGD(small.network().parameters(), lr=1.0)

    optim.set_lr(own, 0.25)

    assert own.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(
    ("rule", "batch", "expected"),
    [("none", 8192, 0.1), ("linear", 8192, 3.2), ("linear", 64, 0.025), ("sqrt", 64, 0.05)],
)
def test_the_peak_follows_the_batch(rule, batch, expected):
    assert optim.peak_lr(OptimConfig(lr=0.1, lr_scaling=rule), batch) == pytest.approx(expected)


@pytest.mark.parametrize("everything", [False, True])
def test_l1_pulls_to_zero_what_weight_decay_acts_on(everything):
    network = small.network()
    optimiser = optim.build(config(weight_decay=0.0, decay_norm_and_bias=everything), network)
    small.backward(network, small.batches(1)[0])
    network[1].bias.grad = None  # as of a parameter that nothing used
    before = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    optim.add_l1(optimiser, 0.5)

    for name, gradient in before.items():
        weight = network.get_parameter(name)
        pull = 0.5 * weight.detach().sign() if everything or name in small.MATRICES else 0
        torch.testing.assert_close(weight.grad, gradient + pull)


# --- to and from a checkpoint ---


def resumed(told, network, optimiser):
    """Another network and its optimiser, made from nothing but what a checkpoint would hold."""
    tensors, scalars = optim.state_by_name(optimiser, network)
    saved = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    other = small.network(seed=7).to(next(network.parameters()).dtype)
    if network[2].weight.is_contiguous(memory_format=torch.channels_last):
        other.to(memory_format=torch.channels_last)
    for parameter, original in zip(other.parameters(), network.parameters()):
        parameter.requires_grad_(original.requires_grad)
    other.load_state_dict(network.state_dict())
    its_optimiser = optim.build(told, other)
    optim.load_state_by_name(its_optimiser, other, saved, json.loads(json.dumps(scalars)))
    return other, its_optimiser


@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize("kind", ["plain", "groups", "channels_last", "frozen"])
@pytest.mark.parametrize("name", registry.OPTIMISERS)
def test_state_that_went_through_names_continues_with_the_same_bits(name, kind, steps):
    whole = small.network().float()
    told = config(name=name)
    if kind == "groups":
        told = config(name=name, groups={"2.*": {"lr_scale": 0.5}, "0.*": {"lr_scale": 0.0}, "5.*": {}})
    elif kind == "channels_last":
        whole.to(memory_format=torch.channels_last)
    elif kind == "frozen":
        whole[0].requires_grad_(False)
    optimiser = optim.build(told, whole)
    batches = small.batches(10)
    small.train(whole, optimiser, batches[:steps])

    other, its_optimiser = resumed(told, whole, optimiser)
    small.train(whole, optimiser, batches[steps:])
    small.train(other, its_optimiser, batches[steps:])

    for (tensor_name, expected), found in zip(whole.state_dict().items(), other.state_dict().values()):
        assert torch.equal(expected, found), tensor_name
    assert not torch.equal(whole[5].weight, small.network().float()[5].weight)


def test_state_takes_the_memory_format_of_its_parameter():
    network = small.network().float().to(memory_format=torch.channels_last)
    optimiser = optim.build(config(), network)
    weight = network[2].weight

    optim.load_state_by_name(optimiser, network, {"2.weight/momentum_buffer": torch.ones(weight.shape)}, {})

    assert optimiser.state[weight]["momentum_buffer"].stride() == weight.stride() != torch.ones(weight.shape).stride()


def test_state_of_another_shape_than_its_parameters_keeps_it():
    told = OptimConfig(name="torch.optim:Adafactor", lr=0.01)  # a row and a column for each matrix
    whole = nn.Linear(5, 3).double()
    optimiser = optim.build(told, whole)

    def train(network, its_optimiser):
        for _ in range(3):
            network.zero_grad()
            network(torch.ones(1, 5).double()).square().sum().backward()
            its_optimiser.step()

    train(whole, optimiser)
    tensors, scalars = optim.state_by_name(optimiser, whole)
    other = nn.Linear(5, 3).double()
    other.load_state_dict(whole.state_dict())
    its_optimiser = optim.build(told, other)
    optim.load_state_by_name(its_optimiser, other, {name: t.clone() for name, t in tensors.items()}, scalars)
    train(whole, optimiser)
    train(other, its_optimiser)

    assert torch.equal(whole.weight, other.weight)


def test_a_step_count_that_is_an_int_stays_one_and_a_tensor_stays_a_tensor():
    for name, kind in (("lamb", int), ("adamw", torch.Tensor)):
        network = small.network()
        optimiser = optim.build(config(name=name), network)
        small.train(network, optimiser, small.batches(1))

        other, its_optimiser = resumed(config(name=name), network, optimiser)

        count = its_optimiser.state[other[5].bias]["step"]
        assert isinstance(count, kind) and count == 1
