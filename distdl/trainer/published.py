"""Files of weights that others have published: where they are on this machine, and `distdl fetch`, which brings them.

    a path (.safetensors, or what torch.save has written)      below the working folder, or paths.data
    torchvision:NAME, timm:NAME, https://... or s3://...       in PRETRAINED, or where those libraries keep theirs

Workers look for them on the machine alone: on many clusters only the login nodes have a network. Free of torch.
"""

import argparse
import hashlib
import os
import re
from pathlib import Path

from distdl.catalogue import ENTRIES
from distdl.config import addresses, load
from distdl.config.schema import RemoteConfig
from distdl.data.remote.listing import open_place
from distdl.errors import EXIT_DONE, UserError
from distdl.run import places
from distdl.run.places import located

PRETRAINED = "pretrained"  # below paths.data, or data/ here
TORCHVISION = "https://download.pytorch.org/models"
HUGGING_FACE = "https://huggingface.co"  # or $HF_ENDPOINT, as their own programs have it
_PART_BYTES = 8 << 20

# torchvision's weights IMAGENET1K_V1; each name ends in the first digits of the file's SHA-256.
_FIRST_WEIGHTS = [
    "alexnet-owt-7be5be79",
    "vgg11-8a719046",
    "vgg13-19584684",
    "vgg16-397923af",
    "vgg19-dcbb9e9d",
    "vgg11_bn-6002323d",
    "vgg13_bn-abd245e5",
    "vgg16_bn-6c64b313",
    "vgg19_bn-c79401a0",
    "googlenet-1378be20",
    "inception_v3_google-0cc3c7bd",
    "resnet18-f37072fd",
    "resnet34-b627a593",
    "resnet50-0676ba61",
    "resnet101-63fe2227",
    "resnet152-394f9c45",
    "wide_resnet50_2-95faca4d",
    "resnext50_32x4d-7cdf4587",
    "resnext101_32x8d-8ba56ff5",
    "resnext101_64x4d-173b62eb",
    "convnext_tiny-983f1562",
    "convnext_small-0c510722",
    "convnext_base-6075fbad",
    "efficientnet_b0_rwightman-7f5810bc",
    "mobilenet_v3_large-8738ca79",
    "mobilenet_v3_small-047dcff4",
    "regnet_y_400mf-c65dace8",
    "regnet_y_800mf-1b27b58c",
    "regnet_y_1_6gf-b11a554e",
    "regnet_y_3_2gf-b5a9779c",
    "regnet_y_8gf-d0d0e4a8",
]


# --- where they are ---


def locate(spec: str) -> Path:
    """The file that a spec other than a run's means. Raises UserError where it is not here, or several are."""
    kind, _, name = spec.partition(":")
    if kind == "torchvision" and name:
        return _only_one(spec, _with_name(name, folder()) or _with_name(name, _torch_hub()))
    if kind == "timm" and name:
        return _only_one(spec, _fetched_from_timm(name) or _in_hugging_face_hub(name) or _with_name(name, _torch_hub()))
    if addresses.is_address(spec):
        return _only_one(spec, [path for path in [folder() / _file_name(spec)] if path.is_file()])
    path = located(spec).expanduser()
    if path.is_dir():
        raise UserError("this is a folder", where=spec, fix="Name a file of weights, or a run as run:NAME[@STEP].")
    if not path.is_file():
        raise UserError("there is no such file", where=spec, fix="Or name torchvision:NAME, timm:NAME or run:NAME.")
    return path


def folder() -> Path:
    """What `distdl fetch` fills."""
    return (places.data_root() or Path("data")) / PRETRAINED


def _torch_hub() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub" / "checkpoints"


def _hugging_face_hub() -> Path:
    home = os.environ.get("HF_HOME", os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/huggingface")
    return Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()


def _with_name(name: str, where: Path) -> list[Path]:
    """resnet50 is resnet50-0676ba61.pth, inception_v3 inception_v3_google-0cc3c7bd.pth, and vgg16 not vgg16_bn."""
    exact = where / f"{name}.pth"
    found = [exact] if exact.is_file() else sorted(where.glob(f"{name}-*.pth"))
    return found or [path for path in sorted(where.glob(f"{name}_*.pth")) if not _is_of_another(path.name, name)]


def _is_of_another(file: str, name: str) -> bool:
    longer = file.partition("-")[0]
    return longer != name and longer in ENTRIES


def _fetched_from_timm(name: str) -> list[Path]:
    exact = folder() / f"timm-{name}.safetensors"
    return [exact] if exact.is_file() else sorted(folder().glob(f"timm-{name}.*.safetensors"))


def _in_hugging_face_hub(name: str) -> list[Path]:
    """timm's names end in how they were trained (resnet50.a1_in1k): without that, all of the network's are meant."""
    folders = [_hugging_face_hub() / f"models--timm--{name}"]
    if not folders[0].is_dir():
        folders = sorted(_hugging_face_hub().glob(f"models--timm--{name}.*"))
    files = [
        next(iter(sorted(each.glob(f"snapshots/*/{file}"), key=lambda path: path.stat().st_mtime)[::-1]), None)
        for each in folders
        for file in ("model.safetensors", "pytorch_model.bin")
    ]
    return [path for path in files if path]


def _only_one(spec: str, found: list[Path]) -> Path:
    if not found:
        fix = f"`distdl fetch CONFIG`, where there is a network, brings them to {folder()}/."
        raise UserError("these weights are not on this machine", where=addresses.shown(spec), fix=fix)
    if len({path.parent for path in found}) > 1 or len({path.suffix for path in found}) < len(found):
        shown = ", ".join(str(path) for path in found)
        raise UserError("several files are meant by it", where=spec, fix=f"Name one of: {shown}.")
    return found[0]


# --- bringing them here ---


def fetch_of_config(arguments: argparse.Namespace) -> int:
    """Raises UserError for a mistake in the config, and for what can't be brought."""
    config = load(arguments.config, arguments.overrides).config
    places.use(config.paths)
    spec = config.model.pretrained
    if spec is None:
        print(f"{arguments.config} names no weights to start from (model.pretrained): there is nothing to fetch")
    elif spec.startswith("run:") or not _can_be_fetched(spec):
        print(f"model.pretrained: {spec} is a {'run' if spec.startswith('run:') else 'file'} of your own")
    else:
        print(fetch(spec))
    return EXIT_DONE


def fetch(spec: str) -> Path:
    """The file that a spec means, which is brought here if it is not. Raises UserError where that fails."""
    try:
        return locate(spec)
    except UserError as error:
        if "not on this machine" not in error.what:
            raise
    address, name, digest = _published(spec)
    where, _, file = address.rpartition("/")
    store = open_place(where, RemoteConfig(deadline="1 min"))
    path = folder() / name
    part = path.with_name(f".{name}.{os.getpid()}.part")
    try:
        size = store.size(file)
        print(f"fetching {addresses.shown(address)} ({size / 1e6:,.1f} MB)", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        found = hashlib.sha256()
        with part.open("wb") as out:
            for begin in range(0, size, _PART_BYTES):
                content = store.read(file, begin, min(size, begin + _PART_BYTES))
                found.update(content)
                out.write(content)
            os.fsync(out.fileno())
        if not found.hexdigest().startswith(digest):
            what = f"its SHA-256 begins with {found.hexdigest()[: len(digest)]} and not {digest}"
            raise UserError(f"what came is damaged, or not the file that was published: {what}", where=address)
        part.rename(path)
    except OSError as error:
        raise UserError(f"can't be kept: {error.strerror}", where=str(path)) from error
    finally:
        store.close()
        part.unlink(missing_ok=True)
    return path


def _can_be_fetched(spec: str) -> bool:
    return spec.startswith(("torchvision:", "timm:")) or addresses.is_address(spec)


def _published(spec: str) -> tuple[str, str, str]:
    """Its address, the name to keep it by, and how its SHA-256 begins, as far as that is known."""
    kind, _, name = spec.partition(":")
    if kind == "timm":
        if "." not in name:
            fix = f"Say how they were trained, as timm:{name}.TAG; the tags are listed at huggingface.co/timm."
            raise UserError("timm has several weights of this network", where=spec, fix=fix)
        host = os.environ.get("HF_ENDPOINT", HUGGING_FACE).rstrip("/")
        return f"{host}/timm/{name}/resolve/main/model.safetensors", f"timm-{name}.safetensors", ""
    if kind == "torchvision":
        first = [each for each in _FIRST_WEIGHTS if each.startswith((f"{name}-", f"{name}_"))]
        first = [each for each in first if not _is_of_another(each, name)]
        file = name if re.search(r"-[0-9a-f]{8,}$", name) else next(iter(first), "")
        if not file:
            fix = "Name the file without its ending, as torchvision:resnet50-11ad3fa6."
            raise UserError("which file of torchvision's this is, is not known here", where=spec, fix=fix)
        return f"{TORCHVISION}/{file}.pth", f"{file}.pth", file.rpartition("-")[2]
    address, _, said = spec.partition("#")
    return address, _file_name(spec), said.removeprefix("sha256=")


def _file_name(address: str) -> str:
    return address.partition("#")[0].partition("?")[0].rpartition("/")[2]
