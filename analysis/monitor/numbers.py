"""A result as flat numbers, which any logger takes; NaN where a number is not decided."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

from ..records.results import CurvatureResult, GroupResult
from ..records.spectra import Extreme

PREFIX = "curvature"
_ANSWERS = {"negative curvature": 1.0, "none above tau": 0.0}


def _value(end: Extreme) -> float:
    # A start from the last measurement's vectors settles soon, and is not gone on with until nothing can be hidden beyond.
    return end.value if end.converged or end.settled else math.nan


def _known(number: float | None) -> float:
    return math.nan if number is None else number


def _spread(group: GroupResult, end: Literal["lambda_min", "lambda_max"]) -> float:
    return math.nan if group.sampling is None else _known(getattr(group.sampling, end).standard_error)


#: number -> how it is read of a group
OF_GROUP: dict[str, Callable[[GroupResult], float]] = {
    "lambda_min": lambda group: _value(group.lambda_min),
    "lambda_min_low": lambda group: _known(group.lambda_min.interval[0]),
    "lambda_min_high": lambda group: _known(group.lambda_min.interval[1]),
    "lambda_min_sampling_error": lambda group: _spread(group, "lambda_min"),
    "lambda_max": lambda group: _value(group.lambda_max),
    "lambda_max_low": lambda group: _known(group.lambda_max.interval[0]),
    "lambda_max_high": lambda group: _known(group.lambda_max.interval[1]),
    "lambda_max_sampling_error": lambda group: _spread(group, "lambda_max"),
    "negative_curvature": lambda group: _ANSWERS.get(group.verdict.curvature, math.nan),
    "gradient_norm": lambda group: group.gradient_norm,
    "loss": lambda group: group.loss,
    "accuracy": lambda group: _known(group.accuracy),
}
#: lambda_max / (2 / lr): above 1, gradient descent with this learning rate does not settle along that eigenvector
SHARPNESS = "sharpness_lr_half"
#: before the name of an optimizer: how fast it leaves along the group's most negative direction, over about a step of training
ESCAPE_RATE = "escape_rate_"


def _rate(group: GroupResult | None, optimizer: str) -> float:
    known = group.escape.rates if group is not None and group.escape is not None else []
    return next((rate.far_rate for rate in known if rate.optimizer == optimizer), math.nan)


def flat(
    result: CurvatureResult | None, groups: Iterable[str], lr: float | None, optimizers: Iterable[str] = ()
) -> dict[str, float]:
    """``curvature/<group>/<number>`` -> value; the same keys whatever was measured.

    Args:
        result: None gives NaN throughout.
        groups: names.
        lr: learning rate, for the sharpness; None leaves it out.
        optimizers: whose escape rates are among the numbers.
    """
    found: dict[str, float] = {}
    for name in groups:
        group = result.groups.get(name) if result is not None else None
        numbers = {number: math.nan if group is None else float(read(group)) for number, read in OF_GROUP.items()}
        numbers |= {f"{ESCAPE_RATE}{optimizer}": _rate(group, optimizer) for optimizer in optimizers}
        if lr is not None:
            numbers[SHARPNESS] = numbers["lambda_max"] * lr / 2
        found |= {f"{PREFIX}/{name}/{number}": value for number, value in numbers.items()}
    return found
