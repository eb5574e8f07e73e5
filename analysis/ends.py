"""Both ends of a spectrum, or a verdict on the lower one, and nothing else: few steps, from a start that knows the way.

Extreme eigenvectors of a part of a group's samples point roughly where the group's own do, at a fraction of the price. A random
vector is mixed into the start, so that the two-sided interval of a random start still holds, a little wider: with
``s = (w + r) / |w + r|``, w a unit vector that does not know r, and r uniform on the sphere, the part of s along an eigenvector
is below t with at most the probability that the part of r alone is below 2 t. (An interval around the middle of a symmetric
unimodal density loses when it is moved: T. W. Anderson, Proc. AMS 6, 1955.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .basis import Place
from .bounds import end_intervals, start_error
from .guards import guard
from .lanczos import Lanczos, random_start
from .linear import LinearOperator
from .results import Extreme, IndexBound, Interval
from .spectrum import THRESHOLDS, Progress, Spectrum, allowed_residual, decided, negative_ratio, what_to_say, with_rounding

#: A part holds an eighth of a group, but at least so many samples, and at most a fourth: else the group's own products will do.
PART, PART_LEAST, PART_MOST = 8, 32, 4
#: Steps on the part; fewer where its ends are settled to 5 %.
PART_STEPS, PART_RTOL = 20, 5e-2
#: Steps before the first look, and before an end that is small beside the other one may count as settled.
FIRST_LOOK, SMALL_END = 4, 30


def part_of(indices: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """A part of a group that is worth looking at first, the classes in their shares.

    Args:
        indices: the group's samples.
        labels: class of every sample of the data.

    Returns:
        Sorted indices; None where the group is too small for a part.
    """
    every = min(PART, len(indices) // PART_LEAST)
    if every < PART_MOST:
        return None
    by_class = indices[np.argsort(labels[indices], kind="stable")]
    return np.sort(by_class[every // 2 :: every])


def measure_ends(
    operator: LinearOperator,
    *,
    part: LinearOperator | None = None,
    steps: int = 100,
    rtol: float = 1e-3,
    delta: float = 1e-3,
    thresholds: Sequence[float] = THRESHOLDS,
    seed: int = 0,
    tau: float | None = None,
    enough: float | None = None,
    place: Place = "device",
    progress: Progress | None = None,
) -> Spectrum:
    """Measures the smallest and the largest eigenvalue of a symmetric operator.

    Args:
        operator: fixed and symmetric.
        part: the same over a part of the samples; it is guarded instead of ``operator``: what is random in one is in the other.
        steps: Lanczos step limit.
        rtol: an end is settled when its estimated error is below ``rtol`` of its own size, two steps running.
        delta: failure probability of the two-sided intervals, of both ends together.
        thresholds: tau / lambda_max of the index bounds.
        seed: of the random start.
        tau: go on, up to the step limit, until it is decided whether an eigenvalue lies below ``-tau lambda_max``.
        enough: stop as soon as an eigenvalue is proven to lie below this and ``-tau lambda_max``, settled or not.
        place: where the Krylov basis is kept.
        progress: called with 1 after each step on ``operator``.

    Returns:
        Ends, index bounds and the vectors ``min`` and ``max``.

    Raises:
        RandomOperatorError: the operator changes between products or is not symmetric.
    """
    before = operator.matvecs
    noise = guard(operator if part is None else part, seed).noise
    start, dilution = random_start(operator, seed), 1.0
    if part is not None and enough is None:  # a verdict is reached in fewer steps than a look at the part takes
        start, dilution = start.double() + _shown_by(part, seed), 2.0
    looks = max(1, steps - FIRST_LOOK + 1)
    settled = Settled(rtol)

    def stop(run: Lanczos) -> bool:
        if progress is not None:
            progress(1)
        if run.steps < FIRST_LOOK:
            return False
        low, high = float(run.ritz.values[0]), float(run.ritz.values[-1])
        if enough is not None and low < min(enough, -(tau or 0.0) * max(high, 0.0)) - noise.absolute:
            return True
        return settled(run) and (tau is None or decided(run, tau, noise, delta, looks, dilution))

    run = Lanczos(operator, seed, start=start, place=place).run(steps, stop)
    values, residuals = run.ritz.values, run.ritz.residuals
    low, high = float(values[0]), float(values[-1])
    noise = with_rounding(noise, operator, max(abs(low), abs(high)))
    eps = 0.0 if run.exhausted else start_error(operator.size, [run.steps], delta / 2, looks, dilution)
    intervals = end_intervals(low, high, eps, noise.absolute, noise.absolute)

    def extreme(end: int, interval: Interval, settled: bool) -> Extreme:
        value, residual = float(values[end]), float(residuals[end])
        wide = residual + noise.absolute
        return Extreme(
            value=value,
            residual=residual,
            interval=interval,
            confidence=1.0 if run.exhausted else 1 - delta,
            residual_interval=(value - wide, value + wide),
            converged=settled or residual <= noise.absolute,
            noise=noise.absolute,
        )

    lowest, highest = (extreme(*one) for one in zip((0, -1), intervals, ends_settled(run, rtol), strict=True))
    ladder = [(c, c * max(high, 0.0)) for c in thresholds]
    return Spectrum(
        lambda_min=lowest,
        lambda_max=highest,
        lowest=[lowest],
        highest=[highest],
        negative_ratio=negative_ratio(lowest, highest),
        saddle_index=[
            IndexBound(relative=c, tau=tau, at_least=int((values < -tau - noise.absolute).sum())) for c, tau in ladder
        ],
        noise=noise,
        steps=[run.steps],
        matvecs=operator.matvecs - before,
        looks=looks,
        vectors={"min": run.ritz_vector(0), "max": run.ritz_vector(-1)},
        warnings=what_to_say(lowest, highest, run.steps),
    )


def _shown_by(part: LinearOperator, seed: int) -> Tensor:
    """What the extreme eigenvectors of the part say, as :func:`between_ends`."""
    run = Lanczos(part, seed + 404).run(PART_STEPS, lambda run: run.steps >= FIRST_LOOK and all(ends_settled(run, PART_RTOL)))
    return between_ends(run)


def between_ends(run: Lanczos) -> Tensor:
    """The unit vector ``[n]`` in float64 half way between the Ritz vectors of both ends."""
    both: Tensor = run.ritz_vector(0).double() + run.ritz_vector(-1).double()
    return both.div(both.norm())


class Settled:
    """Called after each step of a run: whether both ends are settled (:func:`ends_settled`), two calls running."""

    def __init__(self, rtol: float) -> None:
        self._rtol, self._running = rtol, 0

    def __call__(self, run: Lanczos) -> bool:
        """Counts the step."""
        self._running = self._running + 1 if all(ends_settled(run, self._rtol)) else 0
        return self._running > 1


def ends_settled(run: Lanczos, rtol: float) -> tuple[bool, bool]:
    """Whether the smallest and the largest Ritz value are within about ``rtol`` of the eigenvalues they go to.

    The error is estimated as ``r^2 / gap`` (Kato-Temple: r the residual, gap the distance to the next Ritz value's residual
    interval), and by r itself where that is smaller or there is no gap. Late in a run it may be ``rtol`` of 1 % of the larger
    end, too; in its first steps a Ritz value near zero is on its way, not small.
    """
    values, residuals = run.ritz.values, run.ritz.residuals
    if run.steps < 2:
        return False, False
    scale = max(abs(values[0]), abs(values[-1])) if run.steps >= SMALL_END else 0.0
    settled = []
    for end, inner in ((0, 1), (-1, -2)):
        r, gap = residuals[end], abs(values[end] - values[inner]) - residuals[inner]
        error = min(r, r * r / gap) if gap > 0 else r
        settled.append(bool(error <= allowed_residual(values[end], scale, rtol)))
    return settled[0], settled[1]
