"""A run's weights for other programs: names, classes and how images are prepared."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distdl import models
from distdl.config import load
from distdl.errors import UserError
from distdl.inference.export import Input, export, input_of
from distdl.run.folder import RunFolder
from distdl.trainer.trained import Trained, of_config

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLASSES = ["ant", "bee"]


def trained(
    tmp_path: Path, name: str = "resnet18", transforms: list[dict[str, Any]] | None = None, **args: Any
) -> Trained:
    prepared = [{"resize": 256}, {"center_crop": 224}] if transforms is None else transforms
    split = {"shards": "nowhere", "transforms": [*prepared, {"normalise": {"mean": MEAN, "std": STD}}]}
    told = {
        "model": {"name": name, "args": {"classes": 2, **args}},
        "data": {"train": split, "eval": split},
        "train": {"global_batch": 8, "epochs": 1, "device": "cpu"},
        "optim": {"lr": 0.1},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(told))
    torch.manual_seed(0)
    result = of_config(load(tmp_path / "run.yaml").config, models.build(name, {"classes": 2, **args}).state_dict())
    result.folder, result.step = RunFolder(tmp_path / "run"), 7
    result.folder.path.mkdir(exist_ok=True)
    result.folder.identity.write_text(json.dumps({"classes": CLASSES}))
    return result


def test_safetensors_keep_the_zoos_names_and_say_how_to_use_them(tmp_path: Path) -> None:
    run = trained(tmp_path, "resnet20_cifar")

    lines = export(run, "safetensors")

    folder = tmp_path / "run/export-safetensors"
    assert load_file(folder / "model.safetensors").keys() == run.model.state_dict().keys()
    told = json.loads((folder / "config.json").read_text())
    assert (told["network"], told["args"], told["classes"]) == ("resnet20_cifar", {"classes": 2}, CLASSES)
    assert told["input"] == {
        **{"channels": 3, "height": 224, "width": 224, "crop": 0.875},
        **{"mean": MEAN, "std": STD},
    }
    assert (told["run"], told["step"]) == ("run", 7)
    assert lines[-1] == f"model.pretrained={folder}/model.safetensors starts from it"


def test_torchvision_gets_a_state_dict_under_its_networks_name(tmp_path: Path) -> None:
    run = trained(tmp_path)

    lines = export(run, "torchvision", tmp_path / "there")

    weights = torch.load(tmp_path / "there/resnet18.pth", weights_only=True)
    assert torch.equal(weights["fc.weight"], run.model.get_parameter("fc.weight"))
    assert lines[1] == 'model = torchvision.models.get_model("resnet18", num_classes=2)'
    assert json.loads((tmp_path / "there/config.json").read_text())["network"] == "torchvision.models.resnet18"


def test_timm_gets_a_folder_in_the_layout_of_its_hub(tmp_path: Path) -> None:
    export(trained(tmp_path), "timm", tmp_path / "there")

    told = json.loads((tmp_path / "there/config.json").read_text())
    assert (told["architecture"], told["num_classes"], told["label_names"]) == ("resnet18", 2, CLASSES)
    assert told["pretrained_cfg"]["input_size"] == [3, 224, 224]
    assert (told["pretrained_cfg"]["mean"], told["pretrained_cfg"]["crop_pct"]) == (MEAN, 0.875)


@pytest.mark.parametrize("form", ["torchvision", "timm"])
def test_a_network_that_the_library_lacks_is_refused_with_the_form_that_does(tmp_path: Path, form: str) -> None:
    with pytest.raises(UserError, match=f"{form} has no network with the layers of 'resnet20_cifar'") as refused:
        export(trained(tmp_path, "resnet20_cifar"), form)

    assert "--format safetensors" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "args"),
    [("resnet18", {"channels": 1}), ("mobilenet_v3_small", {"width": 0.5})],
)
def test_a_network_whose_arguments_the_library_lacks_is_refused(tmp_path: Path, name: str, args: Any) -> None:
    with pytest.raises(UserError, match=r"torchvision's \w+ has no such") as refused:
        export(trained(tmp_path, name, **args), "torchvision", tmp_path / "there")

    assert refused.value.where == f"model.args.{next(iter(args))}: {next(iter(args.values()))}"


def test_heads_that_only_training_uses_stay_behind(tmp_path: Path) -> None:
    export(trained(tmp_path, "googlenet", auxiliary=True, dropout=0.4), "torchvision", tmp_path / "there")

    weights = torch.load(tmp_path / "there/googlenet.pth", weights_only=True)
    assert "fc.weight" in weights and not any(name.startswith("aux") for name in weights)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/mine.txt").touch()

    with pytest.raises(UserError, match="there already, and not empty"):
        export(trained(tmp_path, "resnet20_cifar"), "safetensors", tmp_path / "there")


@pytest.mark.parametrize(
    ("transforms", "size", "crop"),
    [
        ([{"resize": 256}, {"center_crop": 224}], (224, 224), 0.875),
        ([{"resize": [32, 48]}], (32, 48), 1.0),
        ([{"center_crop": 96}], (96, 96), 1.0),
        ([{"resize": 64}], None, None),  # each image keeps its own ratio of sides
    ],
)
def test_the_inputs_size_is_what_the_transforms_make_of_any_image(
    tmp_path: Path, transforms: list[dict[str, Any]], size: tuple[int, int] | None, crop: float
) -> None:
    run = trained(tmp_path, "resnet20_cifar", transforms)
    found = input_of(run)
    assert run.folder
    run.folder.add_to_identity(image=[40, 30, 3])  # as a run notes it

    assert input_of(run) == Input(3, 40, 30, tuple(MEAN), tuple(STD), crop or 1.0)
    assert found == (Input(3, *size, tuple(MEAN), tuple(STD), crop) if size else None)
