"""PyHessian's estimators as published (Yao et al. 2020, pyhessian 0.1), for numbers that match those in papers.

The package is used, not copied. It was written for a torch that had ``torch.eig`` and reads and writes global random state; the
adapter lends it both for the time of a call and puts everything back. What its estimators do not tell (residuals, intervals) is
left open in the result, never filled in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..hessian.losses import ClassificationLoss
from ..hessian.operator import HessianOperator
from ..krylov.density import energy, pooled
from ..krylov.spectrum import THRESHOLDS, Spectrum, negative_ratio
from ..records.base import Estimate
from ..records.spectra import Density, Extreme, IndexBound, MassAtThreshold, OperatorNoise, Probe
from ..samples.labels import label_place


class EngineError(ValueError):
    """PyHessian cannot be asked this."""


def pyhessian_spectrum(
    operator: HessianOperator,
    *,
    steps: int = 100,
    starts: int = 1,
    thresholds: Sequence[float] = THRESHOLDS,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Spectrum:
    """Density, its outermost Ritz values, and trace from ``pyhessian.hessian``.

    The largest eigenvalue comes from its power iteration, which finds the one of largest magnitude; the smallest is the lowest
    Ritz value of its density, as the published saddle figures use it.

    Args:
        operator: of the group; its model, samples and loss are handed over.
        steps: ``iter`` of ``density`` and ``maxIter`` of the others.
        starts: ``n_v`` of ``density``.
        thresholds: tau / lambda_max of the negative mass.
        seed: of torch's global generator while the package runs.
        progress: called once, at the end.

    Raises:
        EngineError: a loss that is not of the form (outputs, targets), or only some of the parameters were chosen.
    """
    from pyhessian import hessian

    loss = operator.loss
    if not isinstance(loss, ClassificationLoss):
        raise EngineError("--engine pyhessian takes losses of (outputs, targets) only; leave --loss out, or use our engine")
    every = [p for p in operator.model.parameters() if p.requires_grad]
    if len(every) != len(operator.parameters):
        raise EngineError("--engine pyhessian takes all parameters; leave --params out, or use our engine")
    steps = min(steps, operator.size)
    before = operator.matvecs
    with operator.differentiable(), _lent(seed, operator.device):
        asked = hessian(
            _Positional(operator.model, loss),
            lambda outputs, targets: loss.output_loss(outputs, targets).mean(),
            dataloader=_Loader(operator),
            cuda=operator.device.type == "cuda",
        )
        (top,), (vector,) = asked.eigenvalues(maxIter=steps)
        nodes, weights = asked.density(iter=steps, n_v=starts)
        trace = asked.trace(maxIter=steps)
        operator.model.zero_grad(set_to_none=True)
    if progress is not None:
        progress(steps * starts)
    lowest = min(min(row) for row in nodes)
    highest = max(float(top), *(max(row) for row in nodes))
    spread = highest - lowest
    # of sums over all parameters in the model's precision; it is not measured, PyHessian keeps its products to itself
    noise = 8 * torch.finfo(operator.dtype).eps * operator.size**0.5 * max(abs(lowest), abs(highest))
    probes = [
        Probe(seed=seed + i, nodes=list(map(float, n)), weights=_shares(w))
        for i, (n, w) in enumerate(zip(nodes, weights, strict=True))
    ]
    return Spectrum(
        lambda_min=_open(lowest, spread, noise, low_end=True),
        lambda_max=_open(highest, spread, noise, low_end=False),
        lowest=[],
        highest=[],
        negative_ratio=negative_ratio(_open(lowest, spread, noise, low_end=True), _open(highest, spread, noise, low_end=False)),
        negative_mass=[_mass(probes, c, c * max(highest, 0.0)) for c in thresholds],
        negative_energy=Estimate(
            value=energy(*pooled([(np.array(p.nodes), np.array(p.weights)) for p in probes])), confidence=0.0
        ),
        saddle_index=[IndexBound(relative=c, tau=c * max(highest, 0.0), at_least=0) for c in thresholds],
        trace=_trace(trace),
        density=Density(distribution="rademacher", probes=probes),
        noise=OperatorNoise(repeat=0.0, symmetry=0.0, absolute=0.0),
        steps=[steps] * starts,
        matvecs=operator.matvecs - before + steps * starts,
        looks=1,
        vectors={"max": torch.cat([part.detach().reshape(-1) for part in vector])},
        warnings=[
            "PyHessian's estimates: no residuals and no two-sided intervals; its Ritz values are not known to be converged"
        ],
    )


class _Positional(nn.Module):
    """PyHessian calls ``model(inputs)``; dictionaries are unpacked."""

    def __init__(self, model: nn.Module, loss: ClassificationLoss) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, inputs: Any) -> Tensor:
        return self._loss.find_logits(self.model(inputs)).tensor


class _Loader:
    """The samples as (inputs, targets) batches, again and again in the same order."""

    def __init__(self, operator: HessianOperator) -> None:
        self.operator = operator

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.operator.samples.batches(self.operator.micro_batch, self.operator.device, self.operator.dtype):
            if not (isinstance(batch, tuple | list) and len(batch) == 2):
                raise EngineError("--engine pyhessian takes batches (inputs, targets) only; use our engine for dictionaries")
            place = label_place(batch, self.operator.loss.labels)  # type: ignore[attr-defined]
            yield batch[1 - place], batch[place]


@contextmanager
def _lent(seed: int, device: torch.device) -> Iterator[None]:
    """``torch.eig`` as it was, and a seeded global generator; both put back."""
    import warnings

    before = vars(torch)["eig"]  # raises when called since torch 1.13
    devices = [device] if device.type == "cuda" else []
    try:
        vars(torch)["eig"] = _eig
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*create_graph=True.*")  # its own graph; it drops the gradients itself
            torch.manual_seed(seed)
            yield
    finally:
        vars(torch)["eig"] = before


def _eig(matrix: Tensor, eigenvectors: bool = False) -> tuple[Tensor, Tensor]:
    """``torch.eig`` of a symmetric tridiagonal matrix: values as (real, imaginary) pairs, vectors in columns."""
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


def _open(value: float, spread: float, noise: float, *, low_end: bool) -> Extreme:
    """A Ritz value of which nothing is known but that it lies inside the spectrum."""
    return Extreme(
        value=value,
        residual=spread,
        interval=(None, value + noise) if low_end else (value - noise, None),
        confidence=1.0,
        residual_interval=(value - spread, value + spread),
        converged=False,
        noise=noise,
    )


def _shares(weights: Sequence[float]) -> list[float]:
    total = float(sum(weights))
    return [float(w) / total for w in weights]


def _mass(probes: Sequence[Probe], relative: float, tau: float) -> MassAtThreshold:
    values = [float(np.array(p.weights)[np.array(p.nodes) < -tau].sum()) for p in probes]
    value = float(np.clip(np.mean(values), 0, 1))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return MassAtThreshold(
        relative=relative, tau=tau, value=value, interval=(0.0, 1.0), confidence=1.0, bracket=(0.0, 1.0), standard_error=error
    )


def _trace(values: Sequence[float]) -> Estimate:
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(value=mean, standard_error=error, count=len(values), confidence=0.0)
