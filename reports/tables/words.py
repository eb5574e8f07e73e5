"""Numbers and names as a person reads them. Rounding never hides an error: it follows the interval's own width."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...analysis.records.rounding import interval_words
from ...analysis.records.study import Study

MINUS, GAP = "−", "gap"

#: optimizer key -> the name the papers use
OPTIMIZERS = {
    "sgd": "SGD",
    "sam": "SAM",
    "imbsam": "ImbSAM",
    "ssesam": "SSE-SAM",
    "ccsam": "CC-SAM",
    "focalsam": "Focal-SAM",
    "imbsam-late": "ImbSAM, late",
    "bsam": "BSAM",
    "lesam": "LE-SAM",
    "gsa": "GSA",
    "pgd": "PGD",
    "lpfsgd": "LPF-SGD",
    "eigensam": "Eigen-SAM",
}


def rule_name(key: str) -> str:
    """The name of an update rule that a reader knows; an unknown key stands for itself."""
    return OPTIMIZERS.get(key, key)


def field_name(key: str) -> str:
    """Whose field: a rule's name, with the stage where it has stages (``ssesam-1``)."""
    name, _, stage = key.rpartition("-")
    return f"{rule_name(name)}, stage {stage}" if name in OPTIMIZERS and stage in ("1", "2") else rule_name(key)


def optimizer_name(study: Study, key: str) -> str:
    """The name of a study's optimizer: its rule's, and what tells it from others of that rule."""
    variant = study.variants.get(key)
    return variant.named(rule_name(variant.rule)) if variant else rule_name(key)


def listed(items: Sequence[str], last: str = "and") -> str:
    """``a, b and c``."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def number(value: float, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits and a true minus sign; powers of ten outside 1e-3 .. 1e5."""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e").replace("-", MINUS)
    # of the rounded value: 9.97 has two digits as 10, not as 10.0
    rounded = float(f"{abs(value):.{digits - 1}e}")
    return _fixed(value, max(0, digits - 1 - math.floor(math.log10(rounded))))


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def _decimals(error: float) -> int:
    """Decimals that show an error with two significant digits."""
    return max(0, 1 - math.floor(math.log10(error)))


def with_spread(mean: float, spread: float | None) -> str:
    """``mean ± spread``, both rounded to the second significant digit of the spread."""
    if spread is None:
        return number(mean)
    largest = max(abs(mean), spread)
    if spread == 0 or not 1e-3 <= largest < 1e5 or spread < 1e-6 * largest:
        return f"{number(mean)} ± {number(spread, 2)}"
    decimals = min(_decimals(spread), 6)
    return f"{_fixed(mean, decimals)} ± {_fixed(spread, decimals)}"


def interval(low: float | None, high: float | None, *, beside: str = "", signed: bool = False) -> str:
    """``[low, high]`` in the reports' signs, see :func:`~saddlescope.analysis.records.rounding.interval_words`.

    ``beside``: the number printed beside it.
    """
    return interval_words(low, high, beside=[beside] if beside else [], signed=signed, minus=MINUS, infinity="∞")


def threshold(relative: float) -> str:
    """A threshold relative to lambda_max: ``0.001`` and not ``1e-03``."""
    return f"{relative:.10f}".rstrip("0").rstrip(".") if relative >= 1e-6 else number(relative, 1)
