"""Axes that hold numbers of several orders of magnitude and both signs, with few, legible ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

#: a range of magnitudes above this is shown on a logarithmic axis
WIDE = 15.0
#: what an axis label says of the scale that :func:`value_axis` chose
SCALE_WORDS = {"linear": "", "log": " (log)", "symlog": " (symmetric log)"}


def number_label(value: float, _position: int | None = None) -> str:
    """``0.01``, ``−5`` or a power of ten; never an offset or a rounded-away digit."""
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    if -3 <= exponent <= 3:
        return f"{value:.6g}".replace("-", "−")
    mantissa = value / 10**exponent
    sign = "−" if value < 0 else ""
    if abs(abs(mantissa) - 1) < 1e-6:
        return f"{sign}$10^{{{exponent}}}$"
    return f"{sign}{abs(mantissa):.3g}·$10^{{{exponent}}}$"


def decades(low: float, high: float, most: int) -> list[float]:
    """Powers of ten in ``[low, high]``, thinned from the largest down to at most ``most``."""
    return _every(low, high, _step(low, high, most))


def _exponents(low: float, high: float) -> range:
    """Of the powers of ten in ``[low, high]``, the largest first."""
    return range(math.floor(math.log10(high) + 1e-9), math.ceil(math.log10(low) - 1e-9) - 1, -1)


def _step(low: float, high: float, most: int) -> int:
    """Every how manieth power of ten is shown, so that they are at most ``most``."""
    return max(1, math.ceil(len(_exponents(low, high)) / most))


def _every(low: float, high: float, step: int) -> list[float]:
    return [10.0**e for e in _exponents(low, high)[::step]]


def signed_axis(
    axes: Axes, which: str, values: Iterable[float], threshold: float, *, ticks: int = 5, linscale: float = 1.0
) -> None:
    """Symmetric-log axis, linear within ``threshold``, with room around ``values`` and ticks that do not collide.

    Args:
        axes: the panel.
        which: ``x`` or ``y``.
        values: what must be inside; interval ends included.
        threshold: the verdict's tau: what is smaller has no certain sign, and is near zero in the picture.
        ticks: at most so many on each side of zero.
        linscale: how many decades the linear part is wide.
    """
    values = list(values)
    low, high = _roomy(-min([0.0, *values]), threshold), _roomy(max([0.0, *values]), threshold)
    low = -low
    setter = axes.set_xscale if which == "x" else axes.set_yscale
    setter("symlog", linthresh=threshold, linscale=linscale)
    limit = axes.set_xlim if which == "x" else axes.set_ylim
    limit(low, high)
    span = math.log10(max(-low, high) / threshold) + linscale
    ends = {sign: end for sign, end in ((-1, -low), (1, high)) if end > 1.5 * threshold}
    shares = {sign: (math.log10(end / threshold) + linscale) / span for sign, end in ends.items()}
    # both sides at the same distance: a short side ticked more finely than the long one runs its labels together
    step = max((_step(threshold, end, max(1, round(ticks * shares[sign]))) for sign, end in ends.items()), default=1)
    marks = [0.0] + [sign * decade for sign, end in ends.items() for decade in _every(threshold, end, step)]
    fix_ticks(axes.xaxis if which == "x" else axes.yaxis, sorted(marks))


def _roomy(end: float, threshold: float) -> float:
    """A limit somewhat beyond ``end``; where nothing lies on that side of zero, a part of the linear range."""
    return 1.5 * threshold * (end / threshold) ** 1.03 if end > threshold else max(1.3 * end, 0.6 * threshold)


def fix_ticks(axis: Axis, marks: Sequence[float]) -> None:
    """Exactly these ticks, labelled plainly."""
    axis.set_major_locator(FixedLocator(list(marks)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(number_label))


def log_axis(axes: Axes, which: str, values: Iterable[float], *, ticks: int = 6, pad: float = 1.3) -> None:
    """Logarithmic axis around positive ``values``; one decade at most is ticked at 1, 2 and 5."""
    positive = [value for value in values if value > 0]
    low, high = min(positive) / pad, max(positive) * pad
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    marks = log_marks(low, high, ticks)
    fix_ticks(axes.xaxis if which == "x" else axes.yaxis, marks)


def log_marks(low: float, high: float, ticks: int) -> list[float]:
    """Decades of a logarithmic scale; where it holds fewer than three, its 1, 2 and 5; on a short one a few round numbers."""
    marks = decades(low, high, ticks) if high / low > 10 else []
    if len(marks) >= 3:
        return marks
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    marks = fine if len(fine) > len(marks) else marks
    if len(marks) >= 2:
        return marks
    return [float(mark) for mark in _round_numbers(5).tick_values(low, high) if low <= mark <= high]


def colour_bar(
    figure: Figure, image: ScalarMappable | ContourSet, panels: Iterable[Axes], low: float, high: float, label: str, aspect: int
) -> None:
    """A colour bar of a logarithmic scale from ``low`` to ``high``, ticked like an axis."""
    bar = figure.colorbar(image, ax=list(panels), label=label, aspect=aspect, pad=0.02)
    marks = log_marks(low, high, 6)
    bar.set_ticks(marks, labels=[number_label(mark) for mark in marks])
    bar.ax.minorticks_off()


def plain_ticks(axis: Axis, most: int = 5) -> None:
    """A few round numbers."""
    axis.set_major_locator(_round_numbers(most))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(number_label))


def _round_numbers(most: int) -> MaxNLocator:
    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])


def value_axis(axes: Axes, values: Sequence[float], threshold: float) -> str:
    """Chooses the y axis for ``values``: linear where of one size, else logarithmic, with both signs where needed.

    Returns:
        ``linear``, ``log`` or ``symlog``, the keys of :data:`SCALE_WORDS`.
    """
    sizes = [abs(value) for value in values if value != 0]
    if not sizes:
        axes.set_ylim(-1.5 * threshold, 1.5 * threshold)
        plain_ticks(axes.yaxis)
        return "linear"
    wide = max(sizes) / min(sizes) > WIDE
    if wide and min(values) > 0:
        log_axis(axes, "y", values)
        return "log"
    if wide and max(sizes) > WIDE * threshold:
        signed_axis(axes, "y", values, threshold, linscale=0.6)
        return "symlog"
    low, high = min([0.0, *values]), max([0.0, *values])
    room = 0.07 * (high - low)
    axes.set_ylim(low - room if low < 0 else 0, high + room if high > 0 else 0)
    plain_ticks(axes.yaxis)
    return "linear"
