"""Balanced SAM (Liu et al., ICCV 2025): SAM on a re-weighted loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from ..class_counts import ClassTable, number, whole_counts
from .data_parallel import Gradient
from .passes import Inputs, OptimizerError, Passes
from .sam import Part, partwise_gradient
from .wrapper import Common, Wrapper


class BSAM(Wrapper):
    """BSAM: ``grad L_a(w + rho g / ||g||)``, ``g = grad L_a(w)``, ``L_a = sum_i a_{y_i} l_i / B``.

    ``a_c`` is proportional to ``n_c^(-1/2)`` with mean 1 over the training samples, in both passes: 2 forward and 2
    backward. The rule is that of the authors' code, which is for regression (``n`` counts the samples of a bin of the
    target).

    Args:
        base: Any torch optimizer.
        class_counts: Training samples of each class ``[C]``, at least 1 each.
        rho: Radius; 0.2 in the authors' code.
        **common: See :class:`~saddlescope.training.optimizers.wrapper.Common`.

    Raises:
        OptimizerError: A negative radius, or a class without samples.
    """

    name: ClassVar[str] = "bsam"

    def __init__(
        self, base: torch.optim.Optimizer, class_counts: Sequence[int], *, rho: float = 0.2, **common: Unpack[Common]
    ) -> None:
        super().__init__(base, **common)
        counts = whole_counts(class_counts, OptimizerError, least=1)
        self.rho = number("rho (radius of the perturbation)", rho, 0, math.inf, OptimizerError)
        self.settings = {"rho": self.rho, "class_counts": counts}
        total = sum(n**0.5 for n in counts)  # sum over the training samples of n^(-1/2)
        self._weight = ClassTable([sum(counts) / total * n**-0.5 for n in counts], torch.float64, OptimizerError)

    def _gradient(self, passes: Passes, inputs: Inputs, targets: Tensor) -> tuple[Gradient, Tensor, Tensor]:
        weights = self._weight(targets).to(passes.weight_dtype) / self._batch_size(targets)
        return partwise_gradient(passes, inputs, targets, [Part(weights, self.rho)], self.parallel)
