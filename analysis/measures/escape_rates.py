"""Does an optimizer leave? Derivatives of the fields that optimizers follow, along one direction and over all of them.

``r(v) = -v^T DG(w) v`` is the rate at which the optimizer with field G leaves along a unit vector v: a displacement along v
grows by ``lr r`` a step where r > 0 and shrinks where r < 0. For plain gradient descent it is minus the curvature of the
training objective along v, which is not the curvature of the group that v belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..hessian.elsewhere import shifted
from ..hessian.modules import copied
from ..hessian.operator import HessianOperator
from ..krylov.linear_operator import LinearOperator
from ..records.saddles import EscapeRate, NetRate
from ..records.spectra import Extreme
from .extremes import measure_ends
from .optimizer_fields import Parts, Rule, fields, sum_of

#: Distances at which a rate is measured, relative to the norm of the weights: about a step of training, and, in float64, so
#: short a way that no unit of a ReLU network switches on it.
FAR, NEAR = 1e-3, 1e-8
#: Largest difference between a distance and half of it for a rate that has settled, relative to the rate.
AGREE = 0.05


def escape_rates(parts: Parts, v: Tensor, wanted: Sequence[Rule], *, weight_decay: float = 0.0) -> list[EscapeRate]:
    """``r(v) = -v^T DG(w) v`` of every rule, by central differences of its field along v.

    The distance is :data:`FAR` where halving it changes no rate; else (kinks) the rates are measured at :data:`NEAR` as well,
    where the precision allows it, and the ones across :data:`FAR` are kept beside them. The weights are restored to the bit.

    Args:
        parts: of the training objective; give operators in float64.
        v: unit vector ``[n]``.
        wanted: the rules.
        weight_decay: as trained.

    Raises:
        OperatorError: a loss or gradient nearby is not finite.
    """
    first = parts.first
    v = v.double().to(first.device)
    v = v / v.norm()
    scale = float(first.weights().double().norm()) or 1.0

    def measured(distance: float) -> dict[str, float]:
        with shifted(first, v, distance):
            ahead = fields(parts, wanted)
        with shifted(first, v, -distance):
            behind = fields(parts, wanted)
        return {
            name: -float(torch.dot(v, (ahead[name] - behind[name]).double())) / (2 * distance) - weight_decay for name in ahead
        }

    far = near = FAR * scale
    across, halved = measured(far), measured(far / 2)
    at = across
    if first.dtype == torch.float64 and not all(_agree(across[name], halved[name]) for name in across):
        near = NEAR * scale
        at, halved = measured(near), measured(near / 2)
    return [
        EscapeRate(
            optimizer=rule.name,
            radii=rule.radii,
            rate=at[rule.name],
            halved=halved[rule.name],
            distance=near,
            settled=_agree(at[rule.name], halved[rule.name]),
            far_rate=across[rule.name],
            far_distance=far,
        )
        for rule in wanted
    ]


def _agree(one: float, other: float) -> bool:
    return abs(one - other) <= AGREE * max(abs(one), abs(other))


def objective_curvature(parts: Parts, v: Tensor, weight_decay: float = 0.0) -> float:
    """``v^T (sum_g share_g H_g) v + weight_decay`` for a unit vector v ``[n]``, by products."""
    first = parts.first
    wide = v.to(first.device, first.dtype)
    product = parts.product("all", wide.unsqueeze(1)).squeeze(1)
    return float(torch.dot(product.double(), wide.double()) / torch.dot(wide.double(), wide.double())) + weight_decay


class SymmetricField(LinearOperator):
    """The symmetric part of ``DG(w)`` as a linear operator, by exact Hessian products.

    With H and H' the Hessians of a part at w and at ``w + rho g / |g|``, ``c = rho / |g|`` and P the projector onto the
    complement of g, ``D[grad L(w + rho g / |g|)] = H' (I + c P H)``; its transpose is ``(I + c H P) H'``. (The norm of the
    gradient is differentiated, too: that is P.)

    Args:
        parts: at w.
        rule: the optimizer.
        weight_decay: as trained.
    """

    def __init__(self, parts: Parts, rule: Rule, weight_decay: float = 0.0) -> None:
        self.parts, self.rule, self.weight_decay = parts, rule, weight_decay
        first = parts.first
        self.size, self.dtype, self.device = first.size, first.dtype, first.device
        self.num_samples = sum(operator.num_samples for operator in parts.operators.values())
        self.matvecs = 0
        self._moved: dict[str, tuple[Parts, Tensor, float]] = {}
        for term in rule.terms:
            gradient = parts.gradient(term.part)
            norm = float(gradient.double().norm())
            if term.rho and norm:
                names = parts.members(term.part)
                elsewhere = _elsewhere(parts, names, gradient, term.rho / norm)
                self._moved[term.part] = elsewhere, gradient / norm, term.rho / norm

    def matvec(self, v: Tensor) -> Tensor:
        """``(DG + DG^T) v / 2`` for ``v [n]``."""
        return self.matmat(v.unsqueeze(1)).squeeze(1)

    def matmat(self, v: Tensor) -> Tensor:
        """The same for ``V [n, k]``."""
        v = v.to(self.device, self.dtype)
        self.matvecs += v.shape[1]
        return sum_of([term.weight * self._term(term.part, v) for term in self.rule.terms]) + self.weight_decay * v

    def _term(self, part: str, v: Tensor) -> Tensor:
        if part not in self._moved:
            return self.parts.product(part, v)
        elsewhere, unit, c = self._moved[part]

        def across(x: Tensor) -> Tensor:
            projected: Tensor = x - unit.unsqueeze(1) * (unit @ x)
            return projected

        bent = c * across(self.parts.product(part, v))
        both = elsewhere.product("all", torch.cat([2 * v + bent, v], dim=1))
        ahead, plain = both.split(v.shape[1], dim=1)
        turned: Tensor = ahead + c * self.parts.product(part, across(plain))
        return turned / 2

    def release(self) -> None:
        """Frees kept graphs."""
        self.parts.release()
        for elsewhere, _, _ in self._moved.values():
            elsewhere.release()


def _elsewhere(parts: Parts, names: Sequence[str], direction: Tensor, s: float) -> Parts:
    """Some of the parts over a copy of the model at ``w + s direction``."""
    first = parts.first
    base = HessianOperator(
        copied(first.model),
        parts.operators[names[0]].samples,
        first.loss,
        params=",".join(first.parameter_names),
        micro_batch=first.micro_batch,
        memory=parts.memory,
        reduce=parts.operators[names[0]].reduce,
    )
    with torch.no_grad():
        for p, step in zip(base.parameters, direction.split([p.numel() for p in base.parameters]), strict=True):
            p.add_(step.view_as(p), alpha=s)
    moved = {name: base.over(parts.operators[name].samples, parts.operators[name].reduce) for name in names}
    return Parts(moved, {name: parts.shares[name] for name in names})


def net_rate(
    parts: Parts,
    rule: Rule,
    *,
    weight_decay: float = 0.0,
    steps: int = 100,
    rtol: float = 1e-2,
    delta: float = 1e-3,
    seed: int = 0,
) -> NetRate:
    """Minus the smallest eigenvalue of the symmetric part of ``DG(w)``: is there any direction in which this optimizer leaves?

    A Ritz value proves it: where the rate is positive, the Ritz vector is such a direction.

    Args:
        parts: of the training objective.
        rule: the optimizer.
        weight_decay: as trained.
        steps: Lanczos step limit.
        rtol: residual at which it counts as converged.
        delta: failure probability of the interval.
        seed: of the random start.

    Raises:
        OperatorError: a product is not finite.
        RandomOperatorError: data or model change between products.
    """
    operator = SymmetricField(parts, rule, weight_decay)
    found = measure_ends(operator, steps=steps, rtol=rtol, delta=delta, seed=seed).lambda_min
    operator.release()
    return as_rate(rule, found)


def as_rate(rule: Rule, lowest: Extreme, weight_decay: float = 0.0) -> NetRate:
    """The net rate that belongs to the smallest eigenvalue of ``DG``'s symmetric part (without ``weight_decay``)."""
    low, high = lowest.interval
    turned = tuple(None if end is None else -end - weight_decay for end in (high, low))
    return NetRate(
        optimizer=rule.name,
        radii=rule.radii,
        rate=-lowest.value - weight_decay,
        interval=(turned[0], turned[1]),
        confidence=lowest.confidence,
        residual=lowest.residual,
        converged=lowest.converged,
    )
