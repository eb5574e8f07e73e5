"""Files of ``torch.save``: tensors and containers are read; objects of any other class are held as data, and never made."""

from __future__ import annotations

import io
import pickle
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch

from . import objects
from .errors import CheckpointError, first_line
from .recognise import members, no_torch_file


def read_torch(path: Path, *, trust: bool = False) -> Any:
    """What a file of ``torch.save`` holds, on the CPU.

    Args:
        path: the file.
        trust: unpickle arbitrary objects, which runs code that the file brings along.

    Raises:
        CheckpointError: truncated or of another kind; or it cannot be read without ``trust``.
    """
    other = no_torch_file(path)
    if other is not None:
        raise CheckpointError(f"{path}: {other}")
    if any(name.endswith("/constants.pkl") for name in members(path)):
        return _torchscript(path, trust)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of newer pickles, which both readers know, and of sources that changed
            with path.open("rb") as stream:  # by name, newer torch reads a .safetensors otherwise
                return torch.load(stream, "cpu", weights_only=False) if trust else _as_data(stream)
    except PermissionError:
        raise
    except objects.Refused as error:
        raise needs_trust(path, str(error)) from None
    except Exception as error:
        if "UninitializedParameter" in str(error) or "UninitializedBuffer" in str(error) or objects.NEVER_RUN in str(error):
            raise CheckpointError(f"{path}: {objects.NEVER_RUN}") from None
        raise CheckpointError(f"{path}: cannot be read: {first_line(error)}; is the file complete?") from None


def _as_data(stream: BinaryIO) -> Any:
    """What torch reads without trust, it reads; the rest is read by the reader of objects."""
    try:
        return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        stream.seek(0)
        return torch.load(stream, map_location="cpu", weights_only=False, pickle_module=objects)


def read_torch_bytes(content: bytes) -> Any:
    """The tensors of a ``torch.save`` in memory; what is wrong with them, torch says."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def needs_trust(path: Path, what: str) -> CheckpointError:
    """The refusal of what cannot be read without running it."""
    return CheckpointError(
        f"{path}: holds more than tensors and plain containers, and reading it would run code ({what}). If the file is your "
        "own, add --trust-checkpoint; better, save model.state_dict() only"
    )


def _torchscript(path: Path, trust: bool) -> Any:
    if not trust:
        raise CheckpointError(
            f"{path}: a TorchScript program, and reading it can run code that it brings along. If the file is your own, add "
            "--trust-checkpoint; better, save model.state_dict()"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole; its files are still about
            return torch.jit.load(path, map_location="cpu")
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as TorchScript: {first_line(error)}") from None
