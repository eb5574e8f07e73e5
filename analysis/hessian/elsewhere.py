"""A loss at other weights, and what an operator tells whoever looks at it from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from ..krylov.linear_operator import LinearOperator
from ..samples.samples import Samples


class Movable(Protocol):
    """Something with weights."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """Moved in place."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""

    @property
    def device(self) -> torch.device:
        """Of the weights."""


class GroupHessian(LinearOperator, Movable, Protocol):
    """The Hessian of a group's mean loss, with the model and the loss that it is of: see ``operator.HessianOperator``.

    Attributes:
        model: any module.
        samples: of the group, in this process.
        products: ``exact``, or ``differences`` of the gradient, which measure their own error.
    """

    model: nn.Module
    samples: Samples
    products: Literal["exact", "differences"]

    def weights(self) -> Tensor:
        """The parameters as one flat vector ``[n]``."""

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        """Mean loss and its gradient ``[n]``."""

    def mean_loss(self) -> float:
        """Mean loss, without a graph."""

    def recorded_loss(self) -> Tensor:
        """Summed loss of the first micro-batch, with its graph."""

    def over(self, samples: Samples, *, memory: int | None = None) -> GroupHessian:
        """The mean over other samples, in this process."""

    def in_float64(self) -> GroupHessian:
        """The same over a copy of the model in float64."""


@contextmanager
def shifted(operator: Movable, direction: Tensor, s: float) -> Iterator[None]:
    """The model at ``w + s direction`` inside; its weights restored to the bit afterwards, also after an exception."""
    saved = [p.detach().clone() for p in operator.parameters]
    parts = direction.to(operator.device, operator.dtype).split([p.numel() for p in operator.parameters])
    try:
        with torch.no_grad():
            for p, part in zip(operator.parameters, parts, strict=True):
                p.add_(part.view_as(p), alpha=s)
        yield
    finally:
        with torch.no_grad():
            for p, before in zip(operator.parameters, saved, strict=True):
                p.copy_(before)
