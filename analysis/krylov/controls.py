"""What a Krylov space knows of independent random probes: the controls of a trace estimate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .lanczos import Lanczos, random_start
from .space import space_of

#: further starts that a run prepares for, beyond those it knows of: an analysis may be added to later
_PREPARED = 7


@dataclass(frozen=True)
class Controls:
    """What one run knows of probes that are independent of it.

    Attributes:
        seeds: of the guard's vectors; none: the run was not the first one, and has no controls.
        forms: ``z^T Q T Q^T z`` of the guard's vectors, then of the starts with the next seeds.
        squares: ``||M z||^2`` of the guard's vectors.
    """

    seeds: tuple[int, ...]
    forms: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, run: Lanczos, products: Mapping[int, Tensor], further: int) -> Controls:
        """Controls of a finished run.

        Args:
            run: the first start; of a later one nothing is asked.
            products: seed of a random unit vector -> its product ``[n]``; none of a later start.
            further: starts that may follow, with the seeds after the run's own.
        """
        seeds = [*products, *(run.seed + 1 + i for i in range(max(further, _PREPARED)))] if products else []
        forms, squares = [], []
        for seed in seeds:
            inside = run.project(random_start(run.operator, seed))
            image = run.tridiagonal_times(inside)
            forms.append(float(inside @ image))
            if seed in products:
                product = products[seed]
                square = space_of(run.operator).norm(product.double()) ** 2
                squares.append(square - 2 * float(image @ run.project(product)) + float(image @ image))
        return cls(tuple(products), np.array(forms), np.maximum(squares, 0.0))
