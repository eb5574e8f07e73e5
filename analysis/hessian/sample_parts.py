"""Which of a group's samples stand for it: those that are looked at first, and those that are guarded."""

from __future__ import annotations

import math

import numpy as np

from ..krylov.linear_operator import LinearOperator
from .operator import HessianOperator

#: Of a group of so many samples a quarter is looked at first, of a smaller one an eighth (its own products cost little), and of
#: one smaller than the last number nothing.
LARGE, SMALL = 256, 64
#: Multiplications of a forward pass over the group below which a part saves nothing: its products take nearly as long as the
#: group's, which is the time of starting operations, not of doing them.
WORTH_A_LOOK = 3e7


def part_of(indices: np.ndarray, labels: np.ndarray, work: float = math.inf) -> np.ndarray | None:
    """A part of a group that is worth looking at first, the classes in their shares.

    Args:
        indices: the group's samples.
        labels: class of every sample of the data.
        work: of the group's operator (``HessianOperator.work``).

    Returns:
        Sorted indices; None where the group or the network is too small for a part.
    """
    if len(indices) < SMALL or work < WORTH_A_LOOK:
        return None
    every = 4 if len(indices) >= LARGE else 8
    by_class = indices[np.argsort(labels[indices], kind="stable")]
    return np.sort(by_class[every // 2 :: every])


def one_micro_batch(operator: LinearOperator) -> LinearOperator:
    """What is guarded: the same Hessian over one micro-batch of its samples, where these lie on one device.

    What is random in some samples is in all, and the noise of fewer is hardly ever smaller. Kernels that are compiled for a
    micro-batch of this size are used again.
    """
    if not isinstance(operator, HessianOperator) or operator.reduce is not None:
        return operator
    few = operator.micro_batch
    if operator.num_samples <= few:
        return operator
    return operator.over(operator.samples.subset(np.linspace(0, operator.num_samples - 1, few).astype(int)))
