"""From a model and its samples to a stored result: one function for the library, the command line and the studies."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from . import escape as leaving
from .distributed import World
from .evaluate import group_means
from .exact import exact_spectrum, in_float64
from .gauss_newton import measure_gauss_newton
from .groups import GroupError, group_indices, is_partition, make_scheme
from .lanczos import random_start
from .losses import BatchLoss, classification_loss
from .operator import HessianOperator
from .provenance import Source, describe
from .pyhessian_engine import pyhessian_spectrum
from .results import CurvatureResult, GroupResult, Scheme
from .samples import Samples
from .settings import AnalysisSettings
from .spectrum import Spectrum, measure_spectrum
from .subsampling import disjoint_subsets, sampling_error

#: Called with (group, Lanczos steps or products done since the last call).
Progress = Callable[[str, int], None]


def analyze(
    model: nn.Module,
    samples: Samples,
    *,
    loss: BatchLoss | None = None,
    settings: AnalysisSettings | None = None,
    scheme: Scheme | None = None,
    source: Source | None = None,
    vectors: Path | None = None,
    progress: Progress | None = None,
    world: World | None = None,
) -> CurvatureResult:
    """Measures every class group of one model.

    Args:
        model: any module; it is copied, and the copy is analysed in eval mode.
        samples: the clean training samples, in a fixed order.
        loss: ``loss(model, batch) -> [n]``; default: cross-entropy.
        settings: what to measure and how far; default: both ends, density and verdict for head and tail.
        scheme: the class groups; default: made from ``settings`` and the class counts.
        source: names for the provenance.
        vectors: file (safetensors) that gets the unit eigenvectors; without it a certificate cannot be verified later.
        progress: called after each step.
        world: the processes that share the work; every one of them makes this call and gets the result.

    Raises:
        GroupError: a group is empty.
        OperatorError: weights, loss or products are not finite, or nothing matches ``settings.params``.
        RandomOperatorError: data or model change between two products.
    """
    began = time.monotonic()
    settings, source, world = settings or AnalysisSettings(), source or Source(), world or World()
    device, dtype = torch.device(world.device or settings.device), getattr(torch, settings.dtype)
    if settings.engine == "exact":
        dtype = torch.float64
    if settings.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    scheme = scheme or make_scheme(settings.scheme, samples.class_counts, eta=settings.eta, mapping=settings.groups)
    work = _Work(
        copy.deepcopy(model).to(device, dtype),
        samples,
        loss,
        scheme,
        settings,
        vectors.name if vectors else None,
        progress,
        world,
    )
    unknown = [name for name in settings.only or () if name not in scheme.groups]
    if unknown:
        raise GroupError(f"no group {', '.join(unknown)} in scheme {scheme.name}; there are: {', '.join(scheme.groups)}")
    names = [name for name in scheme.groups if settings.only is None or name in settings.only or name == "all"]
    groups = {name: work.measure(name) for name in names}
    if settings.only is not None:
        groups = {name: groups[name] for name in names if name in settings.only}
    if vectors is not None and world.first:
        vectors.parent.mkdir(parents=True, exist_ok=True)
        partial = vectors.with_name(f".{vectors.name}.partial")
        save_file({key: v.cpu().contiguous() for key, v in work.vectors.items()}, partial)
        partial.replace(vectors)
    provenance = describe(
        source,
        model,
        samples,
        parameters=work.parameters,
        settings=settings.model_dump(mode="json"),
        device=device,
        dtype=dtype,
        seconds=time.monotonic() - began,
    )
    return CurvatureResult(
        scheme=scheme,
        groups=groups,
        additivity=work.additivity(),
        vectors_file=vectors.name if vectors else None,
        provenance=provenance,
    )


class _Work:
    """The parts that the groups of one analysis share."""

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        loss: BatchLoss | None,
        scheme: Scheme,
        settings: AnalysisSettings,
        vectors_file: str | None,
        progress: Progress | None,
        world: World,
    ) -> None:
        self.model, self.samples, self.loss, self.scheme, self.settings = model, samples, loss, scheme, settings
        self.vectors_file, self.progress, self.world = vectors_file, progress, world
        self.indices = group_indices(scheme, samples.labels)
        self.vectors: dict[str, Tensor] = {}
        self.parameters = 0
        self._accuracy: dict[str, float | None] | None = None
        self._whole: Tensor | None = None  # gradient of the loss over all samples
        self._products: dict[str, tuple[int, Tensor]] = {}  # one common vector through every group, for additivity

    def operator(self, indices: np.ndarray) -> HessianOperator:
        """The Hessian over some of the samples."""
        settings = self.settings
        return HessianOperator(
            self.model,
            self.samples.subset(self.world.share(indices)),
            self.loss,
            params=settings.params,
            micro_batch=settings.micro_batch,
            memory=settings.memory,
            reduce=self.world.reduce if self.world.shares(indices) else None,
        )

    def measure(self, name: str) -> GroupResult:
        """Everything asked for about one group."""
        settings, indices = self.settings, self.indices[name]
        subsets: list[np.ndarray] = []
        if settings.subsample is not None and settings.subsample < len(indices):
            subsets = disjoint_subsets(indices, settings.subsample, settings.seed)
            indices = subsets[0]
        operator = self.operator(indices)
        self.parameters = operator.size
        mean, gradient = operator.loss_and_gradient()
        if name == "all":
            self._whole = gradient
        spectrum = self._spectrum(name, operator)
        warnings = list(spectrum.warnings)
        sampling = None
        if subsets:
            operator.release()
            others = [self._spectrum(name, self.operator(part)) for part in subsets[1:]]
            sampling = sampling_error(subsets, len(self.indices[name]), [spectrum, *others])
            warnings.append(
                f"measured on {len(indices)} of {len(self.indices[name])} samples: lambda_min {sampling.lambda_min.value:.3g} "
                f"+- {sampling.lambda_min.standard_error or 0:.2g} over {len(subsets)} disjoint subsets, on average below the "
                "whole group's"
            )
        else:
            common = random_start(operator, settings.seed + 303)
            self._products[name] = (operator.num_samples, operator.matvec(common).double())
        weight_norm, gradient_norm = float(operator.weights().double().norm()), float(gradient.double().norm())
        verdict = leaving.verdict(
            spectrum.lambda_min,
            spectrum.lambda_max,
            gradient_norm,
            weight_norm,
            relative_tau=settings.tau,
            threshold=settings.stationarity,
            size=operator.size,
            starts=settings.starts,
            delta=settings.delta,
            looks=spectrum.looks,
        )
        negative = verdict.curvature == "negative curvature" and "min" in spectrum.vectors
        for key, vector in spectrum.vectors.items():
            self.vectors[f"{name}/{key}"] = vector
        certificate = self._certificate(name, operator, spectrum, verdict.tau) if negative and settings.escape else None
        escape = self._escape(operator, spectrum, mean, gradient, weight_norm) if negative and settings.escape else None
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
        result = GroupResult(
            classes=self.scheme.groups[name],
            size=operator.num_samples,
            loss=mean,
            accuracy=self._accuracies()[name],
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
            warnings=warnings,
        )
        operator.release()
        return result

    def additivity(self) -> float | None:
        """Relative error of ``N H v = sum_g n_g H_g v`` for one v; None without a partition whose groups were all measured."""
        groups = [name for name in self.scheme.groups if name != "all"]
        if not groups or not is_partition(self.scheme) or any(name not in self._products for name in ["all", *groups]):
            return None
        total, whole = self._products["all"]
        parts = sum((size * product for size, product in (self._products[name] for name in groups)), torch.zeros_like(whole))
        scale = float((total * whole).norm())
        return float((parts - total * whole).norm()) / scale if scale > 0 else 0.0

    def _accuracies(self) -> dict[str, float | None]:
        if self._accuracy is None:
            dtype = next(self.model.parameters()).dtype
            device = next(self.model.parameters()).device
            loss = self.loss or classification_loss()
            self._accuracy = group_means(self.model, self.samples, self.indices, loss, device=device, dtype=dtype)[1]
        return self._accuracy

    def _spectrum(self, name: str, operator: HessianOperator) -> Spectrum:
        settings = self.settings

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
        return measure_spectrum(
            operator, steps=settings.steps, min_steps=settings.min_steps, rtol=settings.rtol, starts=settings.starts,
            delta=settings.delta, thresholds=settings.thresholds, k=settings.k, seed=settings.seed, progress=step,
        )  # fmt: skip

    def _certificate(self, name: str, operator: HessianOperator, spectrum: Spectrum, tau: float) -> Any:
        judge = operator if operator.dtype == torch.float64 else in_float64(operator)
        shrink = torch.finfo(judge.dtype).eps / torch.finfo(operator.dtype).eps
        return leaving.certificate(
            judge,
            spectrum.vectors["min"],
            tau=tau,
            noise=spectrum.noise.absolute * shrink,
            vectors_file=self.vectors_file or "",
            key=f"{name}/min",
        )

    def _escape(self, operator: HessianOperator, spectrum: Spectrum, mean: float, gradient: Tensor, weight_norm: float) -> Any:
        v, quotient = spectrum.vectors["min"], spectrum.lambda_min.value
        slope = float(torch.dot(v.double(), gradient.double()))
        if slope > 0:  # both signs are eigenvectors; this one points downhill
            v, slope = -v, -slope
        whole = self._whole if self._whole is not None else gradient
        share = operator.num_samples / self.samples.num_samples
        reach = leaving.natural_reach(slope, quotient, mean, weight_norm)
        return leaving.escape(
            v=v,
            gradient=gradient,
            rows=leaving.multipliers(
                operator, v, quotient=quotient, gradient=gradient, whole=whole, share=share, rho=self.settings.rho
            ),
            test=leaving.escape_test(operator, v, loss=mean, slope=slope, quotient=quotient, reach=reach),
        )
