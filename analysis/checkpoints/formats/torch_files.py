"""Files of ``torch.save``: tensors and containers are read; objects of any other class are held as data, and never made.

Training codes keep their ``argparse.Namespace``, paths, enums, NumPy numbers and configurations beside the weights. None of
these classes is imported: each becomes a :class:`Foreign` that keeps what the pickle says about it.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import torch

from .errors import CheckpointError, first_line

NEVER_RUN = (
    "holds layers without weights: a lazy layer (LazyLinear ...) has none before its first batch. Run the model on one batch "
    "and save it again"
)
#: tables that are made empty and then filled, without a state of their own
_TABLES = ("collections.defaultdict",)


class Foreign:
    """An object of a class that is not ours to make, as its pickle describes it.

    Attributes:
        kind: module and name of its class, or of the function that would have made it.
        arguments: what that would have been called with.
        state: its attributes, or whatever else its class would have been given to restore it.
    """

    kind: ClassVar[str] = ""
    arguments: tuple[Any, ...]

    def __new__(cls, *arguments: Any) -> Foreign:
        """Keeps the arguments; nothing is called with them."""
        self = super().__new__(cls)
        self.arguments, self.state = arguments, None
        return self

    def __init__(self, *_: Any) -> None:
        self.state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def is_module(self) -> bool:
        """Whether it is a whole model, by what every module keeps."""
        table = self.state if isinstance(self.state, dict) else {}
        return "_parameters" in table and "_modules" in table


def read_torch(path: Path, *, trust: bool = False) -> Any:
    """What a file of ``torch.save`` holds, on the CPU.

    Args:
        path: the file.
        trust: unpickle arbitrary objects, which runs code that the file brings along.

    Raises:
        CheckpointError: truncated or of another kind; or it cannot be read without ``trust``.
    """
    if _is_torchscript(path):
        return _torchscript(path, trust)
    try:
        with torch.serialization.safe_globals([] if trust else _strangers(path)):
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except PermissionError:
        raise
    except Exception as error:
        text = str(error)
        if "UninitializedParameter" in text or "UninitializedBuffer" in text:
            raise CheckpointError(f"{path}: {NEVER_RUN}") from None
        if "weights_only" in text or "Unsupported" in text or "WeightsUnpickler" in text:
            lines = text.splitlines()
            what = next((line.strip() for line in lines if "GLOBAL" in line or "class" in line), lines[0])
            raise needs_trust(path, what[:200]) from None
        whole = "" if is_archive(path) else " It is no complete torch file (truncated, or of another kind)."
        raise CheckpointError(f"{path}: cannot be read: {first_line(error)}.{whole}") from None


def read_torch_bytes(content: bytes) -> Any:
    """The tensors of a ``torch.save`` in memory; what is wrong with them, torch says."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def needs_trust(path: Path, what: str) -> CheckpointError:
    """The refusal of what cannot be read without running it."""
    return CheckpointError(
        f"{path}: holds more than tensors and plain containers, and reading it would run code ({what}). If the file is your "
        "own, add --trust-checkpoint; better, save model.state_dict() only"
    )


def _strangers(path: Path) -> list[Any]:
    """A stand-in for every class and function that a file names and torch does not know as harmless.

    Lazy parameters are left to be refused by name. Files of torch before 1.6 are no archives: torch lists nothing there, and
    they hold tensors and plain containers, or are refused.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # whatever is wrong with the file, the reader says it
        return []
    known = [name for name in names if "Uninitialized" not in name]
    return [(_plain_table if name in _TABLES else type("Foreign", (Foreign,), {"kind": name}), name) for name in known]


def _plain_table(*_: Any) -> dict[Any, Any]:
    """What a table with a default for missing keys is read to: its entries follow in the pickle."""
    return {}


def is_archive(path: Path) -> bool:
    """Whether a file ends as a zip archive does, as new torch files do."""
    try:
        return zipfile.is_zipfile(path)
    except Exception:  # a damaged one, of several disks say
        return False


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # whatever is wrong with the archive, the reader says it (zipfile has many ways to)
        return False


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
