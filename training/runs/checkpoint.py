"""What a run leaves on disk: checkpoints with their side-cars, the epoch log, and the state to continue from."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..files import write_json, write_torch

FORMAT, VERSION = "saddlescope-checkpoint", 1


@cache
def provenance() -> dict[str, Any]:
    """Versions that made a checkpoint."""
    import saddlescope

    folder = Path(__file__).resolve().parents[1]
    try:
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        inside = (folder.parent / ".git").exists()  # else some other repository that happens to hold the installed copy
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() if inside else None
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "saddlescope": saddlescope.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": f"{saddlescope.processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "git_commit": commit,
    }


def plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A state dict of compact CPU tensors."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}


def save_checkpoint(path: Path, model: nn.Module, side_car: dict[str, Any]) -> None:
    """Writes the weights and then, as the sign that they are whole, ``<stem>.json`` beside them."""
    digest = write_torch(path, plain_state(model))
    head = {"format": FORMAT, "version": VERSION, "checkpoint": path.name, "sha256": digest}
    write_json(path.with_suffix(".json"), head | side_car)


@dataclass(frozen=True)
class Log:
    """``metrics.jsonl``: one line per epoch, appended as epochs end."""

    path: Path

    def append(self, row: dict[str, Any]) -> None:
        """Adds a line."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, allow_nan=False) + "\n")

    def keep(self, epochs: int) -> None:
        """Drops what an interrupted process wrote after the ``epochs`` first lines."""
        if self.path.exists():
            lines = self.path.read_bytes().splitlines(keepends=True)[:epochs]
            with self.path.open("r+b") as stream:
                stream.truncate(sum(map(len, lines)))


class StateError(RuntimeError):
    """A stored state that cannot be continued from."""


def load_state(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Reads what ``write_torch`` stored, ``None`` if there is nothing.

    Raises:
        StateError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise StateError(f"{path} cannot be read ({error}); remove it, and the run starts again from its first epoch") from None
    return state
