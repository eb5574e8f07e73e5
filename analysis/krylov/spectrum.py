"""Extremes, density, negative mass, trace and index bounds of an operator, from one set of Lanczos runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from ..records.base import Estimate
from ..records.spectra import Density, Extreme, IndexBound, MassAtThreshold, OperatorNoise, Probe
from .basis import Place
from .bounds import end_intervals, ratio_interval, share_interval, start_error
from .guards import guard, product_rounding, require_symmetric, with_rounding
from .lanczos import Lanczos
from .lanczos_runs import Start, StartPlan
from .linear_operator import LinearOperator, product_error
from .negative_energy import negative_energy
from .space import space_of
from .start_store import StartStore
from .trace import trace

#: Convergence is looked at after every so many steps; the failure probability is spent over these looks.
LOOK_EVERY = 5
THRESHOLDS = (1e-4, 1e-3, 1e-2, 1e-1)
NO_RATIO = "lambda_max is not positive: the ratio |lambda_min| / lambda_max does not exist, 0 stands for it"
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Spectrum:
    """What was measured of one operator (fields as in ``results.GroupResult``).

    ``vectors`` holds the unit Ritz vectors ``min`` and ``max`` ``[n]``, and ``min-2`` ... where k > 1. Masses, energy, trace
    and density are missing where only the ends were asked for. ``delta`` is the failure probability that the intervals of both
    ends were given, where it is not all that was allowed.
    """

    lambda_min: Extreme
    lambda_max: Extreme
    lowest: list[Extreme]
    highest: list[Extreme]
    negative_ratio: Estimate
    saddle_index: list[IndexBound]
    noise: OperatorNoise
    steps: list[int]
    matvecs: int
    looks: int
    vectors: dict[str, Tensor]
    delta: float | None = None
    negative_mass: list[MassAtThreshold] = field(default_factory=list)
    negative_energy: Estimate | None = None
    trace: Estimate | None = None
    density: Density | None = None
    warnings: list[str] = field(default_factory=list)


def measure_spectrum(
    operator: LinearOperator,
    *,
    steps: int = 100,
    min_steps: int = 30,
    rtol: float = 1e-3,
    starts: int = 1,
    delta: float = 1e-3,
    thresholds: Sequence[float] = THRESHOLDS,
    k: int = 1,
    seed: int = 0,
    tau: float | None = None,
    mass_width: float | None = None,
    max_starts: int = 32,
    place: Place = "device",
    store: StartStore | None = None,
    looked: bool = False,
    progress: Progress | None = None,
) -> Spectrum:
    """Measures both ends and the density of a symmetric operator.

    Args:
        operator: fixed and symmetric (measured first, refused otherwise).
        steps: Lanczos step limit of each start.
        min_steps: done even where both ends converge sooner, for the density and the two-sided interval.
        rtol: an extreme counts as converged when its residual is below ``rtol`` of its own size, or of 1 % of the larger
            extreme where it is smaller than that.
        starts: independent random starts, uniform on the sphere.
        delta: failure probability of the two-sided intervals (of both ends together), and of each negative mass.
        thresholds: tau / lambda_max of the negative mass and the index bounds.
        k: eigenpairs wanted at each end.
        seed: of the starts: ``seed``, ``seed + 1`` ...
        tau: go on, up to the step limit, until it is decided whether an eigenvalue lies below ``-tau lambda_max``.
        mass_width: add starts until the interval of every negative mass is at most so wide.
        max_starts: but no more than so many in all.
        place: where the Krylov basis is kept.
        store: where finished and running starts are kept, to be continued and added to.
        looked: the caller holds the products against another way to the same numbers itself (``LinearOperator.look``).
        progress: called with 1 after each Lanczos step.

    Raises:
        RandomOperatorError: the operator changes between products or is not symmetric.
        OperatorError: its products are those of another function.
    """
    before = operator.matvecs
    said = [] if looked else operator.look(seed=seed)
    guarded = guard(operator, seed)
    noise = guarded.noise
    if store is not None:
        store.empty_unless_of(operator, guarded.products)
    k = min(k, operator.size)

    def stop(run: Lanczos) -> bool:
        if progress is not None:
            progress(1)
        due = run.steps % LOOK_EVERY == 0 and run.steps >= first_look
        # Of this start alone, however many are asked for: a stored one is also of an analysis that adds others.
        return due and converged(run, k, rtol) and (tau is None or decided(run, tau, noise, delta, looks))

    plan = StartPlan(steps, stop, k, guarded.products, place)
    first_look = max(min_steps, 2 * k)
    looks = 1 + sum(step % LOOK_EVERY == 0 for step in range(first_look, steps))  # the step limit is one, too
    # Stopping when the masses are known well enough is a look, too, of masses and ends: each one spends its share of delta.
    most = starts if mass_width is None else max(starts, max_starts)
    wide = math.inf if mass_width is None else mass_width
    share = delta / (most - starts + 1)
    runs: list[Start] = []
    ends: dict[str, tuple[float, Tensor]] = {}
    vectors: dict[str, Tensor] = {}
    best: dict[str, list[tuple[float, float]]] = {}
    while len(runs) < starts or (len(runs) < most and _widest(runs, thresholds, operator.size, share, noise) > wide):
        later = most - 1 - len(runs)
        number = seed + len(runs)
        run = plan.run(operator, number, later) if store is None else store.run(operator, number, later, plan)
        for end, pairs, sign in (("min", run.lowest, 1), ("max", run.highest, -1)):
            if end not in best or sign * pairs[0][0] < sign * best[end][0][0]:
                best[end] = [(float(value), float(residual)) for value, residual in pairs]
                ends[end] = (best[end][0][0], run.vectors[end])
                vectors |= {name: vector for name, vector in run.vectors.items() if name.startswith(end)}
        run.vectors = {}  # the largest thing that is kept of a run; the best ones are held above
        runs.append(run)
        plan = plan.after_the_first
    if not looked:
        said += operator.look({end: vector for end, (_, vector) in ends.items()})
    scale = max(abs(ends["min"][0]), abs(ends["max"][0]))
    asymmetry = max(run.asymmetry for run in runs)
    require_symmetric(asymmetry, scale, operator, max(run.steps for run in runs))
    noise = with_rounding(noise, operator, scale, asymmetry)
    quotients = {end: _rayleigh(operator, vector) for end, (_, vector) in ends.items()}
    exhausted = any(run.exhausted for run in runs)
    # Each end's interval needs the other end's statement, too (it bounds the spread): delta is shared by both.
    eps = 0.0 if exhausted else start_error(operator.size, [run.steps for run in runs], share / 2, looks)
    # The quotient has an error of its own: an interval does not end at it.
    rounding = product_rounding(operator) * scale + product_error(operator)
    apart = {end: abs(quotients[end] - ends[end][0]) for end in ends}
    fuzz = {end: max(noise.absolute, apart[end] + rounding) for end in ends}
    low, high = end_intervals(ends["min"][0], ends["max"][0], eps, fuzz["min"], fuzz["max"])
    confidence = 1.0 if exhausted else 1 - delta

    def extreme(end: str, rank: int, interval: tuple[float | None, float | None]) -> Extreme:
        value, residual = best[end][rank]
        return Extreme(
            value=value,
            residual=residual,
            interval=interval,
            confidence=confidence,
            residual_interval=(value - residual - fuzz[end], value + residual + fuzz[end]),
            converged=residual <= allowed_residual(value, scale, rtol) + noise.absolute,
            noise=fuzz[end],
            rayleigh_quotient=quotients[end] if rank == 0 else None,
        )

    def further(end: str, rank: int) -> tuple[float | None, float | None]:
        if rank == 0:
            return low if end == "min" else high
        one_sided = best[end][rank][0] + (fuzz[end] if end == "min" else -fuzz[end])
        return (None, one_sided) if end == "min" else (one_sided, None)

    lowest = [extreme("min", j, further("min", j)) for j in range(len(best["min"]))]
    highest = [extreme("max", j, further("max", j)) for j in range(len(best["max"]))]
    top = max(ends["max"][0], 0.0)
    ladder = [(c, c * top) for c in thresholds]
    return Spectrum(
        lambda_min=lowest[0],
        lambda_max=highest[0],
        lowest=lowest,
        highest=highest,
        negative_ratio=negative_ratio(lowest[0], highest[0]),
        negative_mass=[_mass(runs, c, tau, operator.size, share, noise.absolute) for c, tau in ladder],
        negative_energy=negative_energy(runs, operator.size),
        saddle_index=[IndexBound(relative=c, tau=tau, at_least=_index(runs, tau, noise.absolute)) for c, tau in ladder],
        trace=trace(operator, runs, guarded.products, noise.absolute),
        density=Density(
            distribution="sphere",
            probes=[
                Probe(seed=run.seed, nodes=run.nodes.tolist(), weights=run.weights.tolist(), counted=run.counted.tolist())
                for run in runs
            ],
        ),
        noise=noise,
        steps=[run.steps for run in runs],
        matvecs=operator.matvecs - before,
        looks=looks,
        vectors=vectors,
        delta=share,
        warnings=what_to_say(lowest[0], highest[0], max(run.steps for run in runs)) + said,
    )


def decided(run: Lanczos, tau: float, noise: OperatorNoise, delta: float, looks: int, dilution: float = 1.0) -> bool:
    """Whether a run says if an eigenvalue lies below ``-tau lambda_max``; arguments as in ``start_error``."""
    low, high = float(run.ritz.values[0]), float(run.ritz.values[-1])
    edge = -tau * max(high, 0.0)
    if low < edge - noise.absolute:
        return True
    eps = start_error(run.operator.size, [run.steps], delta / 2, looks, dilution)
    bound = end_intervals(low, high, eps, noise.absolute, noise.absolute)[0][0]
    return bound is not None and bound > edge


def what_to_say(lowest: Extreme, highest: Extreme, steps: int) -> list[str]:
    """Warnings about ends that are bounds only, or may not be the outermost ones, and a ratio that does not exist."""
    pairs = (("lambda_min", lowest), ("lambda_max", highest))
    open_ends = [(end, pair) for end, pair in pairs if not pair.converged]
    said = [
        f"{end} settled, not confirmed, after {steps} steps: an eigenvalue more than 1 % beyond may be hidden"
        if pair.state == "not confirmed"
        else f"{end} not converged after {steps} steps (residual {pair.residual:.1e}): a bound"
        for end, pair in open_ends
    ]
    return said if highest.value > 0 else [*said, NO_RATIO]


def _widest(runs: Sequence[Start], thresholds: Sequence[float], n: int, delta: float, noise: OperatorNoise) -> float:
    """Width of the widest interval of a negative mass, with tau relative to the largest Ritz value so far."""
    top = max(0.0, *(float(run.highest[0][0]) for run in runs))
    masses = [_mass(runs, c, c * top, n, delta, noise.absolute) for c in thresholds]
    return max((mass.interval[1] - mass.interval[0] for mass in masses), default=0.0)


def allowed_residual(value: float, scale: float, rtol: float) -> float:
    """Residual up to which a Ritz value is converged: ``rtol`` of its size, or of 1 % of ``scale``, the larger end's size."""
    return rtol * max(abs(value), 0.01 * scale)


def converged(run: Lanczos, k: int, rtol: float) -> bool:
    """Whether the k outermost Ritz pairs of both ends have residuals within ``rtol``, as in ``measure_spectrum``."""
    values, residuals = run.ritz.values, run.ritz.residuals
    scale = max(abs(values[0]), abs(values[-1]))
    wanted = [*range(k), *range(-1, -1 - k, -1)]
    return all(residuals[i] <= allowed_residual(values[i], scale, rtol) for i in wanted)


def _rayleigh(operator: LinearOperator, v: Tensor) -> float:
    space, product = space_of(operator), operator.matvec(v)
    return space.dot(product, v) / space.dot(v, v)


def negative_ratio(lambda_min: Extreme, lambda_max: Extreme) -> Estimate:
    """``|min(lambda_min, 0)| / lambda_max`` (Li et al. 2018) with the interval that follows from both ends.

    Where lambda_max is not positive the ratio is undefined and reported as 0 with an empty interval.
    """
    value = max(-lambda_min.value, 0.0) / lambda_max.value if lambda_max.value > 0 else 0.0
    confidence = max(0.0, lambda_min.confidence + lambda_max.confidence - 1)
    return Estimate(value=value, interval=ratio_interval(lambda_min.interval, lambda_max.interval), confidence=confidence)


def _mass(runs: Sequence[Start], relative: float, tau: float, n: int, delta: float, noise: float) -> MassAtThreshold:
    value = float(np.mean([run.weights[run.nodes < -tau].sum() for run in runs]))
    low, high = (float(np.mean(side)) for side in zip(*(run.bracket(-tau, noise) for run in runs), strict=True))
    return MassAtThreshold(
        relative=relative,
        tau=tau,
        value=min(max(value, low), high),  # within it but for rounding
        interval=share_interval(low, high, n, len(runs), delta),
        confidence=1 - delta,
        bracket=(low, high),
        standard_error=math.sqrt(2 * max(value * (1 - value), 0.0) / ((n + 2) * len(runs))),
    )


def _index(runs: Sequence[Start], tau: float, noise: float) -> int:
    return max(int((run.nodes < -tau - noise).sum()) for run in runs)
