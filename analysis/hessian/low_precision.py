"""A Hessian whose products are cheap and a little wrong: good enough to find eigenvectors with, not to measure them.

An eigenvalue's error is of the second order in its vector's, so a vector found with an operator that is a little off gives the
value with an error much smaller than that once it is put through the exact one. (Lower precision inside, full precision around
it: the pattern of iterative refinement; Higham and Mary, Acta Numerica 31, 2022.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from saddlescope import processor

from ..krylov.linear_operator import LinearOperator, OperatorError
from .operator import HessianOperator

#: Multiplications of a convolution for one sample from which bfloat16 saves time: below it the rounding costs as much.
WORTH_ROUNDING = 5e5
#: Multiplications of a sample's forward pass for each weight, likewise: late layers on small images use a weight a few times,
#: and what is done to the weights and their tangents is then most of a product.
WORTH_A_WEIGHT = 10.0


class RoughOperator(LinearOperator):
    """The Hessian of an operator with its convolutions' second derivatives in bfloat16; the graphs are the operator's own.

    Args:
        operator: in float32, of a model whose convolutions are accelerated. Its graphs are freed: they will hold more.

    Raises:
        OperatorError: the operator is another one.
    """

    def __init__(self, operator: HessianOperator) -> None:
        if operator.accelerator is None or not operator.accelerator.convolution_work or operator.dtype != torch.float32:
            raise OperatorError("only products of convolution networks in float32 can be taken roughly")
        self._operator, self._precision = operator, operator.accelerator.precision
        self._precision.both = True
        operator.release()
        self.size, self.num_samples, self._matvecs = operator.size, operator.num_samples, 0
        self.dtype, self.device = operator.dtype, operator.device

    @property
    def matvecs(self) -> int:
        """Rough products so far. Whoever sets it, for those of a stored run, sets what the operator counts as well."""
        return self._matvecs

    @matvecs.setter
    def matvecs(self, count: int) -> None:
        self._operator.matvecs += count - self._matvecs
        self._matvecs = count

    def matvec(self, v: Tensor) -> Tensor:
        """``H v`` for ``v [n]``, roughly; the operator counts it, too."""
        return self.matmat(v.unsqueeze(1)).squeeze(1)

    def matmat(self, v: Tensor) -> Tensor:
        """``H V`` for ``V [n, k]``, roughly."""
        self._matvecs += v.shape[1]
        with self._precision.rough():
            return self._operator.matmat(v)


def multiplies_bfloat16_faster() -> bool:
    """Whether the processor multiplies bfloat16 itself, and faster than float32.

    With AMX it does. With AVX512-BF16 alone AMD's do; Intel's take as long as for float32 or longer (a virtual machine may hide
    AMX: ``tests/benchmarks/bfloat16.py``).
    """
    vectors, tiles = (  # a torch that cannot tell has no such kernels to lose
        getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return bool(tiles or (vectors and "Intel" not in processor()))


def is_rough_faster(operator: LinearOperator) -> bool:
    """Whether rough products of this operator save time.

    They do on a CPU that multiplies bfloat16 faster than float32, of convolutions of some size that use each weight often.

    Depends on the processor and the model alone, so that the same run takes the same way; processes that share a group's
    samples may have different processors, and go without.
    """
    if not isinstance(operator, HessianOperator) or operator.accelerator is None:
        return False
    fits = operator.dtype == torch.float32 and operator.device.type == "cpu" and operator.reduce is None
    plan = operator.accelerator
    worth = plan.convolution_work >= WORTH_ROUNDING and plan.work >= WORTH_A_WEIGHT * operator.size
    return fits and worth and multiplies_bfloat16_faster()


def rough_if_faster(operator: LinearOperator) -> RoughOperator | None:
    """The rough operator where it saves time, else None."""
    return RoughOperator(operator) if isinstance(operator, HessianOperator) and is_rough_faster(operator) else None
