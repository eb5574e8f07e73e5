"""Weights in safetensors, in one file or in shards with an index, and the shards of ``torch.save`` alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import CheckpointError, first_line
from .recognise import is_safetensors
from .torch_files import read_torch

#: what an index of shards is called
INDEX = ".index.json"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        CheckpointError: it is damaged.
    """
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except PermissionError:
        raise
    except Exception as error:  # of the header's contents, too: a type or a shape that torch does not know
        raise CheckpointError(f"{path}: not readable as safetensors ({first_line(error)}); is the file complete?") from None


def shards_of(index: Path) -> dict[str, str]:
    """Name of a tensor -> name of the file beside the index that holds it.

    Raises:
        CheckpointError: no index, or one that names anything but files beside it.
    """
    try:
        table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()) or not table:
            raise TypeError("'weight_map' is no table of file names")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{index}: no index of shards ({first_line(error)})") from None
    for name in table.values():
        if Path(name).name != name or name in ("", ".", "..") or "\0" in name:
            raise CheckpointError(f"{index}: names {name!r}, which is no file beside it")
    return table


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all shards by name.

    Raises:
        CheckpointError: a shard is missing or damaged, or does not hold what the index says.
    """
    table = shards_of(index)
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(table.values())):
        shard = index.with_name(file)
        if not shard.is_file():
            raise CheckpointError(f"{index}: its shard {file} is missing")
        content: Any = read_safetensors(shard) if is_safetensors(shard) else read_torch(shard)
        wanted = [name for name, other in table.items() if other == file]
        lost = [name for name in wanted if not isinstance(content, dict) or not isinstance(content.get(name), Tensor)]
        if lost:
            raise CheckpointError(f"{shard}: lacks {lost[0]}, which {index.name} says it holds; are they of one save?")
        tensors |= {name: content[name] for name in wanted}
    return tensors
