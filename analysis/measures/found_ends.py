"""Both ends as a run has found them: what it says of them, and how they are stored for an analysis that goes on later."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..krylov.lanczos import SAME, Lanczos
from ..krylov.linear_operator import LinearOperator, product_error
from ..krylov.space import space_of
from ..krylov.start_store import StartStore, remember_error
from ..krylov.stored_state import StateError, load_state, save_state
from .settled import gaps_of, within

_FILE, _VECTORS = "ends.safetensors", ("min", "max")


@dataclass(frozen=True)
class Ends:
    """Both ends, the smallest first.

    Attributes:
        values: Rayleigh quotients.
        residuals: of the unit vectors ``vectors``.
        gaps: distance to the rest of the spectrum, as far as it is known.
        doubts: as :func:`.settled.doubts`, of the run that found them.
        eps: of the two-sided interval, see :func:`~saddlescope.analysis.krylov.bounds.end_intervals`.
        bounds: ascending; the k-th smallest eigenvalue is at most the k-th of these.
        exhausted: these are the ends, without any doubt.
        asymmetry: of the operator on the space that they were found in, as ``Lanczos.asymmetry``.
        steps: of the run that found them.
    """

    values: tuple[float, float]
    residuals: tuple[float, float]
    gaps: tuple[float, float]
    doubts: tuple[float, float]
    vectors: tuple[Tensor, Tensor]
    eps: float | None
    bounds: np.ndarray
    exhausted: bool
    asymmetry: float
    steps: int

    def settled(self, rtol: float) -> tuple[bool, bool]:
        """As :func:`ends_settled`."""
        return within(self.values, self.residuals, self.gaps, rtol, self.steps)

    def save(self, store: StartStore, operator: LinearOperator, matvecs: int) -> None:
        """Stores them, whole or not at all.

        Args:
            store: of the operator.
            operator: that they are of.
            matvecs: products that finding them took.
        """
        pairs = torch.tensor([self.values, self.residuals, self.gaps, self.doubts], dtype=torch.float64)
        eps = math.nan if self.eps is None else self.eps
        numbers = torch.tensor([eps, self.asymmetry, product_error(operator)], dtype=torch.float64)
        counts = torch.tensor([int(self.exhausted), self.steps, matvecs])
        bounds = torch.from_numpy(np.ascontiguousarray(self.bounds))
        common = {"pairs": pairs, "numbers": numbers, "counts": counts, "bounds": bounds}
        vectors = dict(zip(_VECTORS, self.vectors, strict=True))
        save_state(store.folder / _FILE, common, vectors, space_of(operator), store.who, self.steps)

    @classmethod
    def load(cls, store: StartStore, operator: LinearOperator) -> Ends | None:
        """Those that are stored, if two products with them say that they are this operator's; else None.

        The operator has then counted all the products that it took to find them, and knows what error they had.
        """
        space = space_of(operator)
        try:
            found = load_state(store.folder / _FILE, space, lambda name: name in _VECTORS)
            # Fresh allocations: products with memory-mapped rows could differ in the last digit.
            pair = [found[name].clone().to(operator.device) for name in _VECTORS]
            values, residuals, gaps, doubts = ((float(low), float(high)) for low, high in found["pairs"].tolist())
            eps, asymmetry, error = found["numbers"].tolist()
            exhausted, steps, matvecs = found["counts"].tolist()
            bounds = found["bounds"].numpy()
        except (FileNotFoundError, SafetensorError, StateError, KeyError, ValueError):
            pair = []
        fits = bool(pair) and all((len(v), v.dtype) == (space.local, operator.dtype) for v in pair)
        if not store.agreed(steps if fits else None) or not fits:
            return None
        before, vectors = operator.matvecs, torch.stack(pair, dim=1)
        images = operator.matmat(vectors).double()
        quotients = space.dots(images, vectors.double())
        lengths = space.norms(images - vectors.double() * quotients)
        apart = (torch.stack([quotients, lengths]).cpu() - torch.tensor([values, residuals], dtype=torch.float64)).abs()
        if float(apart.max()) > SAME * max(map(abs, values)) + max(error, product_error(operator)):
            operator.matvecs = before
            return None
        operator.matvecs = before + matvecs
        remember_error(operator, error)
        eps = None if math.isnan(eps) else eps
        return cls(values, residuals, gaps, doubts, (pair[0], pair[1]), eps, bounds, bool(exhausted), asymmetry, steps)


def of_run(run: Lanczos, eps: float | None, doubt: tuple[float, float]) -> Ends:
    """What a run on the operator itself says."""
    ritz = run.ritz
    both = [(float(one[0]), float(one[-1])) for one in (ritz.values, ritz.residuals)]
    vectors = run.ritz_vector(0), run.ritz_vector(-1)
    return Ends(both[0], both[1], gaps_of(run), doubt, vectors, eps, ritz.values, run.exhausted, run.asymmetry, run.steps)


def through(operator: LinearOperator, run: Lanczos, doubt: tuple[float, float]) -> Ends:
    """What the operator says of the outer Ritz vectors of a run on another one (Rayleigh-Ritz, one product for each)."""
    found = torch.stack([run.ritz_vector(0), run.ritz_vector(-1)], dim=1)
    basis, _ = torch.linalg.qr(found.double())
    images = operator.matmat(basis.to(operator.dtype)).double()
    small = (basis.T @ images).cpu().numpy()
    values, turned = np.linalg.eigh((small + small.T) / 2)
    turn = torch.from_numpy(turned).to(basis.device)
    vectors, images = basis @ turn, images @ turn
    residuals = (images - vectors * torch.from_numpy(values).to(basis.device)).norm(dim=0).tolist()
    low, high = (vector.to(operator.dtype) for vector in vectors.T)
    # The other operator's gaps: they matter to the error's estimate only, and by no more than the two differ.
    gaps = gaps_of(run)
    asymmetry = float(abs(small[0, 1] - small[1, 0]))
    pair = float(values[0]), float(values[1])
    return Ends(pair, tuple(residuals), gaps, doubt, (low, high), None, values, False, asymmetry, run.steps)
