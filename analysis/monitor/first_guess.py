"""What the first measurement will take, before there has been one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from ..hessian.evaluation import group_means
from ..hessian.losses import BatchLoss, classification_loss
from ..hessian.modules import copied
from .chosen import Chosen

#: A measurement takes about as long as so many forward passes over its samples: some 40 products of 4 each. (This decides only
#: when the first may begin; it is stopped when it takes longer, and the next guess is what the last one took.)
FORWARD_PASSES = 160
#: samples that the pass is timed on
FEW = 64


def first_guess(
    model: nn.Module,
    chosen: Chosen,
    loss: BatchLoss | None,
    device: torch.device,
    dtype: torch.dtype,
    clock: Callable[[], float],
) -> float:
    """Seconds, from the time of one forward pass over a few samples."""
    few = chosen.samples.subset(np.unique(np.linspace(0, chosen.samples.num_samples - 1, FEW).astype(int)))
    own = copied(model).to(device, dtype)
    seconds = 0.0
    for _ in range(2):  # the first pass also pays for what is set up once
        began = clock()
        rows = {"few": np.arange(few.num_samples)}
        group_means(own, few, rows, loss or classification_loss(), device=device, dtype=dtype)
        seconds = clock() - began
    samples = sum(len(parts[0]) for parts in chosen.parts.values())
    return seconds / few.num_samples * samples * FORWARD_PASSES
