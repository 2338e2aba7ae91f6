"""The smallest network of each file of the zoo keeps the same promises; then what only one family promises."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distdl import models
from distdl.catalogue import ENTRIES
from distdl.errors import UserError
from distdl.models import zoo
from tests.zoo_counts import COUNTS

LARGEST = 12_000_000  # parameters: the others have their turn in tests/integration/test_zoo_networks.py
OTHERS = {"autoencoder", *(name for name, entry in ENTRIES.items() if entry.is_acoustic)}
SMALL = [name for name, (parameters, _) in COUNTS.items() if name not in OTHERS and parameters < LARGEST]
NAMES = list({ENTRIES[name].file: name for name in sorted(SMALL, key=lambda name: -COUNTS[name][0])}.values())
SIDES = {f"resnet{layers}_cifar": 16 for layers in (20, 32, 44, 56, 110)}  # else 32: as small as each network takes
SIDES |= {"mlp": 28, "perceptron": 1, "linear_regression": 1, "logistic_regression": 1, "gtsrb_mcdnn": 48}
every_network = pytest.mark.parametrize("name", NAMES)


def images(name: str, batch: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    channels = zoo.find(name).input_size[0]
    side = SIDES.get(name, 32)
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(1), dtype=dtype)


@cache
def on_meta(name: str) -> Any:
    with torch.device("meta"):
        return models.build(name, {})


def fresh(name: str, **args: object) -> Any:  # Any: the tests reach for submodules by name
    torch.manual_seed(0)
    return models.build(name, {"classes": 10, **args})


# --- all networks ---


@every_network
def test_a_training_step_gives_logits_and_finite_gradients_for_every_parameter_that_learns(name: str) -> None:
    network = fresh(name)

    logits = network(images(name))
    F.cross_entropy(logits, torch.tensor([3, 7])).backward()

    assert logits.shape == (2, 10)
    for parameter_name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name


@every_network
def test_memory_order_does_not_change_the_result_and_evaluation_repeats_itself(name: str) -> None:
    network = fresh(name).double().eval()
    batch = images(name, dtype=torch.float64)

    with torch.no_grad():
        first, second = network(batch), network(batch)
        buffers_after = {key: value.clone() for key, value in network.named_buffers()}
        channels_last = network.to(memory_format=torch.channels_last)(batch.to(memory_format=torch.channels_last))

    assert torch.equal(first, second)
    torch.testing.assert_close(channels_last, first)
    for key, value in network.named_buffers():
        assert torch.equal(value, buffers_after[key]), f"evaluation moved {key}"


@every_network
def test_blocks_are_called_once_each_in_their_order_and_none_lies_inside_another(name: str) -> None:
    network = on_meta(name)
    called: list[str] = []
    hooks = [
        network.get_submodule(block).register_forward_pre_hook(lambda *_, block=block: called.append(block))
        for block in models.blocks(network)
    ]

    network(images(name).to("meta"))
    for hook in hooks:
        hook.remove()

    assert called == models.blocks(network) != []
    assert not [(a, b) for a in called for b in called if b.startswith(f"{a}.")]
    assert not [block for block in called if type(network.get_submodule(block)).__module__.startswith("torch.")]


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet18", "resnet20_cifar"])
def test_bf16_autocast_gives_finite_bf16_logits(name: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        logits = fresh(name)(images(name))

    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["lenet5", "resnet18"])
def test_a_network_compiled_block_by_block_computes_the_same(name: str) -> None:
    network = fresh(name).eval()
    with torch.no_grad():
        expected = network(images(name))
        # fullgraph: no part of a block may be left out, and a block that isn't compiled at all is an error.
        for block in models.blocks(network)[:4]:  # both sorts: one keeps the shape, one halves the map
            network.get_submodule(block).compile(backend="eager", fullgraph=True)
        compiled = network(images(name))

    torch.testing.assert_close(compiled, expected)


@pytest.mark.parametrize("name", ["lenet5", "resnet20_cifar"])
def test_seed_decides_the_weights(name: str) -> None:
    first, second = fresh(name).state_dict(), fresh(name).state_dict()

    assert all(torch.equal(first[key], second[key]) for key in first)


# --- what is left out at random ---

OUTPUT_LAYERS = {"mlp": "output", "lenet5": "classifier.output", "resnet18": "fc", "resnet20_cifar": "fc"}
DROPPING: dict[str, dict[str, float]] = {name: {"dropout": 0.4} for name in OUTPUT_LAYERS}
DROPPING |= {name: {"dropout": 0.4, "stochastic_depth": 0.5} for name in ("resnet18", "resnet20_cifar")}
every_dropping_network = pytest.mark.parametrize("name", DROPPING)


def train_all_but_batch_norm(network: nn.Module) -> None:
    """What is random is on, and everything else is as in evaluation."""
    for module in network.modules():
        module.training = not isinstance(module, nn.BatchNorm2d)


@pytest.mark.parametrize("name", OUTPUT_LAYERS)
def test_dropout_zeroes_units_in_front_of_the_output_and_scales_the_others(name: str) -> None:
    network, seen = fresh(name, dropout=0.4).eval(), []
    network.get_submodule(OUTPUT_LAYERS[name]).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    network(images(name, batch=50))
    train_all_but_batch_norm(network)
    network(images(name, batch=50))

    units, dropped = seen
    kept = dropped != 0
    assert kept.sum() / (units != 0).sum() == pytest.approx(0.6, abs=0.05)
    torch.testing.assert_close(dropped[kept], units[kept] / 0.6)


@pytest.mark.parametrize("name, norm", [("resnet18", "bn2"), ("resnet50", "bn3"), ("resnet20_cifar", "bn2")])
def test_stochastic_depth_leaves_out_a_rows_residual_or_scales_it(name: str, norm: str) -> None:
    block, residuals = fresh(name, stochastic_depth=0.5).get_submodule("layer3.1"), []
    block.get_submodule(norm).register_forward_hook(lambda _, inputs, output: residuals.append(output))
    maps = torch.rand(100, block.conv1.in_channels, 2, 2)  # not negative: the last ReLU leaves them
    train_all_but_batch_norm(block)

    outputs = block(maps)

    scaled = F.relu(maps + residuals[0] / (1 - block.drop))
    left_out = (outputs == maps).flatten(1).all(1)
    torch.testing.assert_close(outputs[~left_out], scaled[~left_out])
    assert left_out.float().mean() == pytest.approx(block.drop, abs=0.2)


def test_stochastic_depth_grows_linearly_with_depth() -> None:
    network = fresh("resnet20_cifar", stochastic_depth=0.9)

    drops = [network.get_submodule(name).drop for name in models.blocks(network)]

    assert drops == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


@every_dropping_network
def test_what_is_dropped_changes_neither_names_nor_initial_weights_nor_evaluation(name: str) -> None:
    plain, dropping = fresh(name).eval(), fresh(name, **DROPPING[name]).eval()

    assert [key for key, _ in dropping.named_modules()] == [key for key, _ in plain.named_modules()]
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in dropping.state_dict().items())
    assert torch.equal(dropping(images(name)), plain(images(name)))


@every_dropping_network
def test_draws_come_from_the_global_generator_and_only_if_something_is_dropped(name: str) -> None:
    plain, dropping = fresh(name), fresh(name, **DROPPING[name])
    torch.manual_seed(3)
    before = torch.get_rng_state()

    plain(images(name))
    assert torch.equal(torch.get_rng_state(), before)

    first, other = dropping(images(name)), dropping(images(name))
    torch.manual_seed(3)
    assert torch.equal(dropping(images(name)), first) and not torch.equal(other, first)


@every_dropping_network
def test_a_network_compiled_block_by_block_drops_the_same(name: str) -> None:
    network = fresh(name, **DROPPING[name])
    torch.manual_seed(3)
    expected = network(images(name))

    for block in models.blocks(network)[:4]:
        network.get_submodule(block).compile(backend="eager", fullgraph=True)
    torch.manual_seed(3)

    torch.testing.assert_close(network(images(name)), expected)


@pytest.mark.parametrize("probability", [1.0, -0.1, "half", True])
def test_an_impossible_probability_is_refused_by_its_key(probability: object) -> None:
    for name, args in DROPPING.items():
        for key in args:
            with pytest.raises(UserError, match=rf"model\.args\.{key}: .* is not a number from 0 to below 1"):
                models.build(name, {key: probability})


# --- build ---


def test_unknown_model_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="unknown model 'resnet5O' - did you mean resnet50"):
        models.build("resnet5O", {})


def test_unknown_argument_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"model 'lenet5' takes no argument 'clases' - did you mean classes\?"):
        models.build("lenet5", {"clases": 10})


@pytest.mark.parametrize("classes", [0, -1, 2.5, "ten", True])
def test_an_impossible_number_of_classes_is_refused_by_its_key(classes: object) -> None:
    with pytest.raises(UserError, match=r"model\.args\.classes: .* is not a whole number of at least 1"):
        models.build("lenet5", {"classes": classes})


@every_network
def test_every_network_checks_its_number_of_classes(name: str) -> None:
    with pytest.raises(UserError, match=r"model\.args\.classes"):
        models.build(name, {"classes": 0})


def test_a_network_of_ones_own_is_built_by_module_and_attribute() -> None:
    network = models.build("torch.nn:Linear", {"in_features": 3, "out_features": 2})

    assert isinstance(network, nn.Linear)
    assert models.blocks(network) == []


def test_a_submodule_that_is_called_blocks_is_not_taken_for_the_method() -> None:
    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(nn.Linear(2, 2))

    assert models.blocks(Transformer()) == []


def test_a_function_that_returns_no_module_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_strangers_network.py").write_text("def network(): return 3\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(UserError, match=r"is a int, not a torch\.nn\.Module"):
        models.build("a_strangers_network:network", {})


# --- MLP ---


def test_mlp_computes_what_its_two_matrices_say() -> None:
    network = fresh("mlp", hidden=4, inputs=6, activation="sigmoid")
    batch = torch.randn(3, 1, 2, 3)
    weights = network.state_dict()

    hidden = torch.sigmoid(batch.reshape(3, 6) @ weights["hidden.linear.weight"].T + weights["hidden.linear.bias"])

    torch.testing.assert_close(network(batch), hidden @ weights["output.weight"].T + weights["output.bias"])


def test_mlp_names_the_activations_it_knows() -> None:
    with pytest.raises(UserError, match=r"unknown activation 'sigmoyd' - did you mean sigmoid\?"):
        models.build("mlp", {"activation": "sigmoyd"})


def test_mlp_says_how_many_values_an_image_has() -> None:
    with pytest.raises(UserError, match=r"takes 784 values per sample, these have 1024\n.*model.args.inputs=1024"):
        fresh("mlp")(torch.zeros(2, 1, 32, 32))


# --- LeNet-5 ---


def test_lenet5_tells_the_owner_of_28x28_digits_to_pad_them() -> None:
    with pytest.raises(UserError, match=r"32x32, these are 28x28\n.*\{pad: 2\}"):
        fresh("lenet5")(torch.zeros(2, 1, 28, 28))


def test_lenet5_starts_with_unit_variance_in_front_of_each_tanh() -> None:
    weights = fresh("lenet5").state_dict()

    assert weights["features.c5.weight"].std() == pytest.approx(400**-0.5, rel=0.03)
    assert weights["classifier.f6.weight"].std() == pytest.approx(120**-0.5, rel=0.03)
    assert not weights["classifier.f6.bias"].any()


# --- ResNet ---


def test_resnet50_has_the_names_and_shapes_of_torchvisions_weights() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in on_meta("resnet50").state_dict().items()}

    assert len(shapes) == 320
    assert {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "bn1.num_batches_tracked": (),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.running_var": (256,),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.5.bn3.bias": (1024,),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
    }.items() <= shapes.items()


def test_resnet18_projects_only_where_the_shape_changes() -> None:
    names = on_meta("resnet18").state_dict()

    assert {name.split(".downsample")[0] for name in names if "downsample" in name} == {
        "layer2.0",
        "layer3.0",
        "layer4.0",
    }


@pytest.mark.parametrize("name, strides", [("resnet50", (1, 2)), ("resnet50_v1", (2, 1))])
def test_a_bottlenecks_stride_is_in_the_3x3_in_v1_5_and_in_the_first_1x1_in_v1(
    name: str, strides: tuple[int, int]
) -> None:
    convolutions = [on_meta(name).get_submodule(f"layer2.0.{conv}") for conv in ("conv1", "conv2")]

    assert tuple(conv.stride[0] for conv in convolutions) == strides
    assert on_meta("resnet50").state_dict().keys() == on_meta(name).state_dict().keys()


def test_resnet_convolutions_start_with_variance_two_over_fan_out() -> None:
    weights = fresh("resnet18").state_dict()

    assert weights["layer4.0.conv1.weight"].std() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert (weights["layer4.0.bn2.weight"] == 1).all()


@pytest.mark.parametrize("name, norm", [("resnet18", "bn2"), ("resnet50", "bn3")])
def test_zero_init_residual_starts_each_block_as_the_identity(name: str, norm: str) -> None:
    network = fresh(name, zero_init_residual=True)
    block = network.get_submodule("layer1.1")
    maps = torch.rand(2, {"resnet18": 64, "resnet50": 256}[name], 4, 4)  # not negative, so the last ReLU leaves it

    assert torch.equal(block(maps), maps)
    assert all(not network.get_submodule(f"{unit}.{norm}").weight.any() for unit in models.blocks(network))


def test_resnet_says_which_argument_fits_grey_images() -> None:
    with pytest.raises(UserError, match=r"3 channel\(s\), these have 1\n.*model.args.channels=1"):
        fresh("resnet18")(torch.zeros(2, 1, 32, 32))
    assert fresh("resnet18", channels=1)(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


# --- ResNet for CIFAR ---


def test_cifar_shortcut_takes_every_second_pixel_and_appends_zero_channels() -> None:
    block = fresh("resnet20_cifar").get_submodule("layer2.0")
    nn.init.zeros_(block.bn2.weight)  # the residual is 0 and the block shows its shortcut
    maps = torch.rand(2, 16, 8, 8)

    shortcut = block(maps)

    assert shortcut.shape == (2, 32, 4, 4)
    assert torch.equal(shortcut[:, :16], maps[:, :, ::2, ::2])
    assert not shortcut[:, 16:].any()


@pytest.mark.parametrize("name, layers", [("resnet20_cifar", 20), ("resnet110_cifar", 110)])
def test_cifar_resnets_have_as_many_layers_as_their_names_say(name: str, layers: int) -> None:
    with_weights = [m for m in on_meta(name).modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    assert len(with_weights) == layers
