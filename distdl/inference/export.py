"""`distdl export`: a run's weights as files that other programs load, with what they need to know to use them.

    safetensors   model.safetensors, with the zoo's names of layers
    torchvision   NAME.pth, a state dict for torchvision.models.NAME
    timm          model.safetensors and config.json, for timm.create_model("local-dir:FOLDER")

config.json beside them has the classes, the mean and standard deviation of pixels in 0..1, and the input's size.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from distdl import __version__, registry
from distdl.data.pictures.transforms import CenterCrop, Draws, Resize, Transform, build
from distdl.errors import UserError, did_you_mean
from distdl.inference.peers import OF_NO_MATTER, PEERS, Peer
from distdl.run.folder import write_json
from distdl.trainer.loaders import count_classes
from distdl.trainer.pretrained import AUXILIARY
from distdl.trainer.trained import Trained

_LANDSCAPE = (480, 640)
_KEEP = "Use --format safetensors, which keeps the names of the layers that the zoo has."


class Input(NamedTuple):
    """How an evaluation prepares an image. `crop`: which share of the resized image's side is kept in the middle."""

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float


def export(trained: Trained, form: str, to: Path | None = None) -> list[str]:
    """Writes the folder `to` (by default export-FORM in the run's); returns lines that say what is there and its use.

    Raises UserError for a network that the library doesn't have, or a folder that is there and not empty.
    """
    assert trained.folder, "a run is exported"
    peer = None if form == "safetensors" else _peer(trained, form)
    folder = to or trained.folder.path / f"export-{form}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("this is there already, and not empty", where=str(folder), fix="Name another one by --out.")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous().cpu() for name, tensor in trained.model.state_dict().items()}
    if peer:  # made without the heads that only training uses
        weights = {name: tensor for name, tensor in weights.items() if not AUXILIARY.match(name)}
    return _WRITERS[form](trained, peer, weights, folder)


def _peer(trained: Trained, library: str) -> Peer:
    name, known = trained.config.model.name, PEERS[library]
    if name not in known:
        raise UserError(
            f"{library} has no network with the layers of '{name}'{did_you_mean(name, known)}",
            where="command line --format",
            fix=_KEEP,
        )
    arguments = trained.config.model.args
    parameters = inspect.signature(registry.resolve(name, registry.MODELS, "model")).parameters
    for argument, value in arguments.items():
        if argument not in OF_NO_MATTER and value != parameters[argument].default:
            what = f"{library}'s {known[name].name} has no such '{argument}'"
            raise UserError(what, where=f"model.args.{argument}: {value}", fix=_KEEP)
    return known[name]


def _write_safetensors(trained: Trained, peer: Peer | None, weights: dict[str, Tensor], folder: Path) -> list[str]:
    save_file(weights, folder / "model.safetensors")
    write_json(folder / "config.json", _description(trained))
    return [f"{folder}: model.safetensors, config.json", f"model.pretrained={folder}/model.safetensors starts from it"]


def _write_torchvision(trained: Trained, peer: Peer | None, weights: dict[str, Tensor], folder: Path) -> list[str]:
    assert peer
    file = folder / f"{peer.name}.pth"
    torch.save(weights, file)
    write_json(folder / "config.json", {**_description(trained), "network": f"torchvision.models.{peer.name}"})
    arguments = "".join(f", {name}={value!r}" for name, value in peer.arguments.items())
    make = f'model = torchvision.models.get_model("{peer.name}", num_classes={_n_classes(trained)}{arguments})'
    return [f"{folder}: {file.name}, config.json", make, f'model.load_state_dict(torch.load("{file}"))']


def _write_timm(trained: Trained, peer: Peer | None, weights: dict[str, Tensor], folder: Path) -> list[str]:
    """timm's layout of a folder, which is that of the Hugging Face hub."""
    assert peer
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = {"architecture": peer.name, "num_classes": _n_classes(trained)}
    if peer.arguments:
        config["model_args"] = dict(peer.arguments)
    if trained.classes:
        config["label_names"] = trained.classes
    if prepared := input_of(trained):
        config["pretrained_cfg"] = {
            "input_size": [prepared.channels, prepared.height, prepared.width],
            "mean": prepared.mean,
            "std": prepared.std,
            "crop_pct": prepared.crop,
            "interpolation": "bilinear",
            "num_classes": _n_classes(trained),
        }
    write_json(folder / "config.json", config)
    return [f"{folder}: model.safetensors, config.json", f'timm.create_model("local-dir:{folder}", pretrained=True)']


_Write = Callable[[Trained, Peer | None, dict[str, Tensor], Path], list[str]]
_WRITERS: dict[str, _Write] = {
    "safetensors": _write_safetensors,
    "torchvision": _write_torchvision,
    "timm": _write_timm,
}


def _description(trained: Trained) -> dict[str, Any]:
    assert trained.folder
    prepared = input_of(trained)
    sound = trained.config.data.sound
    of_sounds = sound and {
        "rate_hz": sound.rate_hz,
        "transforms": next((split.transforms for split in trained.config.data.eval_sets.values()), []),
        "vocabulary": trained.config.task.args.get("vocabulary"),
    }
    return {
        "network": trained.config.model.name,
        "args": trained.config.model.args,
        "classes": trained.classes,
        "input": prepared._asdict() if prepared else of_sounds,
        "run": trained.folder.name,
        "step": trained.step,
        "averaged_weights": trained.averaged_weights,
        "written_by": f"distdl {__version__}",
    }


def _n_classes(trained: Trained) -> int | None:
    return count_classes(trained.model, trained.config)


def input_of(trained: Trained) -> Input | None:
    """As the transforms of the first evaluation split make it; None without one, if the size is not known, or of
    sounds."""
    if trained.config.data.sound:
        return None
    for split in trained.config.data.eval_sets.values():
        with registry.using(trained.own_code):
            transforms, normalise = build(split.transforms, "data.eval")
        height, width = _LANDSCAPE
        n_channels = len(normalise.mean)
        images = [np.zeros((*size, n_channels), np.uint8) for size in ((height, width), (width, height))]
        for transform in transforms:
            images = [transform(image, Draws(0)) for image in images]
        shape = trained.image_shape or (images[0].shape if images[0].shape == images[1].shape else None)
        if shape is None:
            return None
        share = _share_kept(transforms)
        return Input(n_channels, shape[0], shape[1], tuple(normalise.mean), tuple(normalise.std), share)
    return None


def _share_kept(transforms: Sequence[Transform]) -> float:
    """1 where nothing is cut off after the resize."""
    resized = next((min(each.target(*_LANDSCAPE)) for each in transforms if isinstance(each, Resize)), 0)
    cropped = next((each.size[0] for each in transforms if isinstance(each, CenterCrop)), resized)
    return round(cropped / resized, 4) if resized else 1.0
