"""One class group from its samples to its record: every measure of it, in the order in which they need each other."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ..hessian.difference_products import DifferenceOperator, in_float64_if_possible
from ..hessian.differences import AnotherFunctionError, AnotherHessianError, Look
from ..hessian.gauss_newton import measure_gauss_newton
from ..hessian.operator import HessianOperator
from ..hessian.suspects import stale_statistics
from ..krylov.guards import RandomOperatorError
from ..krylov.linear_operator import NoSecondDerivativeError, OperatorError
from ..krylov.space import space_of
from ..krylov.spectrum import LOOK_EVERY, Spectrum
from ..records.results import GroupResult
from ..records.saddles import Certificate, Escape, Verdict
from ..records.spectra import GaussNewton, SamplingError
from . import saddle as leaving
from .exact import rechecked
from .group_spectrum import group_spectrum
from .measurement import Measurement
from .subsampling import sampling_error
from .verdict import Search, verdict


def measure_group(work: Measurement, name: str) -> GroupResult:
    """Everything that is asked about one group, by differences where exact products are not to be had and that is allowed.

    Args:
        work: what the groups share; the group's vectors and its part of the additivity are left there.
        name: of the group.

    Raises:
        OperatorError: weights, loss or products are not finite, or the products are not those of the loss's Hessian.
        RandomOperatorError: data or model change between two products.
    """
    try:
        return _Group(work, name, []).measure()
    except (NoSecondDerivativeError, AnotherHessianError) as error:
        if work.by_differences or work.settings.products != "auto" or work.settings.engine == "pyhessian":
            raise
        why = str(error)
    work.by_differences = True
    return _Group(work, name, [f"measured by differences of the gradient: {why}"]).measure()


class _Group:
    """A group while it is measured.

    Attributes:
        subsets: sets of samples, the one that is measured first.
        population: samples of the whole group.
        operator: of the first set.
        judge: the same in float64; ``operator`` itself where it is, or where the loss is not to be had in float64.
        enough: from here down the verdict is "saddle": ``s* = 2 |g| / |lambda_min|`` is at most the share of |w| that counts.
    """

    def __init__(self, work: Measurement, name: str, warnings: list[str]) -> None:
        self.work, self.name, self.settings = work, name, work.settings
        self.subsets, self.population = work.subsets(name)
        self.operator, self.warnings = work.operator(self.subsets[0]), warnings
        if isinstance(self.operator, DifferenceOperator):
            self.operator, why = in_float64_if_possible(self.operator, self.settings.memory)
            kind = str(self.operator.dtype).removeprefix("torch.")
            self.warnings += [f"differences in {kind}, not in float64: {why}"] if why else []
        work.parameters = self.operator.size
        self.mean, self.gradient = self.operator.loss_and_gradient()
        self.warnings += stale_statistics(self.operator.model)
        self.judge = self._judge()
        self.space = work.space = space_of(self.operator)
        self.weight_norm = self.space.norm(self.operator.weights().double())
        self.gradient_norm = self.space.norm(self.gradient.double())
        far = self.settings.stationarity * self.weight_norm
        self.enough = -2 * self.gradient_norm / far if self.weight_norm > 0 else None

    def measure(self) -> GroupResult:
        """The group's record."""
        settings, work = self.settings, self.work
        spectrum = self._spectrum()
        sampling = self._sampling(spectrum)
        answer = self._verdict(spectrum)
        negative = answer.curvature == "negative curvature" and "min" in spectrum.vectors
        for key, vector in spectrum.vectors.items():
            if work.kept.vectors is not None and (settings.kept_vectors == "both" or key.partition("-")[0] == "min"):
                work.vectors[f"{self.name}/{key}"] = work.slice_of(vector)
            if work.kept.warm is not None and key in ("min", "max"):
                work.ends[f"{self.name}/{key}"] = vector.detach().to("cpu", copy=True)
        certificate = self._certificate(spectrum, answer.tau) if negative and settings.escape else None
        escape = self._escape(spectrum) if negative and settings.escape else None
        gauss_newton = None
        if settings.gauss_newton and work.by_differences:
            self.warnings.append("no Gauss-Newton part: it needs exact products")
        elif settings.gauss_newton:
            gauss_newton = self._gauss_newton(spectrum if negative else None)
        self.judge.release()
        operator, right = self.operator, work.known.right
        result = GroupResult(
            classes=work.scheme.groups[self.name],
            size=operator.num_samples,
            loss=self.mean,
            accuracy=None if right is None else float(right[work.indices[self.name]].mean()),
            gradient_norm=self.gradient_norm,
            objective_gradient_norm=None if self.decayed is None else self.decayed[1],
            weight_norm=self.weight_norm,
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
            verdict=answer,
            steps=spectrum.steps,
            matvecs=operator.matvecs,
            products=operator.products,
            dtype=None if operator.dtype == getattr(torch, settings.dtype) else str(operator.dtype).removeprefix("torch."),
            warnings=self.warnings,
        )
        operator.release()
        return result

    @property
    def held(self) -> bool:
        """Whether extremes are held against the judge."""
        return self.judge is not self.operator and self.settings.engine == "saddlescope"

    @cached_property
    def decayed(self) -> tuple[float, float] | None:
        """Weight decay of the training and the gradient norm of its objective, for the group of all samples."""
        decay = self.work.objective.weight_decay
        if decay <= 0 or self.name != "all" or self.population > len(self.subsets[0]):
            return None
        return decay, self.space.norm(self.gradient.double() + decay * self.operator.weights().double())

    def _judge(self) -> HessianOperator:
        """What the products are held against, after a first :class:`Look` at it, which is kept for the vectors found."""
        if self.operator.dtype != torch.float64 and not isinstance(self.operator, DifferenceOperator):
            try:
                judge = self.operator.in_float64()
                self.look = Look(judge, seed=self.settings.seed)
                self.warnings += self.work.looked_at(self.look, judge)
                return judge
            except AnotherFunctionError:
                raise
            except OperatorError as error:  # a loss with float32 constants, say; what is wrong in float32, too, is said below
                self.warnings.append(f"not re-evaluated in float64: {error}")
        if not self.work.sharded:  # those hold their gradient against the loss themselves
            self.look = Look(self.operator, seed=self.settings.seed)
            self.warnings += self.work.looked_at(self.look, self.operator)
        return self.operator

    def _spectrum(self) -> Spectrum:
        """The spectrum, its extremes held against float64; in float64 altogether where float32 is too coarse."""
        settings = self.settings
        try:
            spectrum = group_spectrum(self.work, self.name, self.operator, self.subsets[0], self.enough)
        except RandomOperatorError as error:
            if self.judge is self.operator or settings.engine != "saddlescope":
                raise
            # Float64 has been looked at: if the guard is content there, what it saw is the rounding of a well-fitted group.
            self.operator.release()
            self.operator = self.judge = self.operator.in_float64(settings.memory)
            self.look = Look(self.judge, seed=settings.seed)
            self.mean, self.gradient = self.operator.loss_and_gradient()
            spectrum = group_spectrum(self.work, self.name, self.operator, self.subsets[0], self.enough)
            self.warnings.append(f"measured in float64: in float32 rounding is too large here ({error.measured})")
        found: dict[str, Tensor] = {key: spectrum.vectors[key] for key in ("min", "max") if key in spectrum.vectors}
        if not self.work.sharded:
            self.warnings += self.work.looked_at(self.look, self.judge, found)
        if isinstance(self.operator, DifferenceOperator):
            self.judge = self.operator.halved()  # what half the step says of the vectors found goes into the intervals
        if self.held:
            with self.work.turn(self.judge):
                spectrum = rechecked(spectrum, self.judge)
        if isinstance(self.operator, DifferenceOperator):
            self.warnings += self.operator.remarks()
        self.warnings = [*spectrum.warnings, *self.warnings]
        return spectrum

    def _sampling(self, spectrum: Spectrum) -> SamplingError | None:
        """What it costs that a part of the group was measured; a group that was measured whole adds to the additivity."""
        looked_at, subsets = len(self.subsets[0]), self.subsets
        if len(subsets) == 1:
            if self.population > looked_at:
                self.warnings.append(
                    f"measured on {looked_at} of {self.population} samples, chosen once; no sampling error measured here"
                )
            else:
                self.work.add_product(self.name, self.operator)
            return None
        self.operator.release()
        further = [self.work.operator(part) for part in subsets[1:]]
        if self.operator.dtype != further[0].dtype:
            further = [part.in_float64(self.settings.memory) for part in further]
        others = [
            group_spectrum(self.work, self.name, part, rows, self.enough)
            for part, rows in zip(further, subsets[1:], strict=True)
        ]
        sampling = sampling_error(subsets, self.population, [spectrum, *others])
        self.warnings.append(
            f"measured on {looked_at} of {self.population} samples: lambda_min {sampling.lambda_min.value:.3g} "
            f"+- {sampling.lambda_min.standard_error or 0:.2g} over {len(subsets)} disjoint subsets, on average below the "
            "whole group's"
        )
        return sampling

    def _verdict(self, spectrum: Spectrum) -> Verdict:
        settings = self.settings
        return verdict(
            spectrum.lambda_min,
            spectrum.lambda_max,
            self.gradient_norm,
            self.weight_norm,
            loss=self.mean,
            decayed=self.decayed,
            relative_tau=settings.tau,
            threshold=settings.stationarity,
            search=Search(
                self.operator.size,
                settings.starts,
                spectrum.delta or settings.delta,
                spectrum.looks,
                every=LOOK_EVERY if settings.goal == "spectrum" else 1,
            ),
        )

    def _certificate(self, spectrum: Spectrum, tau: float) -> Certificate:
        shrink = torch.finfo(self.judge.dtype).eps / torch.finfo(self.operator.dtype).eps
        noise = spectrum.lambda_min.noise if self.work.by_differences else spectrum.noise.absolute * shrink
        return leaving.certificate(
            self.judge,
            spectrum.vectors["min"],
            tau=tau,
            noise=noise,
            vectors_file=self.work.vectors_file or "",
            key=f"{self.name}/min",
            quotient=spectrum.lambda_min.rayleigh_quotient if self.held else None,
            world=self.work.world if self.work.sharded else None,
        )

    def _escape(self, spectrum: Spectrum) -> Escape:
        v, quotient = spectrum.vectors["min"], spectrum.lambda_min.value
        gradient, objective = self.gradient, self.work.objective
        slope = self.space.dot(v, gradient)
        if slope > 0:  # both signs are eigenvectors; this one points downhill
            v, slope = -v, -slope
        test = None
        if self.settings.wants_escape_test:
            reach = leaving.natural_reach(slope, quotient, self.mean, self.weight_norm)
            test = leaving.escape_test(self.operator, v, loss=self.mean, slope=slope, quotient=quotient, reach=reach)
        if objective.wants_rates and self.work.sharded:
            self.warnings.append("no escape rates: optimizers' fields are of whole weights")
        if not objective.wants_rates or self.work.sharded:
            return leaving.escape(v=v, gradient=gradient, test=test, space=self.space)
        try:
            rates, curvature = objective.escape_rates(self.judge, v)
        except OperatorError as error:
            self.warnings.append(f"no escape rates: {error}")
            return leaving.escape(v=v, gradient=gradient, test=test)
        decay = objective.weight_decay
        return leaving.escape(v=v, gradient=gradient, test=test, rates=rates, objective_curvature=curvature, weight_decay=decay)

    def _gauss_newton(self, negative: Spectrum | None) -> GaussNewton | None:
        settings = self.settings
        try:
            return measure_gauss_newton(
                self.operator,
                negative.vectors["min"] if negative is not None else None,
                steps=settings.steps,
                min_steps=settings.min_steps,
                rtol=settings.rtol,
                delta=settings.delta,
                seed=settings.seed,
            )
        except OperatorError as error:
            self.warnings.append(f"no Gauss-Newton part: {error}")
            return None
