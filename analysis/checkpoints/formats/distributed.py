"""Folders of ``torch.distributed.checkpoint``: a table of contents (``.metadata``), and files of chunks of tensors.

torch's own reader unpickles the table and every object in the files without restraint. This one makes the few classes of the
table and nothing else, and reads tensors only.
"""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from .errors import CheckpointError, first_line
from .torch_files import read_torch_bytes

TABLE = ".metadata"
#: how the names of the files of chunks end
PART = ".distcp"
_MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
_CLASSES = frozenset({
    "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties", "MetadataIndex",
    "StorageMeta", "_StorageInfo", "_MEM_FORMAT_ENCODING",
})  # fmt: skip


class _TableReader(pickle._Unpickler):
    """In Python: the other one takes memory for as many objects as a damaged file says that there are."""

    dispatch: ClassVar = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}

    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES and name in _CLASSES:
            return super().find_class(module, name)
        if module in ("torch", "torch._utils", "torch.serialization"):
            found = getattr(torch, name, None)
            if name == "Size" or isinstance(found, torch.dtype | torch.layout | torch.memory_format):
                return found
            if name == "_get_layout":
                return super().find_class("torch.serialization", name)
        if (module, name) in {("pathlib", "PosixPath"), ("pathlib", "PurePosixPath"), ("pathlib._local", "PosixPath")}:
            return lambda *parts: "/".join(parts)  # where the writer wrote: not looked at
        if (module, name) in {("collections", "OrderedDict"), ("builtins", "set"), ("builtins", "dict"), ("builtins", "list")}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no table of contents needs")


def read_distributed(folder: Path) -> dict[str, Any]:
    """The tensors in a folder, nested by their names as they were when it was saved; what are no tensors is left out.

    Raises:
        CheckpointError: the table or a file is missing, damaged, or names anything but tensors in files of the folder.
    """
    content: dict[str, Any] = {}
    for path, _, tensor in _tensors(folder):
        _read(folder, partial(_put, content, path, tensor))
    return content


def tensors_apart(folder: Path) -> dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]]:
    """Name -> shape of a tensor in a folder, and what reads it: of a large model one after another.

    Raises:
        CheckpointError: as :func:`read_distributed`, and when a tensor is read.
    """
    return {".".join(map(str, path)): (shape, partial(_read, folder, tensor)) for path, shape, tensor in _tensors(folder)}


def _tensors(folder: Path) -> list[tuple[tuple[Any, ...], tuple[int, ...], Callable[[], Tensor]]]:
    """Path of names, shape and reader of each tensor."""

    def listed() -> Any:
        with (folder / TABLE).open("rb") as stream:
            table = _TableReader(stream).load()
        where: dict[str, list[tuple[Any, Any]]] = {}
        for index, info in table.storage_data.items():
            where.setdefault(index.fqn, []).append((index, info))
        return [
            (
                tuple((table.planner_data or {}).get(name, (name,))),
                tuple(entry.size),
                partial(_tensor, folder, entry, where.get(name, [])),
            )
            for name, entry in table.state_dict_metadata.items()
            if hasattr(entry, "chunks")
        ]

    found: list[tuple[tuple[Any, ...], tuple[int, ...], Callable[[], Tensor]]] = _read(folder, listed)
    return found


def _read(folder: Path, reader: Callable[[], Any]) -> Any:
    try:
        return reader()
    except (CheckpointError, PermissionError):
        raise
    except Exception as error:
        raise CheckpointError(f"{folder}: cannot be read as a distributed checkpoint: {first_line(error)}") from None


def _tensor(folder: Path, entry: Any, chunks: list[tuple[Any, Any]]) -> Tensor:
    whole = torch.empty(tuple(entry.size), dtype=entry.properties.dtype)
    known = 0
    for index, info in chunks:
        name = str(info.relative_path)
        if Path(name).name != name or name in ("", ".", ".."):
            raise CheckpointError(f"{folder}: its table names {name!r}, which is no file in it")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: its file {name} is missing")
        with (folder / name).open("rb") as stream:
            left = os.fstat(stream.fileno()).st_size - stream.seek(info.offset)
            if info.length > left:
                raise CheckpointError(f"{folder}: {name} ends before a chunk of {index.fqn} does; is the folder complete?")
            part = _chunk(stream.read(info.length), f"{folder}: no chunk of {index.fqn} where {name} should hold it")
        start = tuple(index.offset) if index.offset is not None else (0,) * whole.dim()
        place = tuple(slice(at, at + length) for at, length in zip(start, part.shape, strict=True))
        if whole[place].shape != part.shape:
            raise CheckpointError(f"{folder}: a chunk of {index.fqn} reaches beyond it")
        whole[place] = part
        known += part.numel()
    if known != math.prod(entry.size):
        raise CheckpointError(f"{folder}: {known} numbers of a tensor of {list(entry.size)} are there; is the folder complete?")
    return whole


def _chunk(content: bytes, lack: str) -> Tensor:
    try:
        part = read_torch_bytes(content)
    except Exception:  # torch says of which byte, at length
        part = None
    if not isinstance(part, Tensor):
        raise CheckpointError(f"{lack}; is the folder complete, and are its files of one save?")
    return part


def _put(content: dict[str, Any], path: tuple[Any, ...], tensor: Callable[[], Tensor]) -> None:
    *outer, last = path
    for part in outer:
        content = content.setdefault(str(part), {})
    content[str(last)] = tensor()
