"""Vectors in files of which each process writes its own, and an index beside them; read by any number of processes.

The index is that of sharded safetensors (``metadata``, ``weight_map``: name of a tensor -> file). A slice of the vector
``tail/min`` from its number 4096 on is the tensor ``tail/min@4096``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..records.base import ResultError, read_json, write_text_atomically
from .tensor_files import save_tensors

#: what follows the name that one file would have
INDEX = ".index.json"
#: numbers that are hashed at once
_AT_ONCE = 1 << 22
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


class StoredVectors(Mapping[str, Tensor]):
    """The vectors of a file of :func:`~saddlescope.analysis.krylov.tensor_files.save_tensors`, or of an index, by name.

    Each is read when it is asked for, and not kept: of a large model one is as much as there is room for.

    Args:
        path: of the file or the index.

    Raises:
        ResultError: the index is damaged, or names what is not there.
        SafetensorError: a file is damaged.
        FileNotFoundError: there is none.
    """

    def __init__(self, path: Path) -> None:
        there: dict[str, tuple[Path, int]] = {}
        for file in files_of(path):
            with safe_open(file, framework="pt") as stored:
                there |= {key: (file, math.prod(stored.get_slice(key).get_shape())) for key in stored.keys()}  # noqa: SIM118
        self._pieces: dict[str, list[tuple[int, int, Path, str]]] = {}
        for key in _table(path) if path.name.endswith(INDEX) else there:
            name, begin = key, "0"
            if path.name.endswith(INDEX):
                name, _, begin = key.rpartition("@")
                if key not in there or not begin.isdecimal():
                    raise ResultError(f"{path}: {key!r:.80} is in none of its files; analyze the checkpoint again")
            file, numbers = there[key]
            self._pieces.setdefault(name, []).append((int(begin), int(begin) + numbers, file, key))
        for name, pieces in self._pieces.items():
            pieces.sort()
            place = 0
            for first, last, _, _ in pieces:
                if first != place:
                    raise ResultError(f"{path}: {name} has a gap or an overlap at number {place}; analyze the checkpoint again")
                place = last

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __contains__(self, name: object) -> bool:
        return name in self._pieces

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, name: str) -> Tensor:
        return self.part(name, [(0, self._pieces[name][-1][1])])

    def part(self, name: str, ranges: Ranges) -> Tensor:
        """The numbers ``[local]`` of a vector in some ranges."""
        found = []
        for low, high in ranges:
            for begin, to, file, key in self._pieces[name]:
                first, last = max(low, begin), min(high, to)
                if first < last:
                    with safe_open(file, framework="pt") as stored:
                        found.append(stored.get_slice(key)[first - begin : last - begin])
        return torch.cat(found) if found else torch.empty(0)

    def sha256(self, name: str) -> str:
        """SHA-256 of a vector's bytes, which are read some after another."""
        digest, size = hashlib.sha256(), self._pieces[name][-1][1]
        for begin in range(0, size, _AT_ONCE):
            part = self.part(name, [(begin, min(begin + _AT_ONCE, size))])
            digest.update(part.view(torch.uint8).numpy().data)
        return digest.hexdigest()


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


def _shard(path: Path, rank: int, size: int) -> Path:
    return path.with_name(f"{path.stem}-{rank + 1:05d}-of-{size:05d}{path.suffix}")
