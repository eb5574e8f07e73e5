"""A Hessian whose vectors are spread over processes: each holds a slice of them, as many as there are."""

from __future__ import annotations

from torch import Tensor

from ..krylov.linear_operator import LinearOperator, product_error
from .distributed import World
from .operator import HessianOperator


class SlicedOperator(LinearOperator):
    """The products of an operator with vectors of which this process has a slice.

    Weights are whole in every process, and so is one vector at a time while its product is taken: it is gathered, and what
    comes out is cut again. A Krylov space of m vectors holds ``m n / slices`` numbers in each process.

    Args:
        operator: of whole vectors, its products summed over the processes.
        world: the processes.
    """

    def __init__(self, operator: HessianOperator, world: World) -> None:
        self.operator, self.world = operator, world
        self.space = world.space(operator.size)
        self.size, self.num_samples = operator.size, operator.num_samples
        self.dtype, self.device = operator.dtype, operator.device

    @property
    def matvecs(self) -> int:
        """Products of the operator so far."""
        return self.operator.matvecs

    @matvecs.setter
    def matvecs(self, count: int) -> None:
        self.operator.matvecs = count

    @property
    def error(self) -> float:
        """Of a product, where the operator measures it."""
        return product_error(self.operator)

    @error.setter
    def error(self, error: float) -> None:
        self.operator.error = error  # type: ignore[attr-defined]

    def matvec(self, v: Tensor) -> Tensor:
        """``H v`` for a slice ``v [local]``."""
        return self.matmat(v.unsqueeze(1)).squeeze(1)

    def matmat(self, v: Tensor) -> Tensor:
        """``H V`` for slices ``V [local, k]``."""
        return self.world.slice_of(self.operator.matmat(self.world.whole(v, self.size)))

    def release(self) -> None:
        """Frees what the operator keeps."""
        self.operator.release()
