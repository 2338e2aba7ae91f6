"""Weights that a network starts from: found, read, and put in by name.

    spec  --locate-->  a file on this machine  --read-->  name -> tensor  --put_into-->  the network

A spec is `run:NAME[@STEP]`, a run of one's own, or one of published.py's. Nothing is downloaded here, and nothing is
unpickled but tensors. Published names are those of the zoo's layers, so that few need a translation.
"""

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from distdl import models
from distdl.catalogue import ENTRIES
from distdl.checkpoint.load import at_step, evaluated_weights
from distdl.config.schema import ModelConfig
from distdl.errors import UserError
from distdl.run.folder import find, split_step
from distdl.trainer.published import locate

Weights = Mapping[str, Tensor]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # under which others' checkpoints keep the weights
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DistributedDataParallel, torch.compile, Lightning
AUXILIARY = re.compile(r"(aux\w*|AuxLogits)\.")  # heads that only training uses, in published weights
_COUNTERS = "num_batches_tracked"  # older files lack them, and nothing depends on them
_MOST_SHOWN = 4

# Published names that no module can have here. pretrainedmodels' BN-Inception: inception_3a_1x1.weight.
_RENAMED = ((re.compile(r"^(inception_\d[a-e])_"), r"\1."),)


def load_into(model: nn.Module, config: ModelConfig) -> str:
    """Puts `config.pretrained` into a fresh network; returns a line that says what came from where.

    Raises UserError if the file is not here, is no file of weights, or is of another network.
    """
    assert config.pretrained, "asked only where it is set"
    put = put_into(model, read(config.pretrained), config.pretrained, partial=config.partial)
    fresh = f"; new: {_listed(put.fresh)}" if put.fresh else ""
    return f"{len(put.taken)} tensors from {config.pretrained}{fresh}"


def read(spec: str) -> Weights:
    """Name -> tensor, on the CPU. Raises UserError as `load_into`."""
    kind, _, name = spec.partition(":")
    if kind == "run" and name:
        run, step = split_step(name)
        return evaluated_weights(at_step(find(run), step).tensors)
    return read_file(locate(spec))


# --- what is in them ---


def read_file(path: Path) -> Weights:
    """Of a safetensors file, or of what torch.save has written, as far as it holds nothing but tensors."""
    _check_download(path)
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # what others keep their command line in
                found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            "this file holds more than tensors, which could run code of a stranger's, or is no file of weights",
            where=str(path),
            fix="Where you trust it: torch.load(FILE, weights_only=False), then save_file of safetensors.torch.",
        ) from error
    except (OSError, SafetensorError, RuntimeError, EOFError) as error:
        raise UserError(f"can't read the weights: {error}", where=str(path)) from error
    except Exception as error:  # what the unpickler stumbled over in a file of something else
        raise UserError("this is no file of weights", where=str(path)) from error
    return _unprefixed(_unwrapped(found, path))


def _check_download(path: Path) -> None:
    """Raises UserError for what a download that failed leaves."""
    try:
        with path.open("rb") as file:
            begin = file.read(64).lstrip()
    except OSError as error:
        raise UserError(f"can't read the weights: {error.strerror}", where=str(path)) from error
    if not begin or begin.startswith(b"<"):
        what = "this is a web page, or the like, and no file of weights" if begin else "this file is empty"
        raise UserError(what, where=str(path), fix="Download the weights again.")


def _unwrapped(found: Any, path: Path) -> Weights:
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    tensors = (
        {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}
        if isinstance(found, Mapping)
        else {}
    )
    if not tensors:
        raise UserError("there are no tensors by name in this file", where=str(path))
    return tensors


def _unprefixed(weights: Weights) -> Weights:
    """Without what all names begin with because others wrapped the network, once or several times."""
    while prefix := next((each for each in _PREFIXES if all(name.startswith(each) for name in weights)), None):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


# --- into the network ---


@dataclass(frozen=True, slots=True)
class Put:
    taken: list[str]
    fresh: list[str]  # of the network, as it was initialised: a head for other classes, or what a partial file lacks


@torch.no_grad()
def put_into(model: nn.Module, weights: Weights, spec: str, *, partial: bool = False) -> Put:
    """Copies what fits by name and shape. The live tensors keep their device and memory format; what is published under
    other names is translated.

    Heads for another number of classes stay as they are, and those that only training uses may be in one of the two
    alone. Whatever else does not fit raises UserError, unless `partial`: then at least something has to fit.
    """
    live = model.state_dict(keep_vars=True)
    weights = {name if name in live else _renamed(name): tensor for name, tensor in weights.items()}
    taken = [name for name in live if name in weights and live[name].shape == weights[name].shape]
    head = _heads_for_other_classes(live, weights)
    missing = [name for name in live if not (name in weights or name.endswith(_COUNTERS) or AUXILIARY.match(name))]
    extra = [name for name in weights if name not in live and not AUXILIARY.match(name)]
    other_shape = [name for name in live if name in weights and name not in taken and name not in head]
    if not taken or ((missing or extra or other_shape) and not partial):
        raise _of_another_network(live, weights, {"missing": missing, "not in this network": extra}, other_shape, spec)
    if spoilt := [name for name in taken if not weights[name].isfinite().all()]:
        raise UserError(f"these weights hold NaN or infinity: {_listed(spoilt)}", where=spec)
    for name in taken:
        live[name].copy_(weights[name])
    return Put(taken, [name for name in live if name not in taken and not name.endswith(_COUNTERS)])


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def _heads_for_other_classes(live: Weights, weights: Weights) -> list[str]:
    """Weights and biases that differ in nothing but their first dimension, the same for all: of the last layer and of
    those that end the heads which only training uses."""
    unlike = [name for name in live if name in weights and live[name].shape != weights[name].shape]
    layers = {name.rpartition(".")[0] for name in unlike if not AUXILIARY.match(name)}
    only_first = all(live[name].shape[1:] == weights[name].shape[1:] and live[name].dim() > 0 for name in unlike)
    sizes = {(live[name].shape[0], weights[name].shape[0]) for name in unlike if live[name].dim() > 0}
    is_last = bool(unlike) and list(live)[-1] in unlike
    return unlike if only_first and len(layers) == 1 and len(sizes) == 1 and is_last else []


def _of_another_network(
    live: Weights, weights: Weights, names: Mapping[str, list[str]], other_shape: list[str], spec: str
) -> UserError:
    problems = [f"{len(each)} {what}: {_listed(each)}" for what, each in names.items() if each]
    if other_shape:
        shapes = [f"{name} {tuple(weights[name].shape)}, here {tuple(live[name].shape)}" for name in other_shape]
        problems.append(f"{len(other_shape)} of another shape: {_listed(shapes)}")
    n_fitting = sum(name in weights and live[name].shape == weights[name].shape for name in live)
    nearest, n_of_nearest = nearest_network(weights)
    fix = f"Set model.partial=true to take the {n_fitting} tensors that fit." if n_fitting else ""
    if n_of_nearest > n_fitting:
        fix = f"They are nearest to {nearest} ({n_of_nearest} of {len(weights)} tensors). {fix}".rstrip()
    return UserError(f"these weights are of another network: {'; '.join(problems)}", where=spec, fix=fix)


def nearest_network(weights: Weights) -> tuple[str, int]:
    """The network of the zoo that most tensors fit, by name and shape, and their number."""
    shapes = {(_renamed(name), tuple(tensor.shape)) for name, tensor in weights.items()}
    fitting = {}
    for name in ENTRIES:
        with torch.device("meta"):
            own = models.build(name, {}).state_dict()
        fitting[name] = len(shapes & {(key, tuple(tensor.shape)) for key, tensor in own.items()})
    best = max(fitting, key=lambda name: fitting[name])
    return best, fitting[best]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_MOST_SHOWN]) + (" ..." if len(names) > _MOST_SHOWN else "")
