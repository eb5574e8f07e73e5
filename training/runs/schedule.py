"""Learning rate by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["cosine", "step", "constant"]


def learning_rate(
    epoch: int,
    *,
    epochs: int,
    lr: float,
    schedule: Schedule = "cosine",
    warmup_epochs: int = 0,
    steps: Sequence[tuple[int, float]] = (),
) -> float:
    """Learning rate of a whole epoch, counted from 0.

    Args:
        epoch: 0 .. epochs - 1.
        epochs: length of the training.
        lr: the highest rate.
        schedule: ``cosine``: ``lr (1 + cos(pi t / T)) / 2``, where t and T count epochs after warm-up: the first runs at the
            full rate and the last above zero. ``step``: ``lr`` times the factor of the last of ``steps`` that has been reached.
        warmup_epochs: the first epochs run at ``lr (epoch + 1) / warmup_epochs``, as in LDAM-DRW.
        steps: ``(epochs done, factor of lr)``; ``((160, 0.01), (180, 0.0001))`` is LDAM-DRW's.
    """
    if epoch < warmup_epochs:
        return lr * (epoch + 1) / warmup_epochs
    if schedule == "cosine":
        return lr * 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / (epochs - warmup_epochs)))
    factor = 1.0
    if schedule == "step":
        for after, value in steps:
            factor = value if epoch >= after else factor
    return lr * factor
