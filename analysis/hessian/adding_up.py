"""Whether a loss is a sum over samples: the mean over samples is what is differentiated, in whatever batches fit."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..krylov.linear_operator import OperatorError
from ..krylov.space import space_of
from ..samples.samples import Samples
from .modules import copied

#: Samples that are compared, and at most so many where there are more classes.
FEW, MOST = 16, 64
#: Relative difference of sums or gradients that is more than rounding.
DIFFERS = 1e-3


class Summing(Protocol):
    """What is asked of an operator here."""

    model: nn.Module
    samples: Samples
    micro_batch: int
    dtype: torch.dtype
    size: int

    def sum_and_slope(self, samples: Samples, *, slope: bool = True) -> tuple[float, Tensor]:
        """Summed loss over samples and its gradient."""

    def with_model(self, model: nn.Module) -> Summing:
        """The same of another model."""


def require_sums(operator: Summing) -> None:
    """Compares the summed loss of some samples of different classes, and its gradient, with those of two parts of them.

    Values alone do not tell: a mean weighted by class is the plain mean where losses are equal, and its gradient is not. A
    difference of gradients may be rounding where the losses are tiny; float64 decides that.

    Raises:
        OperatorError: a sample's loss depends on its company in the batch.
    """
    few = of_every_class(operator.samples.labels)
    if len(few) > operator.micro_batch:  # a gradient of more may not fit
        few = few[np.unique(np.linspace(0, len(few) - 1, max(2, operator.micro_batch)).astype(int))]
    if len(few) < 2:
        return
    first = max(1, len(few) // 3)
    parts = [few, few, few[:first], few[first:]]
    values, slopes = _sums(operator, parts)
    allowed = DIFFERS * max(abs(values[0]), abs(values[2] + values[3])) + 1e-5 * len(few)
    if abs(values[0] - values[1]) > allowed or not math.isfinite(values[2] + values[3]):
        return  # random, or a run that diverged: that is for others to say
    if abs(values[0] - values[2] - values[3]) > allowed:
        raise OperatorError(
            f"the summed loss of {len(few)} samples is {values[0]:.6g} in one batch and {values[2] + values[3]:.6g} in two: "
            f"{_WHY}"
        )
    apart = _difference(operator, slopes)
    if apart > DIFFERS and operator.dtype != torch.float64:
        apart = _in_float64(operator, parts, apart)
    if apart > DIFFERS:
        raise OperatorError(
            f"the summed loss of {len(few)} samples is the same in one batch and in two, {values[0]:.6g}, but its gradient "
            f"differs by {100 * apart:.2g} %: {_WHY}"
        )


_WHY = (
    "BatchNorm in train mode (or exported so) mixes the samples of a batch, or the loss returns a weighted mean instead of one "
    "number per sample"
)


def of_every_class(labels: np.ndarray) -> np.ndarray:
    """Sixteen samples or one of each class, at most 64, ordered by class."""
    by_class = np.argsort(labels, kind="stable")
    classes, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    if len(classes) >= FEW:
        places = starts[np.unique(np.linspace(0, len(starts) - 1, min(MOST, len(starts))).astype(int))]
    else:
        ranks = np.arange(len(labels)) - np.repeat(starts, counts)  # of each sample within its class
        places = np.sort(np.argsort(ranks, kind="stable")[:FEW])
    chosen: np.ndarray = by_class[places]
    return chosen


def _sums(operator: Summing, parts: list[np.ndarray]) -> tuple[list[float], list[Tensor]]:
    """Summed loss and its gradient over each part; the second one, a repeat of the first, without gradient."""
    values, slopes = [], []
    for place, chosen in enumerate(parts):
        value, slope = operator.sum_and_slope(operator.samples.subset(chosen), slope=place != 1)
        values.append(value)
        slopes.append(slope)
    return values, slopes


def _difference(operator: Summing, slopes: list[Tensor]) -> float:
    """Of the gradient of all and that of its parts, relative to the parts'."""
    space, (whole, _, one, other) = space_of(operator), slopes
    scale = space.norm(one) + space.norm(other)
    difference = space.norm(whole - one - other)
    return difference / scale if scale > 0 and math.isfinite(difference) else 0.0


def _in_float64(operator: Summing, parts: list[np.ndarray], apart: float) -> float:
    """The same in double precision; what was found before where model or loss cannot work in it."""
    try:
        wide = operator.with_model(copied(operator.model).double())
        return _difference(wide, _sums(wide, parts)[1])
    except OperatorError:
        return apart
