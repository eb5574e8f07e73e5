"""The curves of a finished run for TensorBoard (extra ``tensorboard``)."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any


class TensorBoardError(ValueError):
    """TensorBoard is not installed."""


def require() -> None:
    """Raises TensorBoardError unless the package is there."""
    if importlib.util.find_spec("tensorboard") is None:
        raise TensorBoardError("--tensorboard: not installed; pip install 'saddlescope[tensorboard]'")


def write_events(run: Path) -> Path:
    """Writes ``run/tensorboard`` anew from ``metrics.jsonl``, whatever was there; returns it.

    Scalars by epoch: learning rate, training loss, stage, and every accuracy (of groups, and of each class).
    """
    from torch.utils.tensorboard import SummaryWriter

    folder = run / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    writer = SummaryWriter(str(folder))
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row: dict[str, Any] = json.loads(line)
        for name, value in scalars(row).items():
            writer.add_scalar(name, value, row["epoch"])
    writer.close()
    return folder


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of one line of ``metrics.jsonl``, by TensorBoard's names; what was not measured is left out."""
    accuracy = row.get("accuracy") or {}
    classes = {f"accuracy per class/{index}": value for index, value in enumerate(accuracy.get("per_class") or [])}
    groups = {f"accuracy/{name}": value for name, value in accuracy.items() if name != "per_class"}
    found = {"lr": row["lr"], "train loss": row["train_loss"], "stage": row["stage"]} | groups | classes
    return {name: value for name, value in found.items() if value is not None}
