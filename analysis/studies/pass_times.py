"""The times of single passes: what is measured before an analysis is begun, to say what it will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..hessian.difference_products import DifferenceOperator, in_float64_if_possible
from ..hessian.differences import AnotherHessianError, look
from ..hessian.losses import BatchLoss
from ..hessian.operator import HessianOperator
from ..hessian.working_memory import fit_budget
from ..krylov.basis import KrylovBasis
from ..krylov.linear_operator import NoSecondDerivativeError, OperatorError
from ..records.settings import AnalysisSettings
from ..samples.samples import Samples

#: passes in float64 are timed on at most so many samples
SAMPLE_FLOAT64 = 64
#: basis vectors that orthogonalisation is timed on
ROWS = 4


def seconds(action: Callable[[], object]) -> float:
    """Of one call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


@dataclass(frozen=True)
class Passes:
    """Seconds a sample, or in all, of what a group's measurement is made of."""

    setup: float  # in all
    product: float
    graph: float  # a first product, which records
    gradient: float
    forward: float
    look: float  # in all
    gradient64: float
    pair64: float  # two products that share a graph


def timed_passes(
    model: nn.Module, samples: Samples, loss: BatchLoss, settings: AnalysisSettings, slices: int
) -> tuple[HessianOperator, Passes]:
    """The operator that a measurement will take, with exact products or without, and its times."""
    if settings.products != "differences":
        start = time.perf_counter()
        operator = HessianOperator(
            model,
            samples,
            loss,
            params=settings.params,
            micro_batch=settings.micro_batch,
            memory=settings.memory,
            vectors=-(-(settings.steps + 1) // slices),
        )
        setup = time.perf_counter() - start
        try:
            if settings.memory is not None and settings.micro_batch is None:
                fit_budget(operator, settings.memory)
            return operator, _timed(operator, setup, settings)
        except (NoSecondDerivativeError, AnotherHessianError):
            if settings.products == "exact" or settings.engine == "pyhessian":
                raise
    start = time.perf_counter()
    narrow = DifferenceOperator(
        model, samples, loss, params=settings.params, micro_batch=settings.micro_batch, memory=settings.memory
    )
    operator = in_float64_if_possible(narrow, settings.memory)[0]
    return operator, _timed(operator, time.perf_counter() - start, settings)


def _timed(operator: HessianOperator, setup: float, settings: AnalysisSettings) -> Passes:
    """Times everything on the operator's own samples."""
    count = operator.num_samples
    v = torch.ones(operator.size, dtype=operator.dtype, device=operator.device)
    operator.matvec(v)  # what is done once, as choosing kernels, is no part of a product
    product = seconds(lambda: operator.matvec(v))
    gradient, forward = seconds(operator.loss_and_gradient), seconds(operator.mean_loss)
    # With its graph it is a gradient that keeps what it needs to be differentiated again, and then the product.
    graph = product + 2 * gradient
    judge = operator
    gradient64 = pair64 = 0.0
    few = min(count, SAMPLE_FLOAT64)
    if isinstance(operator, DifferenceOperator):  # held against half its step
        pair64 = 2 * product / count
    elif operator.dtype != torch.float64:
        try:
            judge = operator.over(operator.samples.subset(np.arange(few))).in_float64()
        except OperatorError:  # it is not taken then, either
            pass
        else:
            pair64 = seconds(lambda: judge.matmat(torch.stack([v, v], dim=1))) / few
            gradient64 = seconds(judge.loss_and_gradient) / few if settings.escape else 0.0
    looked = seconds(lambda: look(judge, seed=settings.seed))
    product, graph, gradient, forward = (value / count for value in (product, graph, gradient, forward))
    return Passes(setup, product, graph, gradient, forward, looked, gradient64 if judge is not operator else gradient, pair64)


def orthogonalisation(operator: HessianOperator, slices: int) -> float:
    """Seconds of a vector, or one of its slices, against one basis vector, forth and back."""
    size = -(-operator.size // slices)
    basis = KrylovBasis(size, operator.dtype, operator.device)
    v = torch.ones(size, dtype=torch.float64, device=operator.device)
    for _ in range(ROWS):
        basis.append(v)

    def once() -> None:
        basis.remove(v, basis.overlap(v, ROWS))

    return seconds(once) / ROWS
