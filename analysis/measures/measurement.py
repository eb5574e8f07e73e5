"""Measures the groups of one model, one after another; what they share is here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..hessian.distributed import World
from ..hessian.evaluation import PerSample, per_sample
from ..hessian.gauss_newton import measure_gauss_newton
from ..hessian.losses import BatchLoss
from ..hessian.low_precision import rough_if_faster
from ..hessian.operator import HessianOperator, Reduce
from ..hessian.sample_parts import part_of
from ..hessian.suspects import stale_statistics
from ..krylov.guards import RandomOperatorError
from ..krylov.lanczos import random_start
from ..krylov.lanczos_runs import StartStore
from ..krylov.linear_operator import OperatorError
from ..krylov.spectrum import Spectrum, measure_spectrum
from ..records.results import GroupResult, Scheme
from ..records.saddles import NetRate
from ..records.settings import AnalysisSettings
from ..records.steps import GroupSteps
from ..samples.groups import asked_for, group_indices, is_partition
from ..samples.provenance import Source
from ..samples.samples import Samples
from . import saddle as leaving
from .critical_step import group_steps, updates
from .differences import look
from .exact import exact_spectrum, in_float64, rechecked
from .extremes import half_way, measure_ends
from .objective import Objective
from .pyhessian_engine import pyhessian_spectrum
from .subsampling import disjoint_subsets, looked_at, sampling_error

#: Called with (group, Lanczos steps or products done since the last call).
Progress = Callable[[str, int], None]


def index_name(indices: np.ndarray) -> str:
    """Names a set of samples."""
    return hashlib.sha256(np.ascontiguousarray(indices, dtype="<i8").tobytes()).hexdigest()[:16]


class Measurement:
    """The parts that the groups of one analysis share."""

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        loss: BatchLoss,
        scheme: Scheme,
        settings: AnalysisSettings,
        vectors_file: str | None,
        progress: Progress | None,
        world: World,
        cache: Path | None,
        source: Source,
        parts: Mapping[str, Sequence[np.ndarray]] | None = None,
        warm: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model, self.samples, self.loss, self.scheme, self.settings = model, samples, loss, scheme, settings
        self.vectors_file, self.progress, self.world, self.cache = vectors_file, progress, world, cache
        self.parts, self.warm = parts, warm or {}
        self.indices = group_indices(scheme, samples) if parts is None else {name: parts[name][0] for name in parts}
        self.names = asked_for(scheme, settings.only)
        self.vectors: dict[str, Tensor] = {}
        self.parameters = 0
        self.source = source
        self.objective = Objective(samples, settings, source, self._shared, self.names)
        # One common vector through every group, for additivity, where the groups that are measured add up to the whole.
        self._parts = [name for name in scheme.groups if name != "all"]
        self._adds_up = is_partition(scheme, samples) and set(self._parts) <= set(self.names)
        self._products: dict[str, tuple[int, Tensor]] = {}

    def operator(self, indices: np.ndarray, memory: int | None = None) -> HessianOperator:
        """The Hessian over some of the samples; ``memory``: for its graphs, where the settings' budget is not its alone."""
        settings = self.settings
        samples, reduce = self._shared(indices)
        return HessianOperator(
            self.model,
            samples,
            self.loss,
            params=settings.params,
            micro_batch=settings.micro_batch,
            memory=memory if memory is not None else settings.memory,
            reduce=reduce,
        )

    def _shared(self, indices: np.ndarray) -> tuple[Samples, Reduce | None]:
        """This process' share of some samples, and how it adds up with the others'."""
        return self.samples.subset(self.world.share(indices)), self.world.reduce if self.world.shares(indices) else None

    def measure(self, name: str) -> GroupResult:
        """Everything asked for about one group."""
        settings, indices = self.settings, self.indices[name]
        subsets: list[np.ndarray] = []
        population = len(indices)
        if self.parts is not None:
            subsets, population = list(self.parts[name]), self.scheme.sizes[name]
        elif settings.subsample is not None and settings.subsample < len(indices):
            subsets = disjoint_subsets(indices, settings.subsample, settings.seed)
            indices = subsets[0]
        operator = self.operator(indices)
        self.parameters = operator.size
        mean, gradient = operator.loss_and_gradient()
        warnings = stale_statistics(operator.model)
        judge = operator
        if operator.dtype != torch.float64:
            try:
                judge = in_float64(operator)
            except OperatorError as error:  # a loss with float32 constants, say
                warnings.append(f"not re-evaluated in float64: {error}")
        warnings += look(judge, seed=settings.seed)
        weight_norm, gradient_norm = float(operator.weights().double().norm()), float(gradient.double().norm())
        # From here down the verdict is "saddle": s* = 2 |g| / |lambda_min| is at most the share of |w| that counts.
        enough = -2 * gradient_norm / (settings.stationarity * weight_norm) if weight_norm > 0 else None
        try:
            spectrum = self._spectrum(name, operator, indices, enough)
        except RandomOperatorError as error:
            if judge is operator or settings.engine != "saddlescope":
                raise
            # Float64 has been looked at: if the guard is content there, what it saw is the rounding of a well-fitted group.
            operator.release()
            operator = judge = in_float64(operator, settings.memory)
            mean, gradient = operator.loss_and_gradient()
            spectrum = self._spectrum(name, operator, indices, enough)
            warnings.append(f"measured in float64: in float32 rounding is too large here ({error.measured})")
        warnings += look(judge, {key: spectrum.vectors[key] for key in ("min", "max") if key in spectrum.vectors})
        held = judge is not operator and settings.engine == "saddlescope"
        if held:
            spectrum = rechecked(spectrum, judge)
        warnings = [*spectrum.warnings, *warnings]
        sampling = None
        if len(subsets) == 1 and population > len(indices):
            warnings.append(f"measured on {len(indices)} of {population} samples, chosen once; no sampling error measured here")
        elif len(subsets) > 1:
            operator.release()
            further = [self.operator(part) for part in subsets[1:]]
            if operator.dtype != further[0].dtype:
                further = [in_float64(part, settings.memory) for part in further]
            others = [self._spectrum(name, part, rows, enough) for part, rows in zip(further, subsets[1:], strict=True)]
            sampling = sampling_error(subsets, population, [spectrum, *others])
            warnings.append(
                f"measured on {len(indices)} of {population} samples: lambda_min {sampling.lambda_min.value:.3g} "
                f"+- {sampling.lambda_min.standard_error or 0:.2g} over {len(subsets)} disjoint subsets, on average below the "
                "whole group's"
            )
        elif self._adds_up:
            self._products[name] = self._common_product(operator)
        verdict = leaving.verdict(
            spectrum.lambda_min,
            spectrum.lambda_max,
            gradient_norm,
            weight_norm,
            loss=mean,
            relative_tau=settings.tau,
            threshold=settings.stationarity,
            size=operator.size,
            starts=settings.starts,
            delta=settings.delta,
            looks=spectrum.looks,
        )
        negative = verdict.curvature == "negative curvature" and "min" in spectrum.vectors
        for key, vector in spectrum.vectors.items():
            if self.vectors_file is not None and (settings.kept_vectors == "both" or key.partition("-")[0] == "min"):
                self.vectors[f"{name}/{key}"] = vector
        certificate = None
        if negative and settings.escape:
            quotient = spectrum.lambda_min.rayleigh_quotient if held else None
            certificate = self._certificate(name, operator, judge, spectrum, verdict.tau, quotient)
        escape = None
        if negative and settings.escape:
            escape = self._escape(operator, judge, spectrum, mean, gradient, weight_norm, warnings)
        gauss_newton = None
        if settings.gauss_newton:
            gauss_newton = measure_gauss_newton(
                operator,
                spectrum.vectors["min"] if negative else None,
                steps=settings.steps,
                min_steps=settings.min_steps,
                rtol=settings.rtol,
                delta=settings.delta,
                seed=settings.seed,
            )
        judge.release()
        result = GroupResult(
            classes=self.scheme.groups[name],
            size=operator.num_samples,
            loss=mean,
            accuracy=None if self.known.right is None else float(self.known.right[self.indices[name]].mean()),
            gradient_norm=gradient_norm,
            weight_norm=weight_norm,
            lambda_min=spectrum.lambda_min,
            lambda_max=spectrum.lambda_max,
            lowest=spectrum.lowest if settings.k > 1 else [],
            highest=spectrum.highest if settings.k > 1 else [],
            negative_ratio=spectrum.negative_ratio,
            negative_mass=spectrum.negative_mass,
            negative_energy=spectrum.negative_energy,
            saddle_index=spectrum.saddle_index,
            trace=spectrum.trace,
            density=spectrum.density,
            noise=spectrum.noise,
            certificate=certificate,
            escape=escape,
            gauss_newton=gauss_newton,
            sampling=sampling,
            verdict=verdict,
            steps=spectrum.steps,
            matvecs=operator.matvecs,
            dtype=None if operator.dtype == getattr(torch, settings.dtype) else str(operator.dtype).removeprefix("torch."),
            warnings=warnings,
        )
        operator.release()
        return result

    def additivity(self) -> float | None:
        """Relative error of ``N H v = sum_g n_g H_g v`` for one v; None without a partition whose groups were all measured.

        Where the whole was not measured as a group, this is its only product.
        """
        if not self._adds_up or any(name not in self._products for name in self._parts):
            return None
        if "all" not in self._products:
            if "all" in self.names:  # refused, or its subset alone was looked at
                return None
            operator = self.operator(np.arange(self.samples.num_samples), memory=1)
            self._products["all"] = self._common_product(operator)
        total, whole = self._products["all"]
        parts = sum(
            (size * product for size, product in (self._products[name] for name in self._parts)), torch.zeros_like(whole)
        )
        scale = float((total * whole).norm())
        return float((parts - total * whole).norm()) / scale if scale > 0 else 0.0

    def _common_product(self, operator: HessianOperator) -> tuple[int, Tensor]:
        return operator.num_samples, operator.matvec(random_start(operator, self.settings.seed + 303)).double()

    @cached_property
    def known(self) -> PerSample:
        """Loss and hit of every sample of all."""
        tensor = next(self.model.parameters())
        return per_sample(self.model, self.samples, self.loss, device=tensor.device, dtype=tensor.dtype)

    def _spectrum(self, name: str, operator: HessianOperator, indices: np.ndarray, enough: float | None) -> Spectrum:
        settings = self.settings
        store = StartStore(self.cache / index_name(indices)) if self.cache is not None else None

        def step(count: int) -> None:
            if self.progress is not None:
                self.progress(name, count)

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
        if settings.goal != "spectrum":
            part = part_of(indices, self.samples.labels, operator.work)
            return measure_ends(
                operator,
                part=None if part is None else operator.over(*self._shared(part)),
                rough=rough_if_faster if settings.rough else None,
                steps=settings.steps,
                rtol=settings.rtol,
                delta=settings.delta,
                thresholds=settings.thresholds,
                seed=settings.seed,
                tau=settings.tau,
                enough=enough if settings.goal == "verdict" else None,
                knows=self._knows(name, operator),
                place=settings.basis,
                progress=step,
            )
        return measure_spectrum(
            operator,
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
            place=settings.basis,
            store=store,
            progress=step,
        )

    def _knows(self, name: str, operator: HessianOperator) -> Tensor | None:
        """What the extreme eigenvectors of an earlier measurement say; None where there are none that fit."""
        low, high = (self.warm.get(f"{name}/{end}") for end in ("min", "max"))
        if low is None or high is None or low.shape != high.shape or len(low) != operator.size:
            return None
        return half_way(low.to(operator.device), high.to(operator.device))

    def _certificate(
        self,
        name: str,
        operator: HessianOperator,
        judge: HessianOperator,
        spectrum: Spectrum,
        tau: float,
        known: float | None,
    ) -> Any:
        shrink = torch.finfo(judge.dtype).eps / torch.finfo(operator.dtype).eps
        return leaving.certificate(
            judge,
            spectrum.vectors["min"],
            tau=tau,
            noise=spectrum.noise.absolute * shrink,
            vectors_file=self.vectors_file or "",
            key=f"{name}/min",
            quotient=known,
        )

    def _escape(
        self,
        operator: HessianOperator,
        judge: HessianOperator,
        spectrum: Spectrum,
        mean: float,
        gradient: Tensor,
        weight_norm: float,
        warnings: list[str],
    ) -> Any:
        v, quotient = spectrum.vectors["min"], spectrum.lambda_min.value
        slope = float(torch.dot(v.double(), gradient.double()))
        if slope > 0:  # both signs are eigenvectors; this one points downhill
            v, slope = -v, -slope
        test = None
        if self.settings.wants_escape_test:
            reach = leaving.natural_reach(slope, quotient, mean, weight_norm)
            test = leaving.escape_test(operator, v, loss=mean, slope=slope, quotient=quotient, reach=reach)
        if not self.objective.wants_rates:
            return leaving.escape(v=v, gradient=gradient, test=test)
        try:
            rates, curvature = self.objective.escape_rates(judge, v)
        except OperatorError as error:
            warnings.append(f"no escape rates: {error}")
            return leaving.escape(v=v, gradient=gradient, test=test)
        decay = self.objective.weight_decay
        return leaving.escape(v=v, gradient=gradient, test=test, rates=rates, objective_curvature=curvature, weight_decay=decay)

    def critical_steps(self, names: Sequence[str]) -> dict[str, GroupSteps]:
        """From which learning rate on a step hurts each group, for the steps of every rule, the head's and the group's own."""
        settings, found = self.settings, dict[str, GroupSteps]()
        first = self.operator(looked_at(self.indices[names[0]], settings.subsample, settings.seed))
        self.parameters = first.size
        tried = updates(self.objective.parts(first), self.objective.rules, self.objective.weight_decay)
        for name in names:
            operator = first.over(*self._shared(looked_at(self.indices[name], settings.subsample, settings.seed)))
            mean, gradient = operator.loss_and_gradient()
            share = len(self.indices[name]) / self.samples.num_samples
            mine = {update: d for update, d in tried.items() if update != name}  # the head's own is its part of a step
            if name != "all":
                mine["own"] = share * gradient
            found[name] = GroupSteps(
                size=operator.num_samples,
                loss=mean,
                gradient_norm=float(gradient.double().norm()),
                steps=group_steps(operator, gradient, mean, mine),
            )
        return found

    def net_rates(self, groups: Mapping[str, GroupResult]) -> list[NetRate]:
        """Of the optimizers' whole fields, see :class:`~saddlescope.analysis.measures.objective.Objective`."""
        whole = groups.get("all")
        known = whole.lambda_min if whole is not None and whole.sampling is None else None
        return self.objective.net_rates(self.operator, known)
