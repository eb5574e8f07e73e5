"""What can be compared: every number of a curvature result, with what is known about its error.

Names are ``<group>.<statistic>``, as in the mathematics page: ``tail.lambda_min``, ``tail.negative_mass@0.001``,
``all.trace``. Numbers of a whole result have no group: ``additivity``, ``training.accuracy.tail``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ...analysis.records.base import Estimate, Record
from ...analysis.records.results import CurvatureResult, GroupResult
from ...analysis.records.spectra import Extreme

Value = int | float | str | list[int]
#: how a number is compared: any difference counts; a label, by how many seeds carry it; within its tolerance; as a one-sided
#: bound; as an end of a spectrum; by its interval or standard error
Rule = Literal["exact", "label", "tolerance", "bound", "extreme", "estimate"]
Direction = Literal["both", "not-lower", "not-higher"]


class Reading(Record):
    """One number of one result.

    Attributes:
        value: the number, label or list of classes.
        settled: False for an extreme that did not converge or is not confirmed, its value then being a bound of the end; and
            for an escape rate that another step of its differences would change: no difference from it is decided.
        slack: stated numerical error of a settled number (residual + matvec noise), in its own unit.
        low, high: interval that holds with probability ``confidence``; None means that nothing is known on that side.
        standard_error: over ``count`` probes or subsets.
        quadratic: a mean of quadratic forms in the probes, its standard error never below that which the spectrum implies.
        spread: lambda_max - lambda_min of the group, the unit in which an extreme's interval grows.
        unit: the smallest step this number can make (one sample of an accuracy); 0 for a continuous one.
    """

    value: Value
    settled: bool = True
    slack: float = 0.0
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    standard_error: float | None = None
    count: int | None = None
    quadratic: bool = False
    spread: float | None = None
    unit: float = 0.0


@dataclass(frozen=True)
class Family:
    """How one statistic is compared unless the baseline says otherwise.

    ``relative`` and ``absolute`` are for float32 operators and are measured, see "Tolerances" in ``reports/README.md``;
    ``scaled`` says that ``absolute`` is in units of the group's lambda_max. A float64 operator gets a hundredth of both.
    """

    rule: Rule
    relative: float = 0.0
    absolute: float = 0.0
    scaled: bool = False
    direction: Direction = "both"


FAMILIES: dict[str, Family] = {
    "size": Family("exact"),
    "classes": Family("exact"),
    "verdict": Family("label"),
    "curvature": Family("label"),
    "loss": Family("tolerance", relative=1e-4, absolute=1e-6),
    "accuracy": Family("tolerance"),  # its unit is one sample: no rounding smaller than that can move it
    "gradient_norm": Family("tolerance", relative=1e-3, absolute=1e-5),
    "weight_norm": Family("tolerance", relative=1e-5),
    "lambda_min": Family("extreme", relative=1e-3, absolute=1e-5, scaled=True),
    "lambda_max": Family("extreme", relative=1e-3),
    "lowest": Family("extreme", relative=1e-3, absolute=1e-5, scaled=True),
    "highest": Family("extreme", relative=1e-3, absolute=1e-5, scaled=True),
    "negative_ratio": Family("extreme", relative=1e-3, absolute=1e-5),
    "negative_mass": Family("estimate", relative=1e-2, absolute=1e-4),
    "negative_energy": Family("estimate", relative=1e-2, absolute=1e-4),
    "trace": Family("estimate", relative=1e-3, absolute=1e-4, scaled=True),
    "saddle_index": Family("bound"),
    "gauss_newton.lambda_max": Family("extreme", relative=1e-3),
    "gauss_newton.trace": Family("estimate", relative=1e-3, absolute=1e-4, scaled=True),
    "gauss_newton.quotient_along_v": Family("tolerance", relative=1e-2, absolute=1e-4, scaled=True),
    "escape.correlated_negative_curvature": Family("tolerance", relative=5e-2, absolute=1e-4),
    "escape.rate": Family("tolerance", relative=5e-2, absolute=1e-3, scaled=True),
    "escape.objective_curvature": Family("tolerance", relative=5e-2, absolute=1e-3, scaled=True),
    "escape.multiplier": Family("tolerance", relative=5e-2, absolute=1e-2),  # in baselines of before there were rates
    "additivity": Family("tolerance", absolute=1e-4, direction="not-higher"),
    "training.accuracy": Family("tolerance", absolute=1e-3),
    "training.stage": Family("exact"),
}


def statistic(number: str) -> str:
    """``tail.negative_mass@0.001`` -> ``negative_mass``: the key in ``FAMILIES``.

    Raises:
        KeyError: no statistic of that name.
    """
    for name in sorted(FAMILIES, key=len, reverse=True):  # the longest first: gauss_newton.trace is not trace
        if re.search(rf"(^|\.){re.escape(name)}([@#[.].*)?$", number):
            return name
    raise KeyError(number)


def readings(result: CurvatureResult) -> dict[str, Reading]:
    """Every comparable number of a result, by name; what was not measured (None) is not in it."""
    found: dict[str, Reading] = {}
    for group, record in result.groups.items():
        found.update({f"{group}.{name}": reading for name, reading in _of_group(record, result.provenance.engine)})
    if result.additivity is not None:
        found["additivity"] = Reading(value=result.additivity)
    found.update(_of_training(result.provenance.training))
    return found


def _of_group(group: GroupResult, engine: str) -> Iterator[tuple[str, Reading]]:
    spread = group.lambda_max.value - group.lambda_min.value
    yield "size", Reading(value=group.size)
    yield "classes", Reading(value=sorted(group.classes))
    yield "verdict", Reading(value=group.verdict.label)
    yield "curvature", Reading(value=group.verdict.curvature)
    yield "loss", Reading(value=group.loss)
    if group.accuracy is not None:
        yield "accuracy", Reading(value=group.accuracy, unit=1 / group.size)
    yield "gradient_norm", Reading(value=group.gradient_norm)
    yield "weight_norm", Reading(value=group.weight_norm)
    yield "lambda_min", _extreme(group.lambda_min, spread)
    yield "lambda_max", _extreme(group.lambda_max, spread)
    for name, pairs in (("lowest", group.lowest), ("highest", group.highest)):
        for rank, pair in enumerate(pairs[1:], start=2):  # the first is lambda_min or lambda_max itself
            yield f"{name}#{rank}", _extreme(pair, spread)
    yield "negative_ratio", _ratio(group, spread)
    for mass in group.negative_mass:
        low, high = mass.interval
        # its standard error leaves out the quadrature bracket, which the interval holds
        yield (
            f"negative_mass@{mass.relative:g}",
            Reading(value=mass.value, settled=False, low=low, high=high, confidence=mass.confidence),
        )
    if group.negative_energy is not None:
        yield "negative_energy", _estimate(group.negative_energy)
    for bound in group.saddle_index:
        yield f"saddle_index@{bound.relative:g}", Reading(value=bound.at_least, unit=1.0)
    if group.trace is not None:
        yield "trace", _estimate(group.trace, quadratic=engine == "saddlescope")
    yield from _of_split(group, spread)
    yield from _of_escape(group)


def _of_split(group: GroupResult, spread: float) -> Iterator[tuple[str, Reading]]:
    part = group.gauss_newton
    if part is None:
        return
    yield "gauss_newton.lambda_max", _extreme(part.lambda_max, max(part.lambda_max.value, spread))
    if part.quotient_along_v is not None:
        yield "gauss_newton.quotient_along_v", Reading(value=part.quotient_along_v)
    if part.trace is not None:
        yield "gauss_newton.trace", _estimate(part.trace)


def _of_escape(group: GroupResult) -> Iterator[tuple[str, Reading]]:
    # the sign of <v, gradient> is that of an eigenvector, which has none: only quantities free of it are compared
    if group.escape is None:
        return
    if group.escape.correlated_negative_curvature is not None:
        yield "escape.correlated_negative_curvature", Reading(value=group.escape.correlated_negative_curvature)
    for rate in group.escape.rates:
        yield f"escape.rate[{rate.optimizer}]", Reading(value=rate.rate, settled=rate.settled)
    if group.escape.objective_curvature is not None:
        yield "escape.objective_curvature", Reading(value=group.escape.objective_curvature)


def _of_training(training: dict[str, Any]) -> Iterator[tuple[str, Reading]]:
    accuracy = training.get("accuracy")
    for split, value in sorted(accuracy.items()) if isinstance(accuracy, dict) else ():
        if isinstance(value, int | float):
            yield f"training.accuracy.{split}", Reading(value=float(value))
    if isinstance(training.get("stage"), int):
        yield "training.stage", Reading(value=training["stage"])


def _extreme(extreme: Extreme, spread: float) -> Reading:
    low, high = extreme.interval
    return Reading(
        value=extreme.value,
        settled=extreme.converged,
        slack=extreme.residual + extreme.noise if extreme.converged else 0.0,
        low=low,
        high=high,
        confidence=extreme.confidence,
        spread=spread,
    )


def _ratio(group: GroupResult, spread: float) -> Reading:
    # |min(lambda_min, 0)| / lambda_max inherits the errors of its two parts, to first order
    top = group.lambda_max
    settled = group.lambda_min.converged and top.converged
    slack = 0.0
    if settled and top.value > 0:
        slack = (group.lambda_min.residual + group.lambda_min.noise) / top.value
        slack += group.negative_ratio.value * (top.residual + top.noise) / top.value
    low, high = group.negative_ratio.interval
    return Reading(
        value=group.negative_ratio.value,
        settled=settled,
        slack=slack,
        low=low,
        high=high,
        confidence=group.negative_ratio.confidence,
        spread=spread / top.value if top.value > 0 else None,
    )


def _estimate(estimate: Estimate, *, quadratic: bool = False) -> Reading:
    low, high = estimate.interval
    return Reading(
        value=estimate.value,
        settled=False,
        low=low,
        high=high,
        confidence=estimate.confidence,
        standard_error=estimate.standard_error,
        count=estimate.count,
        quadratic=quadratic and estimate.standard_error is not None,
    )
