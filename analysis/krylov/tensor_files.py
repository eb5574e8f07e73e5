"""Tensors in a file that is whole or not there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Stores copies from any device at ``path`` (safetensors); a reader sees the old file or the whole new one.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
        partial.replace(path)
    except SafetensorError as error:  # its message names no file
        raise OSError(f"{path}: cannot be written ({error}); nothing of it was kept") from None
    finally:
        partial.unlink(missing_ok=True)
