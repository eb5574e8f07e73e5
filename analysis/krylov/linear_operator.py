"""The contract that every operator of the suite keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class OperatorError(ValueError):
    """The Hessian cannot be formed; the message names the parameter, sample or loss and the fix."""


class NotFiniteError(OperatorError):
    """A product holds infinities or NaN at these weights."""


class NoSecondDerivativeError(OperatorError):
    """An operation of the model can be differentiated once, but not twice."""


def product_error(operator: object) -> float:
    """Norm of the error of a product with a unit vector, as an operator has measured it; 0 where rounding is all."""
    return float(getattr(operator, "error", 0.0))


class LinearOperator(Protocol):
    """A real symmetric matrix ``[n, n]`` known by its products. ``matvecs`` counts them."""

    size: int
    dtype: torch.dtype
    device: torch.device
    num_samples: int
    matvecs: int

    def matvec(self, v: Tensor) -> Tensor:
        """``H v`` for ``v [n]``."""

    def matmat(self, v: Tensor) -> Tensor:
        """``H V`` for ``V [n, k]``, column by column where an operator has no better way."""
        return torch.stack([self.matvec(column) for column in v.T], dim=1)

    def release(self) -> None:
        """Forgets what was kept to make the next product cheaper; nothing, by default."""
        return

    def look(self, vectors: Mapping[str, Tensor] | None = None, *, seed: int = 0) -> list[str]:
        """Holds products against another way to the same numbers, where there is one: see ``hessian.differences``."""
        return []


class MatrixOperator(LinearOperator):
    """A symmetric matrix ``[n, n]`` held in memory."""

    def __init__(self, matrix: Tensor, num_samples: int = 1) -> None:
        self.matrix, self.size, self.num_samples, self.matvecs = matrix, matrix.shape[0], num_samples, 0
        self.dtype, self.device = matrix.dtype, matrix.device

    def matvec(self, v: Tensor) -> Tensor:
        """``H v`` for ``v [n]``."""
        self.matvecs += 1
        return self.matrix @ v

    def matmat(self, v: Tensor) -> Tensor:
        """``H V`` for ``V [n, k]``."""
        self.matvecs += v.shape[1]
        return self.matrix @ v
