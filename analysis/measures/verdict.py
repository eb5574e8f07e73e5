"""Is a group at a saddle? The rule, and the sentence that says what it found.

The word "saddle" hides two questions, so the verdict keeps them apart: is there negative curvature beyond a threshold (a proof:
a unit vector whose Rayleigh quotient is negative), and is the point stationary for this group (is the slope small enough that
curvature matters at a distance the weights can travel)?
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..krylov.bounds import steps_needed
from ..krylov.spectrum import LOOK_EVERY
from ..records.rounding import at_least, end_words, probability_words
from ..records.saddles import Verdict
from ..records.spectra import Extreme


@dataclass(frozen=True)
class Search:
    """How an extreme eigenvalue was looked for, which is what its interval depends on.

    Attributes:
        size: n of the operator.
        starts: Lanczos starts.
        delta: failure probability of both ends together.
        looks: moments at which a run could have stopped.
        every: steps between two of them.
    """

    size: int
    starts: int = 1
    delta: float = 1e-3
    looks: int = 1
    every: int = LOOK_EVERY


def verdict(
    lambda_min: Extreme,
    lambda_max: Extreme,
    gradient_norm: float,
    weight_norm: float,
    *,
    loss: float | None = None,
    decayed: tuple[float, float] | None = None,
    relative_tau: float = 1e-3,
    threshold: float = 0.1,
    search: Search | None = None,
) -> Verdict:
    """Answers both questions for one group.

    Args:
        lambda_min: lower end of the group's Hessian.
        lambda_max: upper end; ``tau = relative_tau * lambda_max`` (0 if lambda_max is negative).
        gradient_norm: ``||grad L_g||``.
        weight_norm: ``||w||`` over the same parameters.
        loss: ``L_g``, for the sentence: a saddle far up, or early in training, is to be read as one.
        decayed: weight decay of the training and the gradient norm of its objective, for the sentence: training comes to
            rest where that vanishes, not the loss's own.
        relative_tau: curvature above ``-tau`` does not count as negative.
        threshold: largest ``s* / ||w||`` that counts as stationary.
        search: how ``lambda_min`` was looked for; it tells how many more steps would decide an open question.
    """
    tau = relative_tau * max(lambda_max.value, 0.0)
    value, low = lambda_min.value, lambda_min.interval[0]
    ends = f"lambda_min {value:.3g}, lambda_max {lambda_max.value:.3g}"
    if value < -tau - lambda_min.noise:
        displacement = 2 * gradient_norm / abs(value)
        ratio = displacement / weight_norm if weight_norm > 0 else (math.inf if displacement > 0 else 0.0)
        stationary = ratio <= threshold
        height = (f"loss {loss:.3g}, " if loss is not None else "") + f"gradient norm {gradient_norm:.3g}"
        if decayed is not None:
            height += f" ({decayed[1]:.3g} of the objective with weight decay {decayed[0]:.3g})"
        where = "at most" if stationary else "more than"
        sentence = (
            f"{'Saddle' if stationary else 'Negative curvature, not stationary'}: {ends}; {height}; the slope is outweighed at "
            f"{displacement:.3g}, {100 * ratio:.3g} % of the weights' norm ({where} {100 * threshold:.3g} %)."
        )
        return Verdict(
            curvature="negative curvature",
            stationary=stationary,
            label="saddle" if stationary else "negative curvature, not stationary",
            tau=tau,
            displacement=displacement,
            displacement_ratio=ratio if math.isfinite(ratio) else None,
            threshold=threshold,
            sentence=sentence,
        )
    if low is not None and (low > -tau or low == tau == 0):  # the second: nothing but zero
        sure = "" if lambda_min.confidence == 1 else f" with probability {probability_words(lambda_min.confidence)}"
        return Verdict(
            curvature="none above tau", stationary=None, label="no negative curvature above tau", tau=tau, displacement=None,
            displacement_ratio=None, threshold=threshold, sentence=f"No eigenvalue below {at_least(-tau)}{sure} ({ends}).",
        )  # fmt: skip
    more = _more_steps(lambda_min, lambda_max, tau, search) if search is not None else None
    reach = "not bounded" if low is None else f"may reach {end_words(value, lambda_min.interval)[0]}"
    advice = ""
    if more is not None:
        advice = f"; a limit of {more} Lanczos steps a start (--steps {more}) would decide"
    elif value + tau <= lambda_min.noise:
        advice = "; float64 would lower the noise"
    return Verdict(
        curvature="undetermined", stationary=None, label="undetermined", tau=tau, displacement=None, displacement_ratio=None,
        threshold=threshold, more_steps=more, sentence=f"Undetermined: {ends}, lambda_min {reach}, tau {tau:.3g}{advice}.",
    )  # fmt: skip


def _more_steps(low: Extreme, high: Extreme, tau: float, search: Search) -> int | None:
    spread = high.value - low.value
    room = low.value + tau - low.noise
    if room <= 0 or spread <= 0:
        return None
    eps = room / (spread + 2 * room)  # eps * spread / (1 - 2 eps) = room
    steps, each = 0, search.delta / 2
    for _ in range(4):  # a longer run is looked at more often
        steps = steps_needed(search.size, eps, search.starts, each, max(search.looks, steps // search.every))
    return min(steps, search.size)
