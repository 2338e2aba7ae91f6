"""The zoo's table: counts against published ones, metadata for every network, text and JSON."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distdl import models, registry
from distdl.catalogue import ENTRIES, counts
from distdl.errors import UserError
from distdl.models import zoo
from tests.zoo_counts import COUNTS


@pytest.fixture(scope="module")
def summary() -> list[dict[str, Any]]:
    return zoo.summary()


def test_every_registered_network_has_an_entry_and_a_known_size() -> None:
    assert list(COUNTS) == list(ENTRIES) == list(registry.MODELS)


@pytest.mark.parametrize("name", registry.MODELS)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    parameters, gigamacs = COUNTS[name]

    counted = zoo.count(name)

    assert counted.parameters == parameters
    assert counted.macs / 1e9 == pytest.approx(gigamacs, rel=0.005)
    assert counted == counts()[name], "`make docs` writes what is counted"


@pytest.mark.parametrize("name", ["lenet5", "resnet50", "resnet20_cifar"])
def test_layers_add_up_to_the_whole(name: str) -> None:
    layers, whole = zoo.layer_table(name), zoo.count(name)

    assert sum(layer.parameters for layer in layers) == whole.parameters
    assert sum(layer.macs for layer in layers) == whole.macs


def test_layer_table_shows_shapes_along_the_forward_pass() -> None:
    first, *_, last = zoo.layer_table("resnet50")

    # 112 * 112 pixels, 64 filters of 3 * 7 * 7
    assert first == zoo.Layer("conv1", "Conv2d", (64, 112, 112), 9_408, 112 * 112 * 64 * 3 * 7 * 7)
    assert last == zoo.Layer("fc", "Linear", (1000,), 2_049_000, 2_048_000)


def test_a_layer_that_is_called_twice_has_one_row_with_the_work_of_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(self.inner(x))

    assert zoo.layer_table(Twice(), (4,)) == [zoo.Layer("inner", "Linear", (4,), 16, 32)]


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("args", [{}, {"num_layers": 2, "bidirectional": True, "bias": False}])
def test_a_recurrences_steps_are_counted_without_taking_them(kind: type[nn.RNNBase], args: dict[str, Any]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleList([kind(4, 3, batch_first=True, **args)])

        def forward(self, features_BTF: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
            return self.inner[0](features_BTF)[0]

    with FlopCounterMode(display=False) as counter, torch.device("meta"):  # on the CPU it misses LSTMs
        Recurrent()(torch.zeros(1, 7, 4), torch.tensor([7]))

    (layer,), whole = zoo.layer_table(Recurrent(), (7, 4)), zoo.count(Recurrent(), (7, 4))

    assert layer.macs == whole.macs == counter.get_total_flops() // 2 > 0
    assert layer.output_shape == (7, 6 if args else 3)


def test_counting_a_network_leaves_it_as_it_was() -> None:
    network = models.build("resnet20_cifar", {"classes": 5})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    counted = zoo.count(network, (3, 64, 64))

    assert counted.parameters == 269_722 - 5 * 65
    assert counted.macs == pytest.approx(4 * zoo.count("resnet20_cifar").macs, rel=0.001)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_network_of_ones_own_is_counted_at_the_size_that_is_given() -> None:
    with pytest.raises(UserError, match="no usual input size"):
        zoo.count(nn.Flatten())
    assert zoo.count(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2)) == zoo.Count(26, 24)


@pytest.mark.parametrize("ask", [zoo.find, zoo.describe, zoo.count, zoo.layer_table])
def test_an_unknown_name_is_answered_with_the_nearest_one(ask: Callable[[str], object]) -> None:
    with pytest.raises(UserError, match=r"'lenet'.* - did you mean lenet5\b"):
        ask("lenet")


def test_summary_and_description_survive_json(summary: list[dict[str, Any]]) -> None:
    rows = json.loads(json.dumps(summary))
    one = json.loads(json.dumps(zoo.describe("lenet5")))

    row = next(row for row in rows if row["name"] == "lenet5")
    assert row == {key: value for key, value in one.items() if key not in ("blocks", "layers")}
    assert row == {
        "name": "lenet5",
        "file": "lenet",
        "family": "LeNet",
        "paper": {"title": "Gradient-based learning applied to document recognition", "year": 1998},
        "input_size": [1, 32, 32],
        "reference": {"top1": 0.9905, "top5": None, "dataset": "MNIST", "source": "the paper, section III.B"},
        "measured": {"top1": 0.9916, "top5": None, "dataset": "MNIST", "source": "configs/mnist/lenet5.yaml"},
        "parameters": 61_706,
        "macs": 416_520,
    }
    assert one["blocks"] == ["features", "classifier"]
    assert one["layers"][0] == {
        "name": "features.c1",
        "kind": "Conv2d",
        "output_shape": [6, 28, 28],
        "parameters": 156,
        "macs": 117_600,
    }


def test_table_has_a_line_for_each_network_in_aligned_columns(summary: list[dict[str, Any]]) -> None:
    header, *lines = zoo.format_table(summary).splitlines()

    assert [line.split()[0] for line in lines] == list(registry.MODELS)
    resnet50 = next(line for line in lines if line.startswith("resnet50 "))
    assert "25,557,032  4.089 G  3x224x224  76.13 %  92.86 %  ImageNet-1k" in resnet50
    assert (
        len({line.index(entry.paper.title) for line, entry in zip(lines, ENTRIES.values())} | {header.index("paper")})
        == 1
    )


def test_text_of_one_network_names_its_paper_and_its_layers() -> None:
    text = zoo.format_network(zoo.describe("lenet5"))

    assert text.startswith("lenet5: Gradient-based learning applied to document recognition, 1998\n61,706 parameters")
    assert "top-1 99.05 % on MNIST (the paper, section III.B)" in text
    assert text.splitlines()[-1].split() == ["classifier.output", "Linear", "10", "850", "840"]


def test_text_of_a_network_without_a_published_accuracy_leaves_it_out() -> None:
    assert "top-1" not in zoo.format_network(zoo.describe("overfeat_fast"))


def test_networks_are_chosen_by_pattern_and_family() -> None:
    assert [row["name"] for row in zoo.summary("resnet5*_v1")] == ["resnet50_v1"]
    assert [row["name"] for row in zoo.summary(family="vit")] == ["vit_small", "vit_base"]
    with pytest.raises(UserError, match=r"no family 'ResNets' in the zoo - did you mean resnet or resnext\?"):
        zoo.summary(family="ResNets")
    with pytest.raises(UserError, match=r"no network of the zoo is called 'xyz\*'"):
        zoo.summary("xyz*")
