"""Where a number comes from: versions, machine, hashes, commit."""

from __future__ import annotations

import datetime
import hashlib
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from ..records.results import Choice, Provenance
from .samples import Samples


@dataclass(frozen=True)
class Source:
    """Where model, samples and loss come from, in words: the part of the provenance that only the caller knows."""

    checkpoint: str = "(in memory)"
    checkpoint_sha256: str | None = None
    model: str = ""
    data: str = ""
    loss: str = "cross-entropy"
    index_sha256: str | None = None
    training: dict[str, Any] | None = None
    subject: dict[str, Any] | None = None
    objective: dict[str, float] = field(default_factory=dict)  #: ``eta`` and ``weight_decay`` of the training, where known
    command: str | None = None
    choices: tuple[Choice, ...] = ()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of the tensors in a state_dict: identifies a model that was never saved."""
    return tensors_sha256({name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)})


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The same of any tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        host = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(host.shape)} {host.dtype}".encode())
        digest.update(host.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@cache
def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, with ``+`` where it was edited; None outside a checkout."""
    here = Path(__file__).resolve().parents[1]
    try:
        head = _git(here, "rev-parse", "HEAD")
        if Path(_git(here, "rev-parse", "--show-toplevel")) != here.parent:
            return None  # installed below somebody else's checkout
        return head + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(where: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(where), *arguments], check=True, capture_output=True, text=True).stdout.strip()


def environment(device: torch.device, dtype: torch.dtype) -> dict[str, object]:
    """The machine part of ``results.Provenance``."""
    from saddlescope import __version__, processor

    return {
        "saddlescope": __version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": f"{processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def describe(
    source: Source,
    model: nn.Module,
    samples: Samples,
    *,
    parameters: int,
    settings: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    seconds: float,
) -> Provenance:
    """The provenance of a result.

    Args:
        source: what the caller knows.
        model: as it was given, for its hash where no file is known.
        samples: what was analysed.
        parameters: n.
        settings: every choice that can change a number, JSON-able.
        device: where it was computed.
        dtype: in which precision.
        seconds: how long it took.
    """
    return Provenance(
        **environment(device, dtype),
        seed=settings.get("seed", 0),
        engine=settings.get("engine", "saddlescope"),
        deterministic=settings.get("deterministic", False),
        checkpoint=source.checkpoint,
        checkpoint_sha256=source.checkpoint_sha256 or weights_sha256(model),
        model=source.model or type(model).__name__,
        parameters=parameters,
        params_pattern=settings.get("params"),
        data=source.data or "(in memory)",
        data_sha256=samples.sha256(),
        index_sha256=source.index_sha256,
        class_counts=samples.class_counts.tolist(),
        loss=source.loss,
        training=source.training or {},
        settings=settings,
        subject=source.subject or {},
        choices=list(source.choices),
        command=source.command,
        seconds=round(seconds, 3),
    )
