"""The competitors: one small class each, that asks a library for what people ask it, in its best configuration.

Every library is imported when it is used: none but PyHessian is a dependency. The clock starts after its import and before
``extremes`` or ``density`` is called, so building the operator counts.

Above 300 lines: whether the ground is level is seen where all competitors stand side by side.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from scipy.sparse.linalg import LinearOperator as ScipyOperator
from torch import Tensor, nn

from ..hessian.low_precision import rough_if_faster
from ..hessian.modules import evaluation_mode
from ..hessian.operator import HessianOperator
from ..hessian.sample_parts import one_micro_batch, part_of
from ..krylov.density import pooled
from ..krylov.guards import PRODUCTS
from ..krylov.spectrum import measure_spectrum
from ..measures.extremes import measure_ends
from ..records.settings import AnalysisSettings
from .cases import Problem

#: residual at which SciPy's and our iterations stop, relative to the eigenvalue: at least 1 % for all
TOLERANCE = 1e-2
SEED = 0


@dataclass(frozen=True)
class Plan:
    """How a competitor is configured: what its user would have to find out first is found out for it.

    Attributes:
        micro_batch: samples differentiated at once.
        ends: ``eigsh``: ``["BE"]`` for both ends in one call, or ``["SA", "LA"]``.
        ncv: ``eigsh``: Lanczos vectors between restarts.
        steps: hessian-eigenthings: steps for the smallest and for the largest eigenvalue.
        density_steps: steps of each probe of the density.
        density_probes: and how many probes.
    """

    micro_batch: int = 64
    ends: tuple[str, ...] = ("BE",)
    ncv: int = 20
    steps: tuple[int, int] = (50, 50)
    density_steps: int = 100
    density_probes: int = 1


@dataclass
class Answer:
    """Both ends, the density's quadrature, and what it took."""

    lambda_min: float | None = None
    lambda_max: float | None = None
    nodes: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    products: int = 0


class Competitor(Protocol):
    """What the bench asks of every competitor.

    Attributes:
        title: for tables.
        package: the distribution that must be installed.
        modules: imported before the clock starts.
        operators: whether it takes anything but a network.
        together: one call answers both questions.
    """

    title: str
    package: str
    modules: tuple[str, ...]
    operators: bool
    together: bool

    def product(self, problem: Problem, plan: Plan) -> Callable[[Tensor], Any]:
        """A Hessian-vector product."""

    def extremes(self, problem: Problem, plan: Plan) -> Answer:
        """Both ends of the spectrum within :data:`TOLERANCE`."""

    def density(self, problem: Problem, plan: Plan) -> Answer:
        """The quadrature of as many probes as the plan says."""


class Ours:
    """This suite at its defaults."""

    title, package, operators, together = "saddlescope, defaults", "saddlescope", True, True
    modules: tuple[str, ...] = ()

    def operator(self, problem: Problem) -> Any:
        """The Hessian over the group, or what is measured in its place."""
        if problem.operator is not None:
            return problem.operator
        assert problem.subject is not None
        assert problem.samples is not None
        return HessianOperator(problem.model, problem.samples, problem.subject.loss)

    def product(self, problem: Problem, plan: Plan) -> Callable[[Tensor], Any]:
        """As for every competitor."""
        return self.operator(problem).matvec  # type: ignore[no-any-return]

    def extremes(self, problem: Problem, plan: Plan) -> Answer:
        """As for every competitor."""
        settings = AnalysisSettings()
        given = {name: getattr(settings, name) for name in ("steps", "min_steps", "rtol", "starts", "delta", "k")}
        spectrum = measure_spectrum(self.operator(problem), seed=SEED, **given)
        assert spectrum.density is not None
        (probe,) = spectrum.density.probes
        low, high = spectrum.lambda_min.value, spectrum.lambda_max.value
        return Answer(low, high, probe.nodes, probe.density_weights, spectrum.matvecs)

    density = extremes


class OursEnds(Ours):
    """The ends alone, to the accuracy that the others are asked for."""

    title, together = "saddlescope, the ends alone", False

    def extremes(self, problem: Problem, plan: Plan) -> Answer:
        """As for every competitor."""
        operator, part, looks = self.operator(problem), None, 0.0
        if problem.samples is not None:
            labels = problem.samples.labels
            chosen = part_of(np.arange(len(labels)), labels, operator.work)
            part = None if chosen is None else operator.over(problem.samples.subset(chosen))
        settings = AnalysisSettings()
        given = {"steps": settings.steps, "delta": settings.delta, "rtol": TOLERANCE, "seed": SEED}
        # The others do not ask whether what they found is the end, either.
        found = measure_ends(operator, part=part, rough=rough_if_faster, confirm=False, **given)  # type: ignore[arg-type]  # numbers
        if part is not None:  # in products over the whole group
            looks = part.matvecs * part.num_samples / operator.num_samples
        guarded = one_micro_batch(operator if part is None else part)
        if guarded is not operator and guarded is not part:
            looks += PRODUCTS * guarded.num_samples / operator.num_samples
        return Answer(found.lambda_min.value, found.lambda_max.value, products=found.matvecs + math.ceil(looks))


class Curvlinops:
    """``HessianLinearOperator`` as a SciPy operator under ``eigsh``; its own Lanczos for the density."""

    title, package, operators, together = "curvlinops + SciPy eigsh", "curvlinops-for-pytorch", True, False
    modules: tuple[str, ...] = ("curvlinops", "curvlinops.papyan2020traces.spectrum")

    def _operator(self, problem: Problem, plan: Plan) -> Any:
        from curvlinops import HessianLinearOperator

        assert problem.samples is not None
        return HessianLinearOperator(
            problem.model,
            nn.CrossEntropyLoss(),
            list(problem.model.parameters()),
            problem.batches(plan.micro_batch),
            check_deterministic=False,
            num_data=problem.samples.num_samples,
        )

    def product(self, problem: Problem, plan: Plan) -> Callable[[Tensor], Any]:
        """As for every competitor."""
        if problem.operator is not None:
            return problem.operator.matvec
        operator = self._operator(problem, plan)
        return lambda v: operator @ v

    def extremes(self, problem: Problem, plan: Plan) -> Answer:
        """As for every competitor."""
        if problem.operator is not None:
            product = _on_arrays(problem.operator.matvec)
        else:
            wrapped = self._operator(problem, plan).to_scipy()
            product = wrapped.matvec
        return eigsh_extremes(product, problem.size, plan)

    def density(self, problem: Problem, plan: Plan) -> Answer:
        """As for every competitor: Papyan's Lanczos without reorthogonalisation."""
        from curvlinops.papyan2020traces.spectrum import fast_lanczos

        torch.manual_seed(SEED)  # it draws its start from the global state; this process is its own
        operator = self._operator(problem, plan)
        found = [fast_lanczos(operator, plan.density_steps) for _ in range(plan.density_probes)]
        nodes, weights = pooled([(values, vectors[0] ** 2) for values, vectors in found])
        return Answer(nodes=nodes.tolist(), weights=weights.tolist(), products=plan.density_steps * plan.density_probes)


class Eigenthings:
    """hessian-eigenthings: one Lanczos run for each end, its spectral density for the density."""

    title, package, operators, together = "hessian-eigenthings, two Lanczos runs", "hessian-eigenthings", True, False
    modules: tuple[str, ...] = ("hessian_eigenthings",)

    def _operator(self, problem: Problem, plan: Plan) -> Any:
        import hessian_eigenthings

        if problem.operator is not None:
            return hessian_eigenthings.LambdaOperator(problem.operator.matvec, problem.size)
        batches = problem.batches(plan.micro_batch)
        total = sum(len(targets) for _, targets in batches)

        def loss(model: nn.Module, batch: Any) -> Tensor:
            # It takes the plain mean over batches; the factor makes a ragged last one weigh what it should.
            summed = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")
            return summed * (len(batches) / total)

        return hessian_eigenthings.HessianOperator(problem.model, batches, loss)

    def product(self, problem: Problem, plan: Plan) -> Callable[[Tensor], Any]:
        """As for every competitor."""
        return self._operator(problem, plan).matvec  # type: ignore[no-any-return]

    def extremes(self, problem: Problem, plan: Plan) -> Answer:
        """As for every competitor."""
        from hessian_eigenthings import lanczos

        ends, products = [], 0
        operator = self._operator(problem, plan)
        for which, steps in zip(("SA", "LA"), plan.steps, strict=True):
            result = lanczos(operator, k=1, which=which, max_iter=steps, tol=TOLERANCE, reorthogonalize=True, seed=SEED)
            ends.append(float(result.eigenvalues[0]))
            products += result.iterations
        return Answer(ends[0], ends[1], products=products)

    def density(self, problem: Problem, plan: Plan) -> Answer:
        """As for every competitor."""
        from hessian_eigenthings import spectral_density

        operator = self._operator(problem, plan)
        result = spectral_density(
            operator, num_runs=plan.density_probes, lanczos_steps=plan.density_steps, num_grid_points=2, seed=SEED
        )
        found = [(np.asarray(n), np.asarray(w)) for n, w in zip(result.raw_eigenvalues, result.raw_weights, strict=True)]
        nodes, weights = pooled(found)
        return Answer(nodes=nodes.tolist(), weights=weights.tolist(), products=len(nodes))


class PyHessian:
    """PyHessian 0.1: ``density(iter=100, n_v=1)``, whose outermost Ritz values are what the saddle papers report."""

    title, package, operators, together = "PyHessian, density of 100 steps", "pyhessian", False, False
    modules: tuple[str, ...] = ("pyhessian",)

    def _hessian(self, problem: Problem, plan: Plan) -> tuple[Any, _Passes]:
        from pyhessian import hessian

        loader = _Passes(problem.batches(plan.micro_batch))
        return hessian(problem.model, nn.CrossEntropyLoss(), dataloader=loader, cuda=False), loader

    def product(self, problem: Problem, plan: Plan) -> Callable[[Tensor], Any]:
        """As for every competitor."""
        asked, _ = self._hessian(problem, plan)
        sizes = [p.numel() for p in asked.params]
        return lambda v: asked.dataloader_hv_product(
            [part.view_as(p) for part, p in zip(v.split(sizes), asked.params, strict=True)]
        )

    def extremes(self, problem: Problem, plan: Plan) -> Answer:
        """As for every competitor."""
        values, _, products = self._density(problem, plan, min(100, problem.size), 1)
        return Answer(min(values), max(values), products=products)

    def density(self, problem: Problem, plan: Plan) -> Answer:
        """As for every competitor."""
        values, shares, products = self._density(problem, plan, plan.density_steps, plan.density_probes)
        return Answer(nodes=values, weights=shares, products=products)

    def _density(self, problem: Problem, plan: Plan, steps: int, probes: int) -> tuple[list[float], list[float], int]:
        from ..measures.pyhessian_engine import _lent

        with _lent(SEED, torch.device("cpu")):
            asked, loader = self._hessian(problem, plan)
            nodes, weights = asked.density(iter=steps, n_v=probes)
        values, shares = pooled([(np.array(n, float), np.array(w, float)) for n, w in zip(nodes, weights, strict=True)])
        return values.tolist(), shares.tolist(), loader.passes


class _Passes:
    """The batches, again and again; counts how often they are asked for."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        return iter(self.batches)


COMPETITORS: dict[str, Competitor] = {
    "ours-ends": OursEnds(),
    "ours": Ours(),
    "curvlinops": Curvlinops(),
    "eigenthings": Eigenthings(),
    "pyhessian": PyHessian(),
}


def installed(name: str) -> str | None:
    """The version of a competitor that is installed, ``None`` if it is not."""
    try:
        return importlib.metadata.version(COMPETITORS[name].package)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextmanager
def level_ground(problem: Problem) -> Iterator[None]:
    """Eval mode and attention that can be differentiated twice, for everybody."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if problem.subject is None:
        yield
        return
    with evaluation_mode(problem.model), sdpa_kernel(SDPBackend.MATH):
        yield


def fixed_start(size: int) -> Tensor:
    """The Gaussian vector ``[size]`` that hessian-eigenthings draws for :data:`SEED`; eigsh is given it, too."""
    return torch.randn(size, generator=torch.Generator().manual_seed(SEED))


def eigsh_extremes(
    product: Callable[[np.ndarray], np.ndarray], size: int, plan: Plan, start: np.ndarray | None = None
) -> Answer:
    """Both ends by ARPACK, in the calls that the plan names.

    Args:
        product: ``v [n] -> H v``.
        size: n.
        plan: ``ends`` and ``ncv``.
        start: ``[n]``; default: a fixed random one.
    """
    answer = Answer()

    def counted(v: np.ndarray) -> np.ndarray:
        answer.products += 1
        return np.asarray(product(v.ravel()))

    if start is None:
        start = fixed_start(size).numpy()
    operator = ScipyOperator((size, size), matvec=counted, dtype=start.dtype)
    for which in plan.ends:
        wanted = 2 if which == "BE" else 1
        try:
            values = eigsh(  # type: ignore[call-overload]  # the stubs do not know its operators
                operator, k=wanted, which=which, tol=TOLERANCE, ncv=plan.ncv, v0=start, return_eigenvectors=False
            )
        except ArpackNoConvergence as failure:
            values = failure.eigenvalues
            if len(values) < wanted:
                continue
        if which in ("BE", "SA"):
            answer.lambda_min = float(values.min())
        if which in ("BE", "LA"):
            answer.lambda_max = float(values.max())
    return answer


def _on_arrays(product: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda v: product(torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32))).numpy()
