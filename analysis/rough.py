"""A Hessian whose products are cheap and a little wrong: good enough to find eigenvectors with, not to measure them.

An eigenvalue's error is the square of its vector's, so a vector found with an operator that is off by 0.3 % gives the value to
about 1e-5 once it is put through the exact one. (Lower precision inside, full precision around it: the pattern of mixed-precision
iterative refinement; Higham and Mary, Acta Numerica 31, 2022.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .linear import OperatorError
from .operator import HessianOperator
from .second_derivatives import has_bfloat16_units


class RoughOperator:
    """The Hessian of an operator with its convolutions' second derivatives in bfloat16; the graphs are the operator's own.

    Args:
        operator: in float32, of a model whose convolutions are accelerated. Its graphs are freed: they will hold more.

    Raises:
        OperatorError: the operator is another one.
    """

    def __init__(self, operator: HessianOperator) -> None:
        if operator.precision is None or operator.dtype != torch.float32:
            raise OperatorError("only products of convolution networks in float32 can be taken roughly")
        self._operator, self._precision = operator, operator.precision
        self._precision.both = True
        operator.release()
        self.size, self.dtype, self.device, self.num_samples = (
            operator.size, operator.dtype, operator.device, operator.num_samples,
        )  # fmt: skip
        self.matvecs = 0

    def matvec(self, v: Tensor) -> Tensor:
        """``H v`` for ``v [n]``, roughly; the operator counts it, too."""
        return self.matmat(v.unsqueeze(1)).squeeze(1)

    def matmat(self, v: Tensor) -> Tensor:
        """``H V`` for ``V [n, k]``, roughly."""
        self.matvecs += v.shape[1]
        with self._precision.rough():
            return self._operator.matmat(v)


def rough_if_faster(operator: HessianOperator) -> RoughOperator | None:
    """The rough operator where it saves time: on a CPU that multiplies bfloat16 itself, for a network with convolutions."""
    fits = operator.precision is not None and operator.dtype == torch.float32 and operator.device.type == "cpu"
    return RoughOperator(operator) if fits and has_bfloat16_units() else None
