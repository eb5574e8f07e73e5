"""Both ends of every group's Hessian away from the checkpoint: the convexity map of Li et al. (NeurIPS 2018), per group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..hessian.losses import BatchLoss
from ..hessian.operator import HessianOperator
from ..krylov.basis import BasisChoice
from ..krylov.guards import guard, require_symmetric
from ..krylov.lanczos import Lanczos, random_start
from ..krylov.linear_operator import NotFiniteError
from ..samples.groups import GroupError
from ..samples.samples import Samples
from .extremes import between_ends
from .settled import Settled, ends_settled
from .subsampling import looked_at

#: (lambda_min, lambda_max); None where it is not known
Ends = tuple[float | None, float | None]


@dataclass(frozen=True)
class Convexity:
    """How the ends are measured at every cell.

    Attributes:
        groups: of the scheme; default: all.
        rtol: estimated error at which an end counts as converged, relative to its size (``settled``).
        steps: Lanczos step limit; what has not converged by then is a gap in the map.
        min_steps: steps done even where both ends converge sooner, lest a Ritz value rest on an eigenvalue further in.
        seed: of the start vector, the same at every cell.
        subsample: at most so many samples a group, those that the curvature analysis takes.
        micro_batch: as for the operator.
        memory: as for the operator.
        basis: where the vectors of the Krylov space are kept; the map does not depend on it.
    """

    groups: tuple[str, ...] | None = None
    rtol: float = 1e-2
    steps: int = 100
    min_steps: int = 10
    seed: int = 0
    subsample: int | None = None
    micro_batch: int | None = None
    memory: int | None = None
    basis: BasisChoice = "device"

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None, basis: BasisChoice = "device") -> Convexity | None:
        """From a provenance; None where there is no map or it has other fields. It is the same map whatever ``basis``."""
        if stored is None or {*stored, "basis"} != set(cls.__dataclass_fields__):
            return None
        groups = None if stored["groups"] is None else tuple(stored["groups"])
        return cls(**{**stored, "groups": groups, "basis": basis})


class EndsOfGroups:
    """Measures the groups' Hessians at whatever weights the model has at the moment.

    Args:
        model: its weights may be moved between two calls of ``measure``.
        samples: all of them.
        indices: sample indices of each group.
        loss: as for the operator.
        settings: what to measure, and how closely.
        params: as for the operator.

    Raises:
        GroupError: a group that is not there.
        RandomOperatorError: the Hessian changes between products, or is not symmetric.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        indices: Mapping[str, np.ndarray],
        loss: BatchLoss | None,
        settings: Convexity,
        *,
        params: str | None = None,
    ) -> None:
        unknown = [name for name in settings.groups or () if name not in indices]
        if unknown:
            raise GroupError(f"no group {', '.join(unknown)} for the convexity map; there are: {', '.join(indices)}")
        self.settings = settings
        self.operators: dict[str, HessianOperator] = {}
        self._shown: dict[str, Tensor] = {}
        for name in settings.groups or indices:
            rows = looked_at(indices[name], settings.subsample, settings.seed)
            operator = HessianOperator(
                model,
                samples.subset(rows),
                loss,
                params=params,
                micro_batch=settings.micro_batch,
                memory=settings.memory,
                vectors=settings.steps + 1,
            )
            guard(operator, settings.seed)
            operator.release()
            self.operators[name] = operator

    def measure(self) -> dict[str, Ends]:
        """The ends of each group, by Lanczos with full reorthogonalisation."""
        found = {}
        for name, operator in self.operators.items():
            try:
                found[name] = self._ends(name, operator)
            except NotFiniteError:  # weights so far out that the loss overflows
                found[name] = (None, None)
                self._shown.pop(name, None)
            operator.release()  # the next group needs the memory, and the next cell has other weights
        return found

    def _ends(self, name: str, operator: HessianOperator) -> Ends:
        rtol, least = self.settings.rtol, self.settings.min_steps
        start, settled = random_start(operator, self.settings.seed), Settled(rtol)
        if name in self._shown:  # the cell before: its eigenvectors are near this one's, the random half finds what is not
            start = start.double() + self._shown[name]

        def stop(run: Lanczos) -> bool:
            return settled(run) and run.steps >= least

        run = Lanczos(operator, self.settings.seed, start=start, place=operator.place(self.settings.basis)).run(
            self.settings.steps, stop
        )
        self._shown[name] = between_ends(run)
        values, residuals = run.ritz.values, run.ritz.residuals
        # Products are rounded: an end smaller than that (a convex loss has many zeros) is known as well as it can be.
        require_symmetric(run.asymmetry, max(abs(values[0]), abs(values[-1])), operator, run.steps)
        rounding = 8 * torch.finfo(operator.dtype).eps * run.scale
        known = [one or residuals[end] <= rounding for end, one in zip((0, -1), ends_settled(run, rtol), strict=True)]
        low, high = (float(values[end]) if one else None for end, one in zip((0, -1), known, strict=True))
        return low, high
