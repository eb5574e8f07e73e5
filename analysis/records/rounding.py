"""Intervals and bounds as a person reads them: rounded outwards, whatever the number of digits.

An interval rounded to the nearest claims more than was found every second time. Decimal, since a step of the grid is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

#: digits of an end where the width of the interval does not ask for more
DIGITS = 4
#: Sizes written without a power of ten.
_PLAIN = Decimal("1e-3"), Decimal("1e5")
#: Narrower intervals, in units of the larger end, are written with :data:`DIGITS` and not with those of their width.
_NARROW = Decimal("1e-5")


def interval_words(
    low: float | None,
    high: float | None,
    *,
    beside: Iterable[str] = (),
    signed: bool = False,
    minus: str = "-",
    infinity: str = "inf",
) -> str:
    """``[low, high]``, rounded outwards enough to show the width with two digits.

    Args:
        low: lower end; None where nothing is known on that side, which is written as infinite.
        high: upper end, likewise.
        beside: numbers as they are printed beside the interval: it holds them, too.
        signed: whether zero is inside matters, so that an end is never rounded onto it.
        minus: sign of negative numbers.
        infinity: an unknown side.
    """
    return f"[{', '.join(interval_ends(low, high, beside=beside, signed=signed, minus=minus, infinity=infinity))}]"


def interval_ends(
    low: float | None,
    high: float | None,
    *,
    beside: Iterable[str] = (),
    signed: bool = False,
    minus: str = "-",
    infinity: str = "inf",
) -> tuple[str, str]:
    """Both ends of :func:`interval_words`, each as a text."""
    near = [Decimal(text.replace("−", "-")) for text in beside]
    bottom = None if low is None else min([_exact(low), *near])
    top = None if high is None else max([_exact(high), *near])
    decimals = None if bottom is None or top is None else _decimals(bottom, top, signed)
    left = f"{minus}{infinity}" if bottom is None else _outward(bottom, ROUND_FLOOR, decimals, DIGITS)
    right = infinity if top is None else _outward(top, ROUND_CEILING, decimals, DIGITS)
    return left.replace("-", minus), right.replace("-", minus)


def end_words(value: float, interval: tuple[float | None, float | None]) -> tuple[str, str]:
    """Ends of an extreme eigenvalue's interval, with the value in a table and in the verdict's sentence beside it."""
    return interval_ends(*interval, beside=(f"{value:.4g}", f"{value:.3g}"))


def at_least(value: float, digits: int = 3) -> str:
    """A lower bound, rounded down to so many digits."""
    exact = _exact(value)
    if not exact:
        return "0"
    rounded = _grid(exact, ROUND_FLOOR, exact.adjusted() - digits + 1)
    text = f"{float(rounded):.{digits}g}"
    return text if Decimal(text) <= exact else str(rounded)  # the smallest numbers are floats of fewer digits


def probability_words(share: float) -> str:
    """A probability that is reached at least: never rounded up, least of all to certainty."""
    return at_least(share, 6)


def percent_words(share: float) -> str:
    """The same in percent."""
    percent = 100 * _exact(share)
    return at_least(float(percent), 4)


def _exact(value: float) -> Decimal:
    """The decimal that this float is written as, which is the same float when it is read again."""
    return Decimal(repr(float(value)))


def _decimals(low: Decimal, high: Decimal, signed: bool) -> int | None:
    """Decimals that show the width with two digits; None where the ends are better written with significant digits."""
    width, largest = high - low, max(abs(low), abs(high))
    if width <= 0 or not _PLAIN[0] <= largest < _PLAIN[1] or width < _NARROW * largest:
        return None
    decimals = max(0, 1 - width.adjusted())
    if signed and (low > 0 or high < 0):
        decimals = max(decimals, -min(abs(low), abs(high)).adjusted())
    return decimals if decimals < 10 else None


def _grid(value: Decimal, rounding: str, exponent: int) -> Decimal:
    return value.quantize(Decimal(1).scaleb(exponent), rounding=rounding)


def _outward(value: Decimal, rounding: str, decimals: int | None, digits: int) -> str:
    if decimals is not None:
        rounded = _grid(value, rounding, -decimals)
        return format(abs(rounded) if rounded == 0 else rounded, "f")
    if value == 0:
        return "0"
    rounded = _grid(value, rounding, value.adjusted() - digits + 1)
    if _PLAIN[0] <= abs(rounded) < _PLAIN[1]:
        return format(rounded, "f")
    return format(rounded, f".{digits - 1}e").replace("e+", "e")
