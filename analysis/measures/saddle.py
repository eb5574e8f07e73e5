"""Is a group at a saddle, and what would leaving gain? Verdict, certificate, escape test.

The word "saddle" hides two questions, so the verdict keeps them apart: is there negative curvature beyond a threshold (a proof:
a unit vector whose Rayleigh quotient is negative), and is the point stationary for this group (is the slope small enough that
curvature matters at a distance the weights can travel)?
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..hessian.operator import HessianOperator
from ..hessian.shifted import shifted
from ..krylov.bounds import steps_needed
from ..krylov.spectrum import LOOK_EVERY
from ..records.rounding import at_least, end_words, probability_words
from ..records.saddles import Certificate, Escape, EscapeRate, EscapeTest, Verdict
from ..records.spectra import Extreme


def verdict(
    lambda_min: Extreme,
    lambda_max: Extreme,
    gradient_norm: float,
    weight_norm: float,
    *,
    loss: float | None = None,
    relative_tau: float = 1e-3,
    threshold: float = 0.1,
    size: int | None = None,
    starts: int = 1,
    delta: float = 1e-3,
    looks: int = 1,
) -> Verdict:
    """Answers both questions for one group.

    Args:
        lambda_min: lower end of the group's Hessian.
        lambda_max: upper end; ``tau = relative_tau * lambda_max`` (0 if lambda_max is negative).
        gradient_norm: ``||grad L_g||``.
        weight_norm: ``||w||`` over the same parameters.
        loss: ``L_g``, for the sentence: a saddle far up, or early in training, is to be read as one.
        relative_tau: curvature above ``-tau`` does not count as negative.
        threshold: largest ``s* / ||w||`` that counts as stationary.
        size: n; with ``starts``, ``delta`` and ``looks`` it tells how many more steps would decide an open question.
        starts: Lanczos starts used.
        delta: failure probability used.
        looks: moments at which a run could have stopped.
    """
    tau = relative_tau * max(lambda_max.value, 0.0)
    value, low = lambda_min.value, lambda_min.interval[0]
    ends = f"lambda_min {value:.3g}, lambda_max {lambda_max.value:.3g}"
    if value < -tau - lambda_min.noise:
        displacement = 2 * gradient_norm / abs(value)
        ratio = displacement / weight_norm if weight_norm > 0 else (math.inf if displacement > 0 else 0.0)
        stationary = ratio <= threshold
        height = (f"loss {loss:.3g}, " if loss is not None else "") + f"gradient norm {gradient_norm:.3g}"
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
    more = _more_steps(lambda_min, lambda_max, tau, size, starts, delta, looks)
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


def _more_steps(low: Extreme, high: Extreme, tau: float, size: int | None, starts: int, delta: float, looks: int) -> int | None:
    spread = high.value - low.value
    room = low.value + tau - low.noise
    if size is None or room <= 0 or spread <= 0:
        return None
    eps = room / (spread + 2 * room)  # eps * spread / (1 - 2 eps) = room
    steps = steps_needed(size, eps, starts, delta / 2, looks)
    for _ in range(3):  # a longer run is looked at more often
        steps = steps_needed(size, eps, starts, delta / 2, max(looks, steps // LOOK_EVERY))
    return min(steps, size)


def certificate(
    operator: HessianOperator,
    v: Tensor,
    *,
    tau: float,
    noise: float,
    vectors_file: str,
    key: str,
    quotient: float | None = None,
) -> Certificate:
    """Re-evaluates ``v^T H v`` by a fresh product; give an operator in float64 for a proof beyond float32 noise.

    Args:
        operator: the group's Hessian, preferably ``exact.in_float64(operator)``.
        v: unit vector ``[n]`` as it is stored.
        tau: threshold of the verdict.
        noise: measured noise of the operator that found v (scaled to float64 where the re-evaluation is).
        vectors_file: name of the file that holds v.
        key: its key there.
        quotient: ``v^T H v / v^T v``, where this operator has given it already.
    """
    if quotient is None:
        wide = v.to(operator.device, operator.dtype)
        quotient = float(torch.dot(operator.matvec(wide).double(), wide.double()) / torch.dot(wide.double(), wide.double()))
    return Certificate(
        vector=key,
        vectors_file=vectors_file,
        vector_sha256=vector_sha256(v),
        rayleigh_quotient=quotient,
        dtype=str(operator.dtype).removeprefix("torch."),
        noise=noise,
        holds=quotient < -tau - noise,
    )


def vector_sha256(v: Tensor) -> str:
    """SHA-256 of a vector's bytes."""
    return hashlib.sha256(v.detach().cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()


def escape_test(
    operator: HessianOperator, v: Tensor, *, loss: float, slope: float, quotient: float, reach: float, points: int = 11
) -> EscapeTest:
    """The group's loss at ``w + s v`` for s in [-reach, reach], against the quadratic model.

    The weights are restored to the bit, also after an exception. A point whose loss is not finite is left out.

    Args:
        operator: of the group.
        v: unit vector ``[n]``.
        loss: L_g(w).
        slope: ``<v, grad L_g>``.
        quotient: ``v^T H_g v``.
        reach: largest |s|; see ``natural_reach``.
        points: odd number of grid points, the centre included.
    """
    half = points // 2
    grid = [reach * (i - half) / half for i in range(points)]
    losses = {s: loss if s == 0 else _loss_at(operator, v, s) for s in grid}
    kept = [s for s in grid if math.isfinite(losses[s])]
    return EscapeTest(
        steps=kept, loss=[losses[s] for s in kept], quadratic=[loss + s * slope + s * s * quotient / 2 for s in kept]
    )


def natural_reach(slope: float, quotient: float, loss: float, weight_norm: float) -> float:
    """How far to look along v: where the quadratic model has lost half of the loss, at most a fifth of the weights' norm."""
    if quotient >= 0:
        return 0.05 * weight_norm
    downhill = (math.sqrt(slope * slope - max(loss, 0.0) * quotient) - abs(slope)) / -quotient
    return min(max(downhill, 1e-3 * weight_norm), 0.2 * weight_norm)


def _loss_at(operator: HessianOperator, v: Tensor, s: float) -> float:
    with shifted(operator, v, s):
        return operator.mean_loss()


def escape(
    *,
    v: Tensor,
    gradient: Tensor,
    test: EscapeTest | None,
    rates: Sequence[EscapeRate] = (),
    objective_curvature: float | None = None,
    weight_decay: float | None = None,
) -> Escape:
    """Puts the parts together; ``<v, g>^2 / ||g||^2`` is the correlated negative curvature of Daneshmand et al. (2018)."""
    along, norm = float(torch.dot(v.double(), gradient.double())), float(gradient.double().norm())
    return Escape(
        gradient_along_v=along,
        correlated_negative_curvature=(along / norm) ** 2 if norm > 0 else None,
        rates=list(rates),
        objective_curvature=objective_curvature,
        weight_decay=weight_decay,
        test=test,
    )
