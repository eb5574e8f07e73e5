"""Negative curvature proven again, and what leaving along it would gain: certificate and escape test."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..hessian.distributed import World
from ..hessian.elsewhere import shifted
from ..hessian.operator import HessianOperator
from ..krylov.space import Space, space_of
from ..records.saddles import Certificate, Escape, EscapeRate, EscapeTest

#: numbers of a vector that are brought together at once
_AT_ONCE = 1 << 22


def certificate(
    operator: HessianOperator,
    v: Tensor,
    *,
    tau: float,
    noise: float,
    vectors_file: str,
    key: str,
    quotient: float | None = None,
    world: World | None = None,
) -> Certificate:
    """Re-evaluates ``v^T H v`` by a fresh product; give an operator in float64 for a proof beyond float32 noise.

    Args:
        operator: the group's Hessian, preferably ``operator.in_float64()``.
        v: unit vector ``[n]`` as it is stored.
        tau: threshold of the verdict.
        noise: measured noise of the operator that found v (scaled to float64 where the re-evaluation is).
        vectors_file: name of the file that holds v.
        key: its key there.
        quotient: ``v^T H v / v^T v``, where this operator has given it already.
        world: the processes, where each has a slice of v.
    """
    if quotient is None:
        wide = v.to(operator.device, operator.dtype)
        quotient = float(torch.dot(operator.matvec(wide).double(), wide.double()) / torch.dot(wide.double(), wide.double()))
    return Certificate(
        vector=key,
        vectors_file=vectors_file,
        vector_sha256=vector_sha256(v) if world is None else spread_sha256(v, space_of(operator), world),
        rayleigh_quotient=quotient,
        dtype=str(operator.dtype).removeprefix("torch."),
        noise=noise,
        holds=quotient < -tau - noise,
    )


def vector_sha256(v: Tensor) -> str:
    """SHA-256 of a vector's bytes."""
    return hashlib.sha256(v.detach().cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()


def spread_sha256(v: Tensor, space: Space, world: World) -> str:
    """The same of a vector of which each process has a slice ``[local]``: some numbers after another are brought together."""
    digest = hashlib.sha256()
    bits = v.detach().cpu().contiguous().view(torch.int64 if v.element_size() == 8 else torch.int32)
    owned, places, place = set(world.owned(space.ranges)[world.rank]), [], 0
    for begin, to in space.ranges:
        if (begin, to) in owned:
            places.append((begin, to, place))
        place += to - begin
    for low in range(0, space.size, _AT_ONCE):
        part = torch.zeros(min(_AT_ONCE, space.size - low), dtype=bits.dtype)
        for begin, to, place in places:
            first, last = max(begin, low), min(to, low + len(part))
            if first < last:
                part[first - low : last - low] = bits[place + first - begin : place + last - begin]
        # Sums of whole numbers, all but one of them zero, are the bits that were there, of -0.0 as well.
        digest.update(world.reduce(part).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
    space: Space | None = None,
    rates: Sequence[EscapeRate] = (),
    objective_curvature: float | None = None,
    weight_decay: float | None = None,
) -> Escape:
    """Puts the parts together; ``<v, g>^2 / ||g||^2`` is the correlated negative curvature of Daneshmand et al. (2018)."""
    space = space or Space(len(v))
    along, norm = space.dot(v, gradient), space.norm(gradient.double())
    return Escape(
        gradient_along_v=along,
        correlated_negative_curvature=(along / norm) ** 2 if norm > 0 else None,
        rates=list(rates),
        objective_curvature=objective_curvature,
        weight_decay=weight_decay,
        test=test,
    )
