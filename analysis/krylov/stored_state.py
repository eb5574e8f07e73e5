"""What a Lanczos run keeps on disk, by one process or by many, to be read by any number of them.

A process with whole vectors writes one file. Where vectors are spread, each process writes its slices into a file of its own,
whose name tells how far the run was; when all of them are there, the first process writes an index that names them. So an
index never names files of two states, and the one before is whole until the next one is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..records.base import ResultError, read_json, write_text_atomically
from .space import Slices, Space
from .tensor_files import save_tensors

INDEX = ".index.json"
Ranges = Sequence[Sequence[int]]


class StateError(ValueError):
    """Stored parts do not fit together; the message names the file."""


class Processes(Protocol):
    """The processes that measure one operator together."""

    @property
    def rank(self) -> int:
        """This one."""

    @property
    def first(self) -> bool:
        """Whether this one writes what is the same in all."""

    @property
    def keeps(self) -> bool:
        """Whether this one writes its slices: no other one does."""

    def everyone(self, word: Any) -> list[Any]:
        """What each process says, once all have."""


class Alone:
    """One process."""

    rank, first, keeps = 0, True, True

    def everyone(self, word: Any) -> list[Any]:
        """Its word."""
        return [word]


ALONE: Processes = Alone()


def save_state(
    path: Path, common: Mapping[str, Tensor], vectors: Mapping[str, Tensor], space: Space, who: Processes, mark: int
) -> None:
    """Stores the state of a run; every process makes the call.

    Args:
        path: of the one file of a process that holds everything.
        common: the same in every process.
        vectors: ``[..., local]``, this process's slices.
        space: where they live.
        who: the processes.
        mark: tells this state from the one before.
    """
    if not isinstance(space, Slices):
        if who.first:
            save_tensors({**common, **vectors}, path)
            _clear(path, {path})
        return
    mine = path.with_name(f"{path.stem}-{mark}-{who.rank:05d}{path.suffix}")
    if who.keeps:
        save_tensors({**common, **vectors}, mine)
    parts = [part for part in who.everyone((mine.name, space.ranges) if who.keeps else None) if part is not None]
    if who.first:
        index = path.with_name(path.name + INDEX)
        content = {"size": space.size, "vectors": sorted(vectors), "files": {name: list(ranges) for name, ranges in parts}}
        write_text_atomically(index, json.dumps(content) + "\n")
        _clear(path, {index, *(path.with_name(name) for name, _ in parts)})


def load_state(path: Path, space: Space, is_vector: Callable[[str], bool]) -> dict[str, Tensor]:
    """What this process holds of a stored state, however many processes stored it.

    Args:
        path: as for :func:`save_state`.
        space: where the vectors live now.
        is_vector: tells by their names which tensors of a whole file are vectors.

    Raises:
        FileNotFoundError: nothing is stored.
        SafetensorError: a file is damaged.
        StateError: it is of vectors of another length, or a part is missing.
    """
    index = path.with_name(path.name + INDEX)
    if not index.exists():
        content = load_file(path)
        if isinstance(space, Slices):
            content = {name: _cut(tensor, space, path) if is_vector(name) else tensor for name, tensor in content.items()}
        return content
    try:
        known = read_json(index)
        size, names, files = known["size"], known["vectors"], known["files"]
        parts = {path.with_name(Path(name).name): [(int(b), int(t)) for b, t in ranges] for name, ranges in files.items()}
    except (ResultError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"{index}: no index of a stored run ({error})") from None
    if size != space.size:
        raise StateError(f"{index}: of vectors of {size} numbers, asked for {space.size}")
    found: dict[str, Tensor] = {}
    filled = torch.zeros(space.local, dtype=torch.bool)
    for file, held in parts.items():
        overlaps = list(_overlaps(space.ranges, held))
        with safe_open(file, framework="pt") as stored:
            if not found:
                found = {name: stored.get_tensor(name) for name in stored.keys() if name not in names}  # noqa: SIM118
            for name in names:
                part = stored.get_slice(name)
                *leading, there = part.get_shape()
                if name not in found and there:  # also where this process holds none of the numbers
                    found[name] = part[..., :1].new_empty((*leading, space.local))
                for place, begin, count in overlaps:
                    found[name][..., place : place + count] = part[..., begin : begin + count]
        for place, _, count in overlaps:
            filled[place : place + count] = True
    if not bool(filled.all()):
        raise StateError(f"{index}: a part of the vectors is in none of its files")
    return found


def stored_paths(path: Path) -> list[Path]:
    """Every file of the states of a path."""
    found = [path, path.with_name(path.name + INDEX), *path.parent.glob(f"{path.stem}-*-*{path.suffix}")]
    return [one for one in found if one.exists()]


def forget(path: Path, who: Processes) -> None:
    """Removes what is stored."""
    if who.first:
        _clear(path, set())


def _clear(path: Path, kept: set[Path]) -> None:
    for old in stored_paths(path):
        if old not in kept:
            old.unlink(missing_ok=True)


def _cut(tensor: Tensor, space: Space, path: Path) -> Tensor:
    if tensor.shape[-1] != space.size:
        raise StateError(f"{path}: of vectors of {tensor.shape[-1]} numbers, asked for {space.size}")
    return torch.cat([tensor[..., begin:to] for begin, to in space.ranges] or [tensor[..., :0]], dim=-1)


def _overlaps(wanted: Ranges, held: Ranges) -> Sequence[tuple[int, int, int]]:
    """``(place here, place there, numbers)`` of what two processes have in common."""
    found, here = [], 0
    for begin, to in wanted:
        there = 0
        for first, last in held:
            low, high = max(begin, first), min(to, last)
            if low < high:
                found.append((here + low - begin, there + low - first, high - low))
            there += last - first
        here += to - begin
    return found
