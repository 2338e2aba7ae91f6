"""Networks of the zoo beside those of torchvision and timm: with the same weights they compute the same."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distdl import models
from distdl.catalogue import ENTRIES, counts
from distdl.inference.export import export
from distdl.inference.peers import PEERS, Peer
from tests.unit.test_export import CLASSES, trained

pytestmark = pytest.mark.needs("libraries")
LARGEST_DIFFERENCE = 1e-4  # of logits, over the largest logit
PAIRS = [(library, name) for library, known in PEERS.items() for name in known]
# The smallest of each library and file; the others have their turn in the long grids.
SOME_PAIRS = list(
    {
        (library, ENTRIES[name].file): (library, name)
        for library, name in sorted(PAIRS, key=lambda p: -counts()[p[1]][0])
    }.values()
)


@pytest.fixture(scope="session")
def libraries() -> dict[str, Any]:
    """torchvision and timm. The operators of torchvision's compiled part, which isn't used, need only be declared."""
    sys.path.append(str(Path(__file__).parents[2] / ".libraries"))
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm
    import torchvision

    return {"torchvision": torchvision.models.get_model, "timm": timm.create_model, "keep": operators}


def randomised(network: nn.Module) -> nn.Module:
    """Also what a fresh network has as zeros and ones: biases, scales, and the statistics of batch norms."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.8, 1.2, generator=generator)
        elif tensor.is_floating_point() and tensor.dim() <= 1:
            tensor.add_(torch.empty_like(tensor).normal_(0, 0.05, generator=generator))
    return network.eval()


def difference(ours: nn.Module, theirs: nn.Module, size: tuple[int, int, int]) -> float:
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs(images)
        return float((ours(images) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("library", "name"), SOME_PAIRS)
def test_logits_are_those_of_the_other_library(libraries: dict[str, Any], library: str, name: str) -> None:
    peer = PEERS[library][name]
    theirs = randomised(libraries[library](peer.name, **peer.arguments))
    with torch.device("meta"):
        ours = models.build(name, {}).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)

    assert difference(ours, theirs, ENTRIES[name].input_size) < LARGEST_DIFFERENCE


@pytest.mark.matrix
@pytest.mark.parametrize(("library", "name"), [pair for pair in PAIRS if pair not in SOME_PAIRS])
def test_so_they_are_of_all_others(libraries: dict[str, Any], library: str, name: str) -> None:
    test_logits_are_those_of_the_other_library(libraries, library, name)


def from_torchvision(libraries: dict[str, Any], folder: Path, peer: Peer) -> nn.Module:
    network: nn.Module = libraries["torchvision"](peer.name, num_classes=len(CLASSES), **peer.arguments)
    network.load_state_dict(torch.load(folder / f"{peer.name}.pth", weights_only=True), strict=True)
    return network


def from_timm(libraries: dict[str, Any], folder: Path, peer: Peer) -> nn.Module:
    network: nn.Module = libraries["timm"](f"local-dir:{folder}", pretrained=True)
    return network


@pytest.mark.parametrize(
    ("library", "name", "load"), [("torchvision", "resnet18", from_torchvision), ("timm", "resnet18", from_timm)]
)
def test_an_export_is_loaded_there_and_computes_the_same(
    libraries: dict[str, Any], tmp_path: Path, library: str, name: str, load: Any
) -> None:
    run = trained(tmp_path, name)
    randomised(run.model)
    export(run, library, tmp_path / "there")

    theirs = load(libraries, tmp_path / "there", PEERS[library][name]).eval()

    assert difference(run.model, theirs, ENTRIES[name].input_size) < LARGEST_DIFFERENCE
    told = json.loads((tmp_path / "there/config.json").read_text())
    assert CLASSES in (told.get("classes"), told.get("label_names"))
