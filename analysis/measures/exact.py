"""The dense Hessian in float64 and its whole spectrum: the truth for small models, in the same schema."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor

from ..krylov.density import energy
from ..krylov.guards import RandomOperatorError, product_rounding
from ..krylov.linear_operator import LinearOperator, product_error
from ..krylov.space import space_of
from ..krylov.spectrum import NO_RATIO, THRESHOLDS, Progress, Spectrum, negative_ratio
from ..records.base import Estimate
from ..records.spectra import Density, Extreme, IndexBound, MassAtThreshold, OperatorNoise, Probe
from ..samples.memory import free_bytes

log = logging.getLogger(__name__)

#: Above this the Lanczos engine is the better choice; a dense spectrum takes n products and O(n^3) work.
LIMIT = 20_000
#: Asymmetry of the dense matrix, relative to its largest entry, that counts as rounding: models that take a softmax or a norm
#: in float32 on their way round to about a hundredth of this.
SYMMETRIC = 1e-5


class TooLargeError(ValueError):
    """The dense Hessian does not fit the limit or the memory; the message says what would."""


def rechecked(spectrum: Spectrum, judge: LinearOperator) -> Spectrum:
    """The spectrum with its extremes held against float64.

    All extreme Ritz vectors get their Rayleigh quotient in float64. Where it differs from the float32 value by more than the
    measured noise (ReLU networks: a unit that is on in one precision and off in the other changes the function itself), that
    difference is the noise, and widens the intervals, by the quotient's own error as well: an eigenvalue lies beyond the
    quotient of a vector that is not quite an eigenvector, and float64 rounds, too.

    Args:
        spectrum: of the operator in float32.
        judge: the same operator in float64.
    """
    ends = {"min": spectrum.lowest, "max": spectrum.highest}
    pairs = {f"{end}-{rank}" if rank > 1 else end: pair for end in ends for rank, pair in enumerate(ends[end], start=1)}
    vectors = torch.stack([spectrum.vectors[name] for name in pairs]).to(judge.device, judge.dtype).T
    space, images = space_of(judge), judge.matmat(vectors)
    squares = space.dots(vectors, vectors)
    quotients = space.dots(images, vectors) / squares
    residuals = space.norms(images.sub_(vectors * quotients)) / squares.sqrt()
    rounding = product_rounding(judge) * max(abs(pair.value) for pair in pairs.values()) + product_error(judge)
    held: dict[str, Extreme] = {}
    for (name, pair), quotient, residual in zip(pairs.items(), quotients.tolist(), residuals.tolist(), strict=True):
        # What the run in float32 left of a residual is in its own interval already.
        error = max(residual - pair.residual, 0.0) + rounding
        extra = max(abs(quotient - pair.value) + error - pair.noise, 0.0)
        held[name] = _wider(pair, extra).model_copy(update={"rayleigh_quotient": quotient} if name in ends else {})
    return replace(
        spectrum,
        lambda_min=held["min"],
        lambda_max=held["max"],
        lowest=[pair for name, pair in held.items() if name.startswith("min")],
        highest=[pair for name, pair in held.items() if name.startswith("max")],
        negative_ratio=negative_ratio(held["min"], held["max"]),
    )


def _wider(extreme: Extreme, extra: float) -> Extreme:
    low, high = (None if bound is None else bound + by for bound, by in zip(extreme.interval, (-extra, extra), strict=True))
    around = (extreme.residual_interval[0] - extra, extreme.residual_interval[1] + extra)
    return extreme.model_copy(update={"interval": (low, high), "residual_interval": around, "noise": extreme.noise + extra})


def dense_matrix(operator: LinearOperator, progress: Progress | None = None) -> tuple[Tensor, float]:
    """``H [n, n]`` from n products, made symmetric, and its largest asymmetry (absolute).

    Raises:
        TooLargeError: n exceeds the limit or the matrix the memory.
        RandomOperatorError: the matrix is asymmetric beyond rounding.
    """
    n = operator.size
    needed = 3 * n * n * torch.finfo(operator.dtype).bits // 8
    if n > LIMIT or needed > free_bytes(torch.device("cpu")):
        raise TooLargeError(
            f"the exact spectrum of {n} parameters needs a dense matrix of {needed / 2**30:.1f} GiB and {n} products "
            f"(limit: {LIMIT} parameters); choose fewer with --params, or leave out --exact"
        )
    matrix = torch.empty((n, n), dtype=operator.dtype)
    unit = torch.zeros(n, dtype=operator.dtype, device=operator.device)
    for column in range(n):
        unit[column] = 1
        matrix[:, column] = operator.matvec(unit).cpu()
        unit[column] = 0
        if progress is not None:
            progress(1)
    asymmetry = float((matrix - matrix.T).abs().max())
    relative = asymmetry / max(float(matrix.abs().max()), torch.finfo(matrix.dtype).tiny)
    if relative > SYMMETRIC and asymmetry > 2 * product_error(operator):
        raise RandomOperatorError(
            f"the dense Hessian is not symmetric (its entries differ from their mirror images by up to {relative:.1e} of the "
            "largest one): model or loss use a backward pass that is not the derivative of the forward pass, or are random"
        )
    return (matrix + matrix.T) / 2, asymmetry


def exact_spectrum(
    operator: LinearOperator, *, thresholds: Sequence[float] = THRESHOLDS, k: int = 1, progress: Progress | None = None
) -> Spectrum:
    """All eigenvalues, by LAPACK. Every interval is the eigenvalue plus or minus the rounding of the decomposition.

    Raises:
        TooLargeError: see ``dense_matrix``.
    """
    before = operator.matvecs
    matrix, asymmetry = dense_matrix(operator, progress)
    values, vectors = eigh(matrix.cpu().double().numpy())
    n, scale = len(values), float(np.abs(values).max(initial=0.0))
    error = max((asymmetry + product_error(operator)) * n**0.5, 8 * n**0.5 * float(torch.finfo(operator.dtype).eps) * scale)
    k = min(k, n)

    def extreme(value: float) -> Extreme:
        around = (value - error, value + error)
        return Extreme(
            value=value, residual=0.0, interval=around, confidence=1.0, residual_interval=around, converged=True, noise=error,
            rayleigh_quotient=value,
        )  # fmt: skip

    lowest, highest = [extreme(float(v)) for v in values[:k]], [extreme(float(v)) for v in values[::-1][:k]]
    ladder = [(c, c * max(highest[0].value, 0.0)) for c in thresholds]
    names = (
        {"min": 0, "max": n - 1} | {f"min-{j + 1}": j for j in range(1, k)} | {f"max-{j + 1}": n - 1 - j for j in range(1, k)}
    )
    return Spectrum(
        lambda_min=lowest[0],
        lambda_max=highest[0],
        lowest=lowest,
        highest=highest,
        negative_ratio=negative_ratio(lowest[0], highest[0]),
        negative_mass=[_exact_mass(values, c, tau, error) for c, tau in ladder],
        negative_energy=Estimate(value=energy(values, np.full(n, 1 / n))),
        saddle_index=[IndexBound(relative=c, tau=tau, at_least=int((values < -tau - error).sum())) for c, tau in ladder],
        trace=Estimate(value=float(values.sum()), interval=(float(values.sum()) - n * error, float(values.sum()) + n * error)),
        density=Density(distribution="exact", probes=[Probe(seed=0, nodes=values.tolist(), weights=[1 / n] * n)]),
        noise=OperatorNoise(repeat=0.0, symmetry=asymmetry / scale if scale > 0 else 0.0, absolute=error),
        steps=[n],
        matvecs=operator.matvecs - before,
        looks=1,
        vectors={
            name: torch.from_numpy(vectors[:, index].copy()).to(operator.device, operator.dtype)
            for name, index in names.items()
        },
        warnings=[] if highest[0].value > 0 else [NO_RATIO],
    )


def _exact_mass(values: np.ndarray, relative: float, tau: float, error: float) -> MassAtThreshold:
    shares = [float((values < -tau + shift).mean()) for shift in (-error, 0.0, error)]
    bracket = (shares[0], shares[2])
    return MassAtThreshold(relative=relative, tau=tau, value=shares[1], interval=bracket, confidence=1.0, bracket=bracket)
