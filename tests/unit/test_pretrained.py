"""Weights that a network starts from: where they are looked for, what is taken of them, and what is said otherwise."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import update_bn

from distdl import models
from distdl.catalogue import ENTRIES
from distdl.config.schema import ModelConfig
from distdl.errors import UserError
from distdl.trainer import batch_norm, optim, pretrained
from tests.unit.test_optim import config as optim_config

NAME = "resnet20_cifar"


def network(seed: int = 0, **args: Any) -> nn.Module:
    torch.manual_seed(seed)
    return models.build(NAME, args)


def told(spec: object, **more: Any) -> ModelConfig:
    return ModelConfig(name=NAME, pretrained=str(spec), **more)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    path = tmp_path / "published.safetensors"
    save_file(network(seed=1).state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def few_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which the nearest one is looked for."""
    monkeypatch.setattr(pretrained, "ENTRIES", {name: ENTRIES[name] for name in (NAME, "lenet5", "vgg16", "vgg16_bn")})


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- what is taken ---


def test_every_tensor_comes_from_the_file(published: Path) -> None:
    model = network()

    line = pretrained.load_into(model, told(published))

    expected = network(seed=1).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert line == f"{len(expected)} tensors from {published}"


def test_a_head_for_other_classes_stays_new(published: Path) -> None:
    model, before = network(classes=3), network(classes=3).state_dict()

    line = pretrained.load_into(model, told(published))

    after, expected = model.state_dict(), network(seed=1).state_dict()
    assert line.endswith("; new: fc.weight, fc.bias")
    assert all(torch.equal(after[name], before[name]) for name in ("fc.weight", "fc.bias"))
    assert all(torch.equal(value, expected[name]) for name, value in after.items() if not name.startswith("fc."))


def test_another_network_is_refused_by_what_does_not_fit_and_with_the_name_of_its_own(tmp_path: Path) -> None:
    path, other = tmp_path / "other.safetensors", models.build("lenet5", {})
    save_file(other.state_dict(), path)

    with pytest.raises(UserError) as refused:
        pretrained.load_into(network(), told(path))

    assert "another network: " in str(refused.value) and "missing: conv1.weight, bn1.weight" in str(refused.value)
    assert "10 not in this network: classifier.f6.bias" in str(refused.value)
    assert "nearest to lenet5 (10 of 10 tensors)" in str(refused.value)


def test_tensors_that_fit_can_be_taken_alone(published: Path) -> None:
    model = network(channels=1)
    with pytest.raises(UserError, match=r"of another shape: conv1.weight \(16, 3, 3, 3\), here \(16, 1, 3, 3\)") as no:
        pretrained.load_into(model, told(published))
    assert "model.partial=true" in str(no.value)

    line = pretrained.load_into(model, told(published, partial=True))

    assert line.endswith("; new: conv1.weight")
    assert torch.equal(model.get_parameter("fc.weight"), network(seed=1).get_parameter("fc.weight"))


def test_partial_weights_of_which_none_fits_are_refused(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(2)}, tmp_path / "none.safetensors")

    with pytest.raises(UserError, match="another network"):
        pretrained.load_into(network(), told(tmp_path / "none.safetensors", partial=True))


def test_heads_that_only_training_uses_may_be_too_many_in_the_file() -> None:
    with_auxiliary = network(seed=1).state_dict() | {
        "aux1.fc1.weight": torch.zeros(3),
        "AuxLogits.fc.bias": torch.zeros(1),
    }

    assert pretrained.put_into(network(), with_auxiliary, "file").fresh == []


def test_heads_of_training_may_be_missing_and_may_be_for_other_classes() -> None:
    def googlenet(**args: Any) -> nn.Module:
        return models.build("googlenet", {"auxiliary": True, **args})

    with_heads, without = googlenet().state_dict(), googlenet(auxiliary=False).state_dict()

    fresh_heads = pretrained.put_into(googlenet(), without, "file").fresh
    other_classes = pretrained.put_into(googlenet(classes=10), with_heads, "file").fresh

    assert len(fresh_heads) > 4 and all(name.startswith("aux") for name in fresh_heads)
    assert other_classes == [
        f"{layer}.{part}" for layer in ("aux1.fc2", "aux2.fc2", "fc") for part in ("weight", "bias")
    ]


def test_names_that_no_module_can_have_are_translated() -> None:
    """pretrainedmodels writes inception_3a_1x1.weight."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in models.build("bn_inception", {}).state_dict().items()}
    theirs = {
        name.replace(".", "_", 1) if name.startswith("inception_") else name: torch.full(shape, 0.5)
        for name, shape in shapes.items()
        if "num_batches" not in name
    }
    ours = models.build("bn_inception", {})

    put = pretrained.put_into(ours, theirs, "bn_inception-52deb4733.pth")

    assert "inception_3a_1x1.weight" in theirs and not put.fresh
    assert all((value == 0.5).all() for name, value in ours.state_dict().items() if "num_batches" not in name)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_what_others_save_around_the_weights_is_taken_off(tmp_path: Path, prefix: str, wrapper: str | None) -> None:
    weights = {prefix + name: value for name, value in network(seed=1).state_dict().items()}
    torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, tmp_path / "theirs.pth")

    pretrained.load_into(model := network(), told(tmp_path / "theirs.pth"))

    assert torch.equal(model.get_parameter("conv1.weight"), network(seed=1).get_parameter("conv1.weight"))


def test_a_file_that_could_run_code_is_not_opened(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "trained_by": Path("x")}, tmp_path / "object.pth")

    with pytest.raises(UserError, match="holds more than tensors"):
        pretrained.read(str(tmp_path / "object.pth"))


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth", "empty.pth"])
def test_a_damaged_file_is_named(tmp_path: Path, published: Path, name: str) -> None:
    torch.save(network().state_dict(), tmp_path / "whole.pth")
    whole = published if name.endswith("safetensors") else tmp_path / "whole.pth"
    (tmp_path / name).write_bytes(b"" if name.startswith("empty") else whole.read_bytes()[:5000])

    with pytest.raises(UserError, match=name):
        pretrained.read(str(tmp_path / name))


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "note.pth").write_text("hello")
    torch.save({0: torch.zeros(3)}, tmp_path / "numbered.pth")
    save_file({}, tmp_path / "empty.safetensors")
    (tmp_path / "page.safetensors").write_text("<!doctype html><html>not found</html>")

    said = {"note.pth": "no file of weights", "numbered.pth": "no tensors", "empty.safetensors": "no tensors"}
    said |= {"page.safetensors": "a web page"}
    for name, what in said.items():
        with pytest.raises(UserError, match=rf"{name}: .*{what}"):
            pretrained.read(str(tmp_path / name))


def test_a_command_line_beside_the_weights_is_no_code(tmp_path: Path) -> None:
    """As torchvision's references and timm's train.py save it."""
    told = {"model": network(seed=1).state_dict(), "args": argparse.Namespace(lr=0.1)}
    torch.save(told, tmp_path / "checkpoint.pth")

    assert pretrained.read(str(tmp_path / "checkpoint.pth")).keys() == network().state_dict().keys()


def test_weights_that_hold_nan_are_refused() -> None:
    spoilt = network(seed=1).state_dict()
    spoilt["conv1.weight"][0, 0, 0, 0] = torch.nan

    with pytest.raises(UserError, match=r"file: these weights hold NaN or infinity: conv1\.weight"):
        pretrained.put_into(network(), spoilt, "file")


# --- what stays as it is ---


def frozen(*patterns: str, groups: dict[str, Any] | None = None) -> nn.Module:
    model = network()
    optim.freeze(model, optim_config(groups=groups or {}), patterns)
    batch_norm.freeze_statistics(model)
    return model


def test_all_but_the_head_is_frozen_for_a_linear_probe() -> None:
    model = frozen("*", "!fc.*")

    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["fc.weight", "fc.bias"]


def test_a_frozen_batch_norm_keeps_its_statistics_when_others_are_estimated_anew() -> None:
    model = frozen("layer1.*").train()
    before = {name: value.clone() for name, value in model.named_buffers()}

    update_bn([5 + torch.randn(4, 3, 32, 32)], model)

    moved = {name for name, value in model.named_buffers() if not torch.equal(value, before[name])}
    assert moved and not any(name.startswith("layer1.") for name in moved)


def test_a_frozen_batch_norm_keeps_its_statistics_in_training() -> None:
    model = frozen("layer1.*").train()
    before = {name: value.clone() for name, value in model.named_buffers()}

    model(torch.randn(4, 3, 16, 16))

    moved = {name.partition(".")[0] for name, value in model.named_buffers() if not torch.equal(value, before[name])}
    assert moved == {"bn1", "layer2", "layer3"}


def test_a_pattern_that_fits_nothing_is_refused_with_what_there_is() -> None:
    with pytest.raises(UserError, match=r"model.freeze: 'layer9.\*': fits no parameter") as refused:
        frozen("layer9.*")

    assert "conv1, bn1, layer1, layer2, layer3, fc" in str(refused.value)
