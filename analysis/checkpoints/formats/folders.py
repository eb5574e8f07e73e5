"""Folders that are one checkpoint: what kind they are, which of their files count, and what is in them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from ...samples.provenance import file_sha256
from .distributed import PART, TABLE, read_distributed
from .errors import CheckpointError
from .recognise import is_safetensors
from .shards import INDEX, read_safetensors, read_shards, shards_of
from .torch_files import read_torch

#: what Hugging Face calls the weights, the preferred ones first
WEIGHTS = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
ADAPTER = "adapter_config.json"
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_CONFIG = "config.json"
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.\w+$")


def is_adapter(path: Path) -> bool:
    """Whether a folder holds a PEFT adapter, and so no whole model."""
    return (path / ADAPTER).is_file()


def is_checkpoint(path: Path) -> bool:
    """Whether a folder as a whole is one checkpoint."""
    return bool(path.is_dir() and ((path / TABLE).is_file() or is_adapter(path) or _is_hugging_face(path)))


def _is_hugging_face(path: Path) -> bool:
    return (path / _CONFIG).is_file() and any((path / name).is_file() for name in WEIGHTS)


def weights_file(folder: Path) -> Path:
    """The file of the weights in a folder, or the index of its shards.

    Raises:
        CheckpointError: there is none; says what is there.
    """
    names = _ADAPTER_WEIGHTS if is_adapter(folder) else WEIGHTS
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"{folder}: a folder without {' or '.join(names[:3])}; it holds {holds(folder)}")
    return found


def holds(folder: Path) -> str:
    """What lies in a folder, for messages."""
    there = sorted(file.name for file in folder.iterdir())
    return f"{', '.join(there[:12]) or 'nothing'}{' ...' if len(there) > 12 else ''}"


def _is_whole(path: Path) -> None:
    """Returns if a file is no part of a checkpoint.

    Raises:
        CheckpointError: it is; says of which.
    """
    if path.suffix == PART or (path.name == TABLE and path.is_file()):
        lack = "" if (path.parent / TABLE).is_file() else f", in which its table of contents, {TABLE}, is missing"
        raise CheckpointError(f"{path}: a part of a distributed checkpoint; name the folder, {path.parent}{lack}")
    shard = _SHARD.search(path.name)
    if shard is None or int(shard[1]) == 1:
        return
    index = next((file for file in sorted(path.parent.glob(f"*{INDEX}")) if path.name in shards_of(file).values()), None)
    what = f"name their index, {index}" if index else f"the index that says which belong together (*{INDEX}) is missing"
    raise CheckpointError(f"{path}: one of {int(shard[1])} shards; {what}")


def read_weights(path: Path, *, trust: bool = False) -> Any:
    """Content of a checkpoint, whatever it is, by what it is.

    Args:
        path: a file, or a folder that is a checkpoint.
        trust: a pickle may run code.

    Raises:
        CheckpointError: it cannot be read.
    """
    if path.is_dir():
        return read_distributed(path) if (path / TABLE).is_file() else read_weights(weights_file(path), trust=trust)
    if path.name.endswith(INDEX):
        return read_shards(path)
    _is_whole(path)
    return read_safetensors(path) if is_safetensors(path) else read_torch(path, trust=trust)


def checkpoint_sha256(path: Path) -> str:
    """SHA-256 of a checkpoint: of a file's bytes; of several files, of their names and digests."""
    files = _files(path)
    if files == [path]:
        return file_sha256(path)
    return hashlib.sha256("".join(f"{file.name} {file_sha256(file)}\n" for file in files).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    if path.name.endswith(INDEX):
        return [path, *(path.with_name(name) for name in sorted(set(shards_of(path).values())))]
    if not path.is_dir():
        return [path]
    if (path / TABLE).is_file():
        return sorted(file for file in path.iterdir() if file.is_file())
    configs = [path / name for name in (_CONFIG, ADAPTER) if (path / name).is_file()]
    return configs + _files(weights_file(path))
