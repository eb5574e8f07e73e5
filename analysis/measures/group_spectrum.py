"""The spectrum of one group, by the engine that the settings name and as far as their goal asks."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..hessian.low_precision import rough_if_faster
from ..hessian.operator import HessianOperator
from ..hessian.sample_parts import part_of
from ..krylov.spectrum import Spectrum, measure_spectrum
from ..krylov.start_store import StartStore
from .exact import exact_spectrum
from .extremes import half_way, measure_ends
from .measurement import Measurement
from .pyhessian_engine import pyhessian_spectrum


def index_name(indices: np.ndarray) -> str:
    """Names a set of samples."""
    return hashlib.sha256(np.ascontiguousarray(indices, dtype="<i8").tobytes()).hexdigest()[:16]


def group_spectrum(
    work: Measurement, name: str, operator: HessianOperator, indices: np.ndarray, enough: float | None
) -> Spectrum:
    """Measures the spectrum that the settings ask for; the vectors found are whole, however those of the search are spread.

    This is where the settings' names end: the engines are functions of any operator and take their own.

    Args:
        work: of the analysis.
        name: of the group.
        operator: over ``indices``.
        indices: of the samples.
        enough: an eigenvalue below it decides a verdict.

    Raises:
        RandomOperatorError: the operator changes between products or is not symmetric.
    """
    found, world = _measured(work, name, operator, indices, enough), work.world
    if world.slices == 1:
        return found
    return replace(found, vectors={key: world.whole(vector, operator.size) for key, vector in found.vectors.items()})


def _measured(work: Measurement, name: str, operator: HessianOperator, indices: np.ndarray, enough: float | None) -> Spectrum:
    settings = work.settings

    def step(count: int) -> None:
        if work.progress is not None:
            work.progress(name, count)

    if settings.engine == "exact":
        return exact_spectrum(operator, thresholds=settings.thresholds, k=settings.k, progress=step)
    if settings.engine == "pyhessian":
        return pyhessian_spectrum(
            operator,
            steps=settings.steps,
            starts=settings.starts,
            thresholds=settings.thresholds,
            seed=settings.seed,
            progress=step,
        )
    kept = index_name(indices) + ("-differences" if work.by_differences else "")
    if operator.dtype != getattr(torch, settings.dtype):  # measured again, more precisely: both runs are kept
        kept += f"-{str(operator.dtype).removeprefix('torch.')}"
    store = StartStore(work.kept.cache / kept, work.world) if work.kept.cache is not None else None
    if settings.goal != "spectrum":
        part = None if settings.confirm else part_of(indices, work.subject.samples.labels, operator.work)
        return measure_ends(
            work.spread(operator),
            part=None if part is None else work.spread(operator.over(*work.shared(part))),
            rough=rough_if_faster if settings.rough else None,
            steps=settings.steps,
            rtol=settings.rtol,
            delta=settings.delta,
            thresholds=settings.thresholds,
            seed=settings.seed,
            tau=settings.tau,
            enough=enough if settings.goal == "verdict" else None,
            knows=_knows(work, name, operator),
            confirm=None if settings.confirm else False,
            place=operator.place(settings.basis),
            store=store,
            looked=True,
            progress=step,
        )
    return measure_spectrum(
        work.spread(operator),
        steps=settings.steps,
        min_steps=settings.min_steps,
        rtol=settings.rtol,
        starts=settings.starts,
        delta=settings.delta,
        thresholds=settings.thresholds,
        k=settings.k,
        seed=settings.seed,
        tau=settings.tau,
        mass_width=settings.mass_width,
        max_starts=settings.max_starts,
        place=operator.place(settings.basis),
        store=store,
        looked=True,
        progress=step,
    )


def _knows(work: Measurement, name: str, operator: HessianOperator) -> Tensor | None:
    """What the extreme eigenvectors of an earlier measurement say; None where there are none that fit."""
    warm = work.kept.warm or {}
    low, high = (warm.get(f"{name}/{end}") for end in ("min", "max"))
    if low is None or high is None or low.shape != high.shape or len(low) != operator.size:
        return None
    return work.slice_of(half_way(low.to(operator.device), high.to(operator.device)))
