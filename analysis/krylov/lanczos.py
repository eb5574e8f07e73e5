"""Lanczos tridiagonalisation with full reorthogonalisation, resumable to the same digits.

The three-term recurrence loses orthogonality as soon as a Ritz pair converges (Paige 1976) and then reports the same eigenvalue
again and again. So every new vector is orthogonalised against its two neighbours, then against the whole basis as many times as
its loss of length calls for. Coefficients, and the eigenproblem of the tridiagonal matrix, are float64 on the CPU; products and
basis have the operator's dtype.

What the first of these passes takes away is the part of ``A q`` along the basis that the recurrence of a symmetric A does not
have: it tells, for nothing, how asymmetric the operator is on the whole Krylov space.

Above 300 lines: one recurrence, whose coefficients, basis and stored state must agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from .basis import KrylovBasis, Place
from .linear_operator import LinearOperator, product_error
from .space import space_of
from .stored_state import ALONE, Processes, StateError, load_state, save_state
from .wide_sums import left_over, wide_dot

#: Products of one operator agree to this part of its size, whatever the number of threads.
SAME = 1e-4
#: Passes of one orthogonalisation at most: two are enough unless nothing but round-off is left.
_MOST_PASSES = 4
#: Called after each step; returns True to stop.
Stop = Callable[["Lanczos"], bool]


class LanczosError(ValueError):
    """A stored run cannot be continued; the message names the file."""


@dataclass(frozen=True)
class Ritz:
    """Eigen-decomposition ``T = S diag(theta) S^T`` of the tridiagonal matrix after m steps.

    Attributes:
        values: theta ``[m]``, ascending.
        vectors: S ``[m, m]``.
        residuals: ``beta_m |S[m-1, i]|``, the residual norm of each Ritz pair ``[m]`` (a bound on it after a breakdown).
        weights: ``S[0, i]^2``, the quadrature weights ``[m]``: non-negative, sum 1.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    weights: np.ndarray


def ritz_of(alphas: Sequence[float], betas: Sequence[float]) -> Ritz:
    """What T says after m steps.

    Args:
        alphas: its diagonal ``[m]``.
        betas: at least m residual norms, see :class:`Lanczos`.
    """
    steps = len(alphas)
    values, vectors = eigh_tridiagonal(np.asarray(alphas), np.asarray(betas[: steps - 1]))
    return Ritz(values, vectors, abs(betas[steps - 1]) * np.abs(vectors[-1]), vectors[0] ** 2)


def random_start(operator: LinearOperator, seed: int) -> Tensor:
    """A vector ``[n]`` uniform on the unit sphere, the same on every device."""
    return space_of(operator).random(seed).to(operator.device, operator.dtype)


class Lanczos:
    """One run: start with a unit vector, call ``run``; continue later by calling it again.

    Args:
        operator: symmetric, fixed.
        seed: of the random start, and of the fresh directions after a breakdown.
        start: ``[n]``, instead of a random one.
        place: where the basis vectors are kept.

    Attributes:
        alphas, betas: diagonal of T, and the residual norm after each step (``betas[j]`` couples j and j + 1).
        restarts: steps that began with a fresh random direction because the Krylov space was complete (an invariant
            subspace); its coupling is exactly zero, which is how repeated eigenvalues are found.
        dropped: for each restart the norm of the round-off that was dropped; it counts in the residuals.
        exhausted: the whole space has been spanned, T's eigenvalues are the operator's.
        asymmetry: Frobenius norm of the upper part of ``Q^T A Q - T``, which is 0 for a symmetric A. The symmetric part of A
            differs from T on the basis by half of it at most.
        stored_error: of the products (``product_error``), as the operator had measured it when the run was stored.
    """

    def __init__(
        self, operator: LinearOperator, seed: int = 0, *, start: Tensor | None = None, place: Place = "device"
    ) -> None:
        self.operator, self.seed = operator, seed
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.restarts: list[int] = []
        self.dropped: list[float] = []
        self.exhausted = False
        self.asymmetry = 0.0
        self.stored_error = 0.0
        self._space = space_of(operator)
        first = (
            random_start(operator, seed)
            if start is None
            else (start.double() / self._space.norm(start.double())).to(operator.device, operator.dtype)
        )
        self._basis = KrylovBasis(self._space.local, operator.dtype, operator.device, place)
        self._basis.append(first)
        self._rest: Tensor | None = None  # of a product, once a step: getting new memory takes longer than filling it
        self._ritz: Ritz | None = None

    @property
    def steps(self) -> int:
        """m, the steps done."""
        return len(self.alphas)

    @property
    def ritz(self) -> Ritz:
        """Ritz values, residuals and weights after the steps done."""
        if self._ritz is None or len(self._ritz.values) != self.steps:
            self._ritz = ritz_of(self.alphas, self.betas)
            for step, norm in zip(self.restarts, self.dropped, strict=True):
                self._ritz.residuals[:] += norm * np.abs(self._ritz.vectors[step - 1])
        return self._ritz

    @property
    def scale(self) -> float:
        """Largest |entry| sum of T: an estimate of the operator's norm, for what counts as round-off."""
        off = [0.0, *self.betas]
        return max((abs(a) + b + c for a, b, c in zip(self.alphas, off, self.betas, strict=False)), default=0.0)

    @property
    def storable(self) -> bool:
        """Whether the run can be stored: one whose basis went to disk would write all of that again."""
        return not self._basis.on_disk

    def run(self, steps: int, stop: Stop | None = None) -> Lanczos:
        """Goes on until ``steps`` steps are done in all, ``stop`` says so, or the space is spanned."""
        while self.steps < min(steps, self.operator.size) and not self.exhausted:
            self._step()
            if stop is not None and stop(self):
                break
        self._rest = None
        return self

    def ritz_vector(self, index: int) -> Tensor:
        """Unit Ritz vector ``[n]`` of the Ritz value at ``index`` (negative: from the top)."""
        coefficients = torch.from_numpy(np.ascontiguousarray(self.ritz.vectors[:, index]))
        vector = self._basis.combined(coefficients)
        return vector.div(self._space.norm(vector.double())).to(self.operator.device, self.operator.dtype)

    @property
    def chain(self) -> tuple[list[float], list[float]]:
        """Diagonal and couplings of T as far as the start reaches: up to a breakdown, whose round-off is the last coupling."""
        if not self.restarts:
            return self.alphas, self.betas
        first = self.restarts[0]
        return self.alphas[:first], [*self.betas[: first - 1], self.dropped[0]]

    def project(self, z: Tensor) -> np.ndarray:
        """``Q^T z`` ``[m]`` in float64, Q the basis and z ``[n]``."""
        return self._overlap(z.to(self._basis.device, torch.float64), self.steps).cpu().numpy()

    def tridiagonal_times(self, y: np.ndarray) -> np.ndarray:
        """``T y`` for y ``[m]``."""
        off = np.array(self.betas[:-1])
        image: np.ndarray = np.array(self.alphas) * y
        image[:-1] += off * y[1:]
        image[1:] += off * y[:-1]
        return image

    def save(self, path: Path, who: Processes = ALONE) -> None:
        """Stores everything needed to continue (safetensors); of a basis that is in memory (:attr:`storable`).

        Args:
            path: of the file.
            who: the processes of which each holds the run; any number of them may continue it.
        """
        kept = min(self.steps + 1, self.operator.size)
        common = {
            "alphas": torch.tensor(self.alphas, dtype=torch.float64),
            "betas": torch.tensor(self.betas, dtype=torch.float64),
            "restarts": torch.tensor(self.restarts, dtype=torch.int64),
            "dropped": torch.tensor(self.dropped, dtype=torch.float64),
            "state": torch.tensor([self.seed, int(self.exhausted)], dtype=torch.int64),
            "asymmetry": torch.tensor([self.asymmetry], dtype=torch.float64),
            "error": torch.tensor([product_error(self.operator)], dtype=torch.float64),
        }
        save_state(path, common, self._basis.stored(kept), self._space, who, self.steps)

    @classmethod
    def load(cls, operator: LinearOperator, path: Path, place: Place = "device") -> Lanczos:
        """Continues a stored run on the same operator.

        Raises:
            LanczosError: the file is of an operator of another size or dtype, or is not a Lanczos run.
        """
        space = space_of(operator)
        try:
            tensors = load_state(path, space, lambda name: name.startswith("basis "))
            blocks = [tensors["basis 0"]]
            while (name := f"basis {sum(map(len, blocks))}") in tensors:
                blocks.append(tensors[name])
            basis, state = blocks[0], tensors["state"].tolist()
        except (SafetensorError, KeyError, StateError) as error:
            raise LanczosError(f"{path}: not a stored Lanczos run ({error}); delete it to begin again") from None
        local = space.local
        if basis.shape[1] != local or basis.dtype != operator.dtype:
            raise LanczosError(
                f"{path}: a run over {basis.shape[1]} parameters in {basis.dtype}, asked for {local} in "
                f"{operator.dtype}; delete it to begin again"
            )
        run = cls(operator, state[0], place=place)
        # Copied: products with rows that lie in the stored file as they may could differ in the last digit.
        run._basis = KrylovBasis(local, operator.dtype, operator.device, place)
        for block in blocks:
            for row in block:
                run._basis.append(row)
        run.alphas, run.betas = tensors["alphas"].tolist(), tensors["betas"].tolist()
        run.restarts, run.dropped = tensors["restarts"].tolist(), tensors["dropped"].tolist()
        run.exhausted = bool(state[1])
        run.asymmetry, run.stored_error = (float(tensors.get(name, torch.zeros(1)).item()) for name in ("asymmetry", "error"))
        return run

    def repeats(self, before: Stop) -> bool:
        """Takes the last step again: whether the operator is the one that the stored steps were taken with.

        Names and hashes do not tell: somebody's model or loss may have been edited.

        Args:
            before: called with the run without that step, where there is one, for a stop that wants two steps running.
        """
        alpha, beta, asymmetry, exhausted = self.alphas.pop(), self.betas.pop(), self.asymmetry, self.exhausted
        following = None if exhausted else self._basis.pop()
        if not exhausted and beta == 0:
            self.restarts.pop()
            self.dropped.pop()
        self.exhausted = False
        if self.steps:
            before(self)
        self._step()
        self.asymmetry = asymmetry  # which the step is in already
        apart = abs(self.alphas[-1] - alpha)
        if following is not None and self.exhausted == exhausted:
            apart += self._space.norm(self.betas[-1] * self._basis[-1].double() - beta * following.double())
        return self.exhausted == exhausted and apart <= SAME * self.scale + product_error(self.operator)

    def _step(self) -> None:
        j = self.steps
        q = self._basis[j].to(self.operator.device)
        w = self.operator.matvec(q)
        alpha = float(self._space.total(torch.tensor([wide_dot(w, self._space.dual(q))], dtype=torch.float64)))
        w, taken, beta = self._orthogonalise(self._without_neighbours(w, alpha), j + 1)
        self.asymmetry = math.hypot(self.asymmetry, float(taken.norm()))
        self.alphas.append(alpha)
        n = self.operator.size
        # Below this the new direction is round-off of the product, not information. (Its size does not grow with n: measured
        # 0.01 to 20 eps scale for n from 50 to 1e5. A higher floor would cut off a narrow bulk beside large outliers.)
        floor = 10 * torch.finfo(self.operator.dtype).eps * max(self.scale, abs(alpha))
        if j + 1 >= n:
            self.betas.append(0.0)
            self.exhausted = True
        elif beta <= floor:
            self.betas.append(0.0)
            self.dropped.append(beta)
            self._restart(j + 1)
        else:
            self.betas.append(beta)
            self._basis.append(w.div_(beta))

    def _restart(self, filled: int) -> None:
        w, _, length = self._orthogonalise(random_start(self.operator, self.seed + 7919 * filled), filled)
        self.restarts.append(filled)
        self._basis.append(w.div_(length))

    def _without_neighbours(self, w: Tensor, alpha: float) -> Tensor:
        """The three-term recurrence in float64: what is left along the basis is round-off, and one pass removes it."""
        j = self.steps
        known = [(alpha, self._basis[j])]
        if j and self.betas[-1]:
            known.append((self.betas[-1], self._basis[j - 1]))
        if self._rest is None:
            self._rest = torch.empty(len(w), dtype=torch.float64, device=self._basis.device)
        return left_over(w.to(self._basis.device), known, self._rest)

    def _orthogonalise(self, w: Tensor, filled: int) -> tuple[Tensor, Tensor, float]:
        """``w`` in float64 without its parts along the first ``filled`` basis vectors, these parts as they were, its length.

        Repeated for as long as a pass takes away half of the vector (Daniel, Gragg, Kaufman and Stewart 1976): only then is
        what it leaves along the basis, relative to the rest, above round-off.
        """
        w = w.to(self._basis.device, torch.float64)
        first: Tensor | None = None
        length = self._space.norm(w)
        for _ in range(_MOST_PASSES):
            before, overlap = length, self._overlap(w, filled)
            first = overlap if first is None else first
            self._basis.remove(w, overlap)
            length = self._space.norm(w)
            if length > before / 2:
                break
        assert first is not None
        return w, first, length

    def _overlap(self, w: Tensor, filled: int) -> Tensor:
        return self._space.total(self._basis.overlap(self._space.dual(w), filled))
