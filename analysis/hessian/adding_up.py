"""Whether a loss is a sum over samples: the mean over samples is what is differentiated, in whatever batches fit."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..krylov.linear_operator import OperatorError
from ..krylov.space import space_of
from ..samples.samples import Samples
from ..samples.stores import BatchStore
from .losses import BatchLoss
from .modules import copied, evaluation_mode, without_gradients

#: Samples that are compared, and at most so many where there are more classes.
FEW, MOST = 16, 64
#: Relative difference of sums or gradients that is more than rounding.
DIFFERS = 1e-3


class Summing(Protocol):
    """What is asked of an operator here."""

    model: nn.Module
    samples: Samples
    loss: BatchLoss
    micro_batch: int
    dtype: torch.dtype
    device: torch.device
    size: int

    def sum_and_slope(self, samples: Samples, *, slope: bool = True) -> tuple[float, Tensor]:
        """Summed loss over samples and its gradient."""

    def with_model(self, model: nn.Module) -> Summing:
        """The same of another model."""


def require_sums(operator: Summing) -> None:
    """Compares the summed loss of some samples of different classes, and its gradient, with those of two parts of them.

    Values alone do not tell: a mean weighted by class is the plain mean where losses are equal, and its gradient is not. A
    difference of gradients may be rounding where the losses are tiny; float64 decides that. Samples of several shapes are
    compared once more within one batch: those of different classes may never meet in one.

    Raises:
        OperatorError: a sample's loss depends on its company in the batch.
    """
    store = operator.samples.store
    chosen = [of_every_class(operator.samples.labels)]
    if isinstance(store, BatchStore):
        chosen.append(store.longest_run()[:FEW])
    for few in chosen:
        if len(few) > operator.micro_batch:  # a gradient of more may not fit
            few = few[np.unique(np.linspace(0, len(few) - 1, max(2, operator.micro_batch)).astype(int))]  # noqa: PLW2901
        if len(few) >= 2:
            _require_sum(operator, few)


def _require_sum(operator: Summing, few: np.ndarray) -> None:
    first = max(1, len(few) // 3)
    parts = [few, few, few[:first], few[first:]]
    if operator.dtype.itemsize < 4:  # sums in half precision differ by more than is allowed
        with suppress(OperatorError):
            operator = _in_float64(operator)
    values, slopes = _sums(operator, parts)
    allowed = DIFFERS * max(abs(values[0]), abs(values[2] + values[3])) + 1e-5 * len(few)
    if not math.isfinite(values[0]) or abs(values[0] - values[1]) > allowed:
        return  # a run that diverged, or random: that is for others to say
    if not abs(values[0] - values[2] - values[3]) <= allowed:  # a loss over pairs may be NaN where there are none
        raise OperatorError(
            f"the summed loss of {len(few)} samples is {values[0]:.6g} in one batch and {values[2] + values[3]:.6g} in two: "
            f"{_why(operator, few, first)}"
        )
    apart = _difference(operator, slopes)
    if apart > DIFFERS and operator.dtype != torch.float64:
        with suppress(OperatorError):  # model or loss cannot work in it
            wide = _in_float64(operator)
            apart = _difference(wide, _sums(wide, parts)[1])
    if apart > DIFFERS:
        raise OperatorError(
            f"the summed loss of {len(few)} samples is the same in one batch and in two, {values[0]:.6g}, but its gradient "
            f"differs by {100 * apart:.2g} %: {_why(operator, few, first)}"
        )


def _why(operator: Summing, few: np.ndarray, first: int) -> str:
    """Whether model or loss mixes samples, by what the model returns for a batch and for a part of it."""
    seen: list[Any] = []
    hook = operator.model.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    found = []
    try:
        for rows in (few, few[:first]):
            seen.clear()
            batch = next(operator.samples.subset(rows).batches(len(rows), operator.device, operator.dtype))
            with evaluation_mode(operator.model):
                losses = without_gradients(partial(operator.loss, operator.model, batch))
            found.append([leaf for leaf in tree_leaves(seen) if isinstance(leaf, Tensor)])
    finally:
        hook.remove()
    for whole, part in zip(*found, strict=False):
        alike = whole.dim() == part.dim() > 0 and whole.shape[1:] == part.shape[1:] and len(part) <= len(whole)
        if alike and not torch.allclose(whole[: len(part)], part, rtol=1e-3, atol=1e-5 * float(whole.abs().max())):
            return "the model mixes the samples of a batch, as BatchNorm in train mode (or exported so) does"
    if losses.dim() == 0:
        return (
            "the loss returns a weighted mean instead of one number per sample (a mean over all tokens or pixels of a batch is "
            "one, too), or couples the samples of a batch, as contrastive losses do"
        )
    return (
        "the loss of a sample depends on the others of its batch, as contrastive losses (NT-Xent, SupCon, CLIP) do: this "
        "is no mean over samples, is another function for every size of batch, and has no Hessian of a group of them"
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


def _in_float64(operator: Summing) -> Summing:
    return operator.with_model(copied(operator.model).double())
