"""Vectors in files of which each process writes its own, and an index beside them; read whole by any number of processes.

The index is that of sharded safetensors (``metadata``, ``weight_map``: name of a tensor -> file). A slice of the vector
``tail/min`` from its number 4096 on is the tensor ``tail/min@4096``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..records.base import ResultError, read_json, write_text_atomically
from .tensor_files import save_tensors

#: what follows the name that one file would have
INDEX = ".index.json"
#: ``(from, to)`` of the numbers of a vector that one process holds
Ranges = Sequence[tuple[int, int]]


def save_slices(tensors: Mapping[str, Tensor], path: Path, ranges: Sequence[Ranges], mine: int) -> None:
    """Stores the slices of one process.

    Args:
        tensors: slices ``[local]`` by the name of the vector.
        path: of the one file that would hold all: ``x.vectors.safetensors``.
        ranges: of every process.
        mine: this process.
    """
    sizes = [to - begin for begin, to in ranges[mine]]
    slices = {
        f"{name}@{begin}": part
        for name, tensor in tensors.items()
        for (begin, _), part in zip(ranges[mine], tensor.split(sizes), strict=True)
    }
    save_tensors(slices, _shard(path, mine, len(ranges)))


def save_index(names: Sequence[str], path: Path, ranges: Sequence[Ranges], itemsize: int) -> Path:
    """Stores what the files of all processes hold, once they are there; files of other saves go.

    Args:
        names: of the vectors.
        path: as for :func:`save_slices`.
        ranges: likewise.
        itemsize: bytes of one number.
    """
    files = {f"{name}@{begin}": rank for name in names for rank, one in enumerate(ranges) for begin, _ in one}
    size = sum(to - begin for one in ranges for begin, to in one) * len(names) * itemsize
    table = {name: _shard(path, rank, len(ranges)).name for name, rank in files.items()}
    index = path.with_name(path.name + INDEX)
    write_text_atomically(index, json.dumps({"metadata": {"total_size": size}, "weight_map": table}, indent=1) + "\n")
    for old in path.parent.glob(f"{path.stem}-*-of-*.safetensors"):
        if old.name not in table.values() and table:
            old.unlink(missing_ok=True)
    return index


def load_vectors(path: Path) -> dict[str, Tensor]:
    """The whole vectors of a file of :func:`~saddlescope.analysis.krylov.tensor_files.save_tensors`, or of an index.

    Raises:
        ResultError: the index is damaged, or names what is not there.
        SafetensorError: a file is damaged.
        FileNotFoundError: there is none.
    """
    if not path.name.endswith(INDEX):
        return load_file(path)
    content: dict[str, Tensor] = {}
    for file in files_of(path):
        content |= load_file(file)
    slices: dict[str, list[tuple[int, Tensor]]] = {}
    for name in _table(path):
        vector, _, begin = name.rpartition("@")
        if name not in content or not begin.isdecimal():
            raise ResultError(f"{path}: {name!r:.80} is in none of its files; analyze the checkpoint again")
        slices.setdefault(vector, []).append((int(begin), content[name]))
    return {vector: _joined(sorted(parts, key=lambda part: part[0]), f"{path}: {vector}") for vector, parts in slices.items()}


def files_of(path: Path) -> list[Path]:
    """The files that hold the vectors of a file or an index: itself, or those that it names.

    Raises:
        ResultError: the index is damaged, or names what is not there.
        FileNotFoundError: there is none.
    """
    if not path.name.endswith(INDEX):
        return [path]
    files = [path.with_name(file) for file in sorted(set(_table(path).values()))]
    for file in files:
        if not file.is_file():
            raise ResultError(f"{path}: its file {file.name} is missing; analyze the checkpoint again")
    return files


def _table(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(path)
    table = read_json(path).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(file, str) and Path(file).name == file for file in table.values()):
        raise ResultError(f"{path}: no index of files beside it; analyze the checkpoint again")
    return table


def _joined(parts: Sequence[tuple[int, Tensor]], where: str) -> Tensor:
    place = 0
    for begin, part in parts:
        if begin != place or part.dim() != 1:
            raise ResultError(f"{where} has a gap or an overlap at number {place}; analyze the checkpoint again")
        place += len(part)
    return torch.cat([part for _, part in parts])


def _shard(path: Path, rank: int, size: int) -> Path:
    return path.with_name(f"{path.stem}-{rank + 1:05d}-of-{size:05d}{path.suffix}")
