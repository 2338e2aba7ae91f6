"""One checkpoint folder: safetensors files, and a manifest that lists logical tensors and a checksum for every file.

A logical tensor has a name such as "model/conv1.weight", a dtype, a global shape, and slices that say where its parts
lie (file, byte offset, place in the whole). Any engine and world size can therefore read what another wrote; data
parallelism writes one slice a tensor. A name's first part is the file it goes to. Tensors are contiguous on disk; a
tied tensor is stored once, and its other names are aliases.

Every file is written by one pass that also computes its xxh3-128. The manifest is canonical JSON with a checksum of its
own, so that a flipped bit anywhere in the folder is found and named.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash

from distdl.checkpoint.snapshot import place_of
from distdl.errors import UserError
from distdl.run.folder import fsync_folder

FORMAT = 1
MANIFEST = "manifest.json"

# safetensors' names of dtypes
_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}

Tensors = Mapping[str, torch.Tensor]
Json = dict[str, Any]


def check_dtypes(tensors: Tensors) -> None:
    """Raises UserError for a tensor that the format can't hold."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPE_NAMES:
            raise UserError(
                f"'{name.partition('/')[2]}' is {tensor.dtype}, which a checkpoint can't hold",
                fix="If it is a constant buffer: register_buffer(..., persistent=False).",
            )


class CheckpointDamaged(Exception):
    """A checkpoint that must not be used: which file, and what is wrong with it."""


def write(folder: Path, tensors: Tensors, state: Json, *, run_id: str, step: int) -> None:
    """Writes a checkpoint into the new `folder` and syncs it to disk; the caller makes it visible. Raises OSError.

    tensors: CPU tensors by logical name; equal storage, shape and strides under two names means a tied tensor.
    state: JSON; whatever else must survive.
    """
    folder.mkdir()
    files: dict[str, dict[str, torch.Tensor]] = {}
    aliases: dict[str, str] = {}
    first_name: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        place = place_of(tensor)
        if tensor.numel() and first_name.setdefault(place, name) != name:
            aliases[name] = first_name[place]
        else:
            file, _, key = name.partition("/")
            files.setdefault(f"{file}.safetensors", {})[key] = tensor
    manifest: Json = {
        "format": FORMAT,
        "run_id": run_id,
        "step": step,
        "created": time.time(),
        "files": {},
        "tensors": {},
        "aliases": aliases,
        "state": state,
    }
    for file, contents in files.items():
        prefix = file.removesuffix(".safetensors")
        checksum, size, offsets = _write_safetensors(folder / file, contents)
        manifest["files"][file] = {"size_bytes": size, "xxh3_128": checksum}
        for key, tensor in contents.items():
            shape = list(tensor.shape)
            whole = {"file": file, "offset": offsets[key], "begin": [0] * len(shape), "shape": shape}
            entry = {"dtype": _DTYPE_NAMES[tensor.dtype], "shape": shape, "slices": [whole]}
            manifest["tensors"][f"{prefix}/{key}"] = entry
    _write_synced(folder / MANIFEST, _seal(manifest))
    fsync_folder(folder)


def read_manifest(folder: Path) -> Json:
    """The manifest, verified against its own checksum and bounds. Raises CheckpointDamaged."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
        sealed = _seal({key: value for key, value in manifest.items() if key != "checksum"})
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointDamaged(f"{path}: unreadable ({error})") from error
    if content != sealed:
        raise CheckpointDamaged(f"{path}: its checksum does not match its content")
    if manifest.get("format") != FORMAT:
        raise CheckpointDamaged(f"{path}: format {manifest.get('format')} is not the one known here ({FORMAT})")
    try:
        _check_bounds(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointDamaged(f"{path}: {error}") from error
    return manifest


def read(folder: Path, manifest: Json, only: str | None = None) -> dict[str, torch.Tensor]:
    """All tensors by name, aliases included, or those whose name begins with `only`. Raises CheckpointDamaged.

    Each file is read once and verified before any of its bytes are used.
    """
    tensors: dict[str, torch.Tensor] = {}
    contents: dict[str, bytearray] = {}
    for name, entry in manifest["tensors"].items():
        if only and not name.startswith(only):
            continue
        dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
        whole = torch.empty(shape, dtype=dtype)
        for part in entry["slices"]:
            file = part["file"]
            if file not in contents:
                contents[file] = _read_verified(folder / file, manifest["files"][file])
            count = math.prod(part["shape"])
            if count == 0:
                continue
            values = torch.frombuffer(contents[file], dtype=dtype, count=count, offset=part["offset"])
            place = tuple(slice(b, b + n) for b, n in zip(part["begin"], part["shape"]))
            whole[place].copy_(values.reshape(part["shape"]))
        tensors[name] = whole
    for alias, name in manifest["aliases"].items():
        if name in tensors:
            tensors[alias] = tensors[name]
    return tensors


def verify(folder: Path) -> Json:
    """Checks every byte of a checkpoint; returns its manifest. Raises CheckpointDamaged naming the bad file."""
    manifest = read_manifest(folder)
    for file, entry in manifest["files"].items():
        _read_verified(folder / file, entry)
    return manifest


def _read_verified(path: Path, entry: Json) -> bytearray:
    try:
        size = path.stat().st_size
        if size != entry["size_bytes"]:
            raise CheckpointDamaged(f"{path}: {size} bytes instead of {entry['size_bytes']}")
        content = bytearray(size)
        with path.open("rb") as file:
            file.readinto(content)
    except OSError as error:
        raise CheckpointDamaged(f"{path}: {error.strerror}") from error
    if xxhash.xxh3_128_hexdigest(content) != entry["xxh3_128"]:
        raise CheckpointDamaged(f"{path}: its checksum does not match its content")
    return content


def _check_bounds(manifest: Json) -> None:
    """Nothing may point outside its file, and no size may be believed before it was checked."""
    for file, entry in manifest["files"].items():
        if Path(file).name != file or entry["size_bytes"] < 0:
            raise ValueError(f"bad entry for the file '{file}'")
    for name, entry in manifest["tensors"].items():
        itemsize = _DTYPES[entry["dtype"]].itemsize
        for part in entry["slices"]:
            inside = all(
                min(b, n) >= 0 and b + n <= whole
                for b, n, whole in zip(part["begin"], part["shape"], entry["shape"], strict=True)
            )
            end = part["offset"] + math.prod(part["shape"]) * itemsize
            if not inside or part["offset"] < 0 or end > manifest["files"][part["file"]]["size_bytes"]:
                raise ValueError(f"tensor '{name}' points outside of its file")
        covered = sum(math.prod(part["shape"]) for part in entry["slices"])
        if covered != math.prod(entry["shape"]):
            raise ValueError(f"tensor '{name}' is not whole")


def _seal(manifest: Json) -> bytes:
    """Canonical bytes: the manifest, its last key being the checksum of everything before."""
    body = json.dumps(manifest, indent=1, allow_nan=False).encode()
    checksum = xxhash.xxh3_128_hexdigest(body)
    return body[:-2] + f',\n "checksum": "{checksum}"\n}}\n'.encode()


def _write_safetensors(path: Path, tensors: Tensors) -> tuple[str, int, dict[str, int]]:
    """Writes the file in safetensors' format; returns (xxh3-128, size in bytes, byte offset of each tensor)."""
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))  # keeps every offset aligned
    header: Json = {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    head = len(head).to_bytes(8, "little") + head
    checksum = xxhash.xxh3_128(head)
    with path.open("xb") as file:
        file.write(head)
        for tensor in tensors.values():
            data = raw_bytes(tensor)
            checksum.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    offsets = {name: len(head) + entry["data_offsets"][0] for name, entry in header.items()}
    return checksum.hexdigest(), len(head) + end, offsets


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """A CPU tensor's elements in memory order of a contiguous tensor."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
