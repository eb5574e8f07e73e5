"""Both ends of a spectrum, or a verdict on the lower one, and nothing else: few steps, perhaps from a start that knows the way.

Extreme eigenvectors of a part of a group's samples, or of an earlier checkpoint, point roughly where the group's own do. A
random vector is mixed into such a start, so that the two-sided interval of a random start still holds, a little wider: with
``s = (w + r) / |w + r|``, w a unit vector that does not know r, and r uniform on the sphere, the part of s along an eigenvector
is below t with at most the probability that the part of r alone is below 2 t. (An interval around the middle of a symmetric
unimodal density loses when it is moved: T. W. Anderson, Proc. AMS 6, 1955.)

An end is called converged where it is settled and confirmed: see :mod:`.settled`.

The vectors may be looked for with cheaper products (``rough``): what counts is measured with the operator itself at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from ..hessian.sample_parts import one_micro_batch
from ..krylov.basis import Place
from ..krylov.bounds import end_intervals, start_error
from ..krylov.guards import guard, require_symmetric, with_rounding
from ..krylov.lanczos import Lanczos, random_start
from ..krylov.linear_operator import LinearOperator
from ..krylov.space import Space, space_of
from ..krylov.spectrum import (
    THRESHOLDS,
    Progress,
    Spectrum,
    decided,
    negative_ratio,
    what_to_say,
)
from ..krylov.start_store import StartStore
from ..records.base import Interval
from ..records.spectra import Extreme, IndexBound
from .found_ends import Ends, of_run, through
from .settled import DOUBT, NEAR_ROUGHLY, Settled, doubts, ends_settled

#: Makes of an operator one with cheaper products, about the same; None where there is none.
Rough = Callable[[LinearOperator], LinearOperator | None]
#: Steps on the part; fewer where its ends are settled to 5 %.
PART_STEPS, PART_RTOL = 20, 5e-2
#: Steps before the first look.
FIRST_LOOK = 4


def measure_ends(
    operator: LinearOperator,
    *,
    part: LinearOperator | None = None,
    rough: Rough | None = None,
    steps: int = 100,
    rtol: float = 1e-3,
    delta: float = 1e-3,
    thresholds: Sequence[float] = THRESHOLDS,
    seed: int = 0,
    tau: float | None = None,
    enough: float | None = None,
    knows: Tensor | None = None,
    confirm: bool | None = None,
    place: Place = "device",
    store: StartStore | None = None,
    looked: bool = False,
    progress: Progress | None = None,
) -> Spectrum:
    """Measures the smallest and the largest eigenvalue of a symmetric operator.

    Args:
        operator: fixed and symmetric.
        part: the same over a part of the samples, guarded instead of ``operator``
            (:func:`~saddlescope.analysis.hessian.sample_parts.one_micro_batch`), and looked at first without ``confirm``.
        rough: makes about the same of an operator, but cheaper, if it can (``low_precision.rough_if_faster``). The
            vectors are looked for with that; values and residuals are those of ``operator``, by one product for each end. Where
            these do not settle it, the run is done again with ``operator``, from there.
        steps: Lanczos step limit.
        rtol: an end is settled when its estimated error is below ``rtol`` of its own size, two steps running (a search with
            ``rough``: once, and again when it is measured); it is converged when it is confirmed, too.
        delta: failure probability of the two-sided intervals, of both ends together.
        thresholds: tau / lambda_max of the index bounds.
        seed: of the random start.
        tau: go on, up to the step limit, until it is decided whether an eigenvalue lies below ``-tau lambda_max``.
        enough: stop as soon as an eigenvalue is proven to lie below this and ``-tau lambda_max``, settled or not.
        knows: unit vector ``[n]`` that points roughly where the extreme eigenvectors do (:func:`half_way`), instead of a look
            at ``part``. It must not depend on the random start of ``seed``: take another seed than the run had that it is of.
        confirm: go on, up to the step limit, until settled ends are confirmed, too. What ``part`` or ``knows`` say saves no
            step of that: only what is random in a start tells that nothing is hidden. Default: without ``knows``.
        place: where the Krylov basis is kept.
        store: where running and found ends are kept, to be continued; its folder is of these very arguments, but for
            ``seed`` and ``thresholds``.
        looked: as in :func:`~saddlescope.analysis.krylov.spectrum.measure_spectrum`.
        progress: called with 1 after each step on ``operator``.

    Returns:
        Ends, index bounds and the vectors ``min`` and ``max``. What was found with ``rough`` has no two-sided intervals: these
        are of a Krylov space of ``operator``.

    Raises:
        RandomOperatorError: the operator changes between products or is not symmetric.
        OperatorError: its products are those of another function.
    """
    before = operator.matvecs
    said = [] if looked else operator.look(seed=seed)
    noise = guard(one_micro_batch(operator if part is None else part), seed).noise
    confirm = knows is None if confirm is None else confirm
    if store is not None:
        store = replace(store, folder=store.folder / str(seed))
    ends = Ends.load(store, operator) if store is not None else None
    # A verdict is reached in fewer steps than a look at the part takes.
    if ends is None and knows is None and part is not None and enough is None and not confirm:
        knows = _shown_by((rough and rough(part)) or part, seed)
    if part is not None:
        part.release()  # graphs that are of no more use, and the operator's own take as much memory as there is
    looks = max(1, steps - FIRST_LOOK + 1)
    sought = (1.0, 1.0)  # doubts of a search

    def proven(low: float, high: float) -> bool:
        return enough is not None and low < min(enough, -(tau or 0.0) * max(high, 0.0)) - noise.absolute

    def dilution() -> float:
        return 1.0 if knows is None else 2.0

    def doubts_of(run: Lanczos) -> tuple[float, float]:
        # After a search the smaller of two doubts is taken; chosen so, it is as rare as twice its value.
        each = 1.0 if cheaper is None else 2.0
        low, high = (
            min(each * own, other) for own, other in zip(doubts(run, rtol, noise.absolute, dilution()), sought, strict=True)
        )
        return low, high

    def run_with(
        which: LinearOperator, seed: int, settled: Settled, name: str, done: Callable[[Lanczos], bool] = lambda run: True
    ) -> Lanczos:
        def stop(run: Lanczos) -> bool:
            if progress is not None:
                progress(1)
            if run.steps < FIRST_LOOK:
                return False
            if proven(float(run.ritz.values[0]), float(run.ritz.values[-1])):
                return True
            return settled(run) and (not confirm or max(doubts_of(run)) <= DOUBT) and done(run)

        def begin() -> Lanczos:
            start = random_start(operator, seed)
            return Lanczos(which, seed, start=start if knows is None else start.double() + knows, place=place)

        return begin().run(steps, stop) if store is None else store.search(which, name, begin, steps, stop, place)

    began, since, kept = operator.matvecs, time.monotonic(), ends is not None
    cheaper = rough and rough(operator) if ends is None else None
    if cheaper is not None:
        # Once is enough: the operator itself has the second look.
        run = run_with(cheaper, seed, Settled(rtol, calls=1, near=NEAR_ROUGHLY), "rough")
        sought = doubts_of(run)
        found = through(operator, run, sought)
        low, high = found.values
        negative = tau is None or low < -tau * max(high, 0.0) - noise.absolute
        if proven(low, high) or (negative and all(found.settled(rtol))):
            ends = found
        knows = between_ends(run)
    if ends is None:
        # The interval wants a random part that ``knows`` does not depend on: a fresh one after a search.
        fresh = seed if cheaper is None else seed + 505

        def done(run: Lanczos) -> bool:
            return tau is None or decided(run, tau, noise, delta, looks, dilution())

        run = run_with(operator, fresh, Settled(rtol), "exact", done)
        eps = 0.0 if run.exhausted else start_error(operator.size, [run.steps], delta / 2, looks, dilution())
        ends = of_run(run, eps, doubts_of(run))
    if store is not None and not kept:
        if store.worth(since):
            ends.save(store, operator, operator.matvecs - began)
        store.forget("rough", "exact")
    if not looked:
        said += operator.look(dict(zip(("min", "max"), ends.vectors, strict=True)))
    low, high = ends.values
    scale = max(abs(low), abs(high))
    require_symmetric(ends.asymmetry, scale, operator, ends.steps)
    noise = with_rounding(noise, operator, scale, ends.asymmetry)
    intervals = end_intervals(low, high, ends.eps, noise.absolute, noise.absolute)

    def extreme(value: float, residual: float, interval: Interval, settled: bool, doubt: float) -> Extreme:
        wide = residual + noise.absolute
        settled = settled or residual <= noise.absolute
        return Extreme(
            value=value,
            residual=residual,
            interval=interval,
            confidence=1.0 if ends.exhausted else 1 - delta,
            residual_interval=(value - wide, value + wide),
            converged=settled and doubt <= DOUBT,
            noise=noise.absolute,
            settled=settled,
            doubt=doubt,
        )

    lowest, highest = map(extreme, ends.values, ends.residuals, intervals, ends.settled(rtol), ends.doubts)
    ladder = [(c, c * max(high, 0.0)) for c in thresholds]
    return Spectrum(
        lambda_min=lowest,
        lambda_max=highest,
        lowest=[lowest],
        highest=[highest],
        negative_ratio=negative_ratio(lowest, highest),
        saddle_index=[
            IndexBound(relative=c, tau=tau, at_least=int((ends.bounds < -tau - noise.absolute).sum())) for c, tau in ladder
        ],
        noise=noise,
        steps=[ends.steps],
        matvecs=operator.matvecs - before,
        looks=looks,
        vectors=dict(zip(("min", "max"), ends.vectors, strict=True)),
        warnings=what_to_say(lowest, highest, ends.steps) + said,
    )


def _shown_by(part: LinearOperator, seed: int) -> Tensor:
    """What the extreme eigenvectors of the part say, as :func:`between_ends`."""
    run = Lanczos(part, seed + 404).run(PART_STEPS, lambda run: run.steps >= FIRST_LOOK and all(ends_settled(run, PART_RTOL)))
    return between_ends(run)


def between_ends(run: Lanczos) -> Tensor:
    """The unit vector ``[n]`` in float64 half way between the Ritz vectors of both ends."""
    return half_way(run.ritz_vector(0), run.ritz_vector(-1), space_of(run.operator))


def half_way(low: Tensor, high: Tensor, space: Space | None = None) -> Tensor:
    """The unit vector ``[n]`` in float64 half way between two unit vectors at right angles, whole ones or slices."""
    both: Tensor = low.double() + high.double()
    return both.div((space or Space(len(both))).norm(both))
