"""One group's spectrum with every number named: the picture of ``analysis/README.md``.

``python -m saddlescope.figures.plots.spectrum_anatomy RESULT.json GROUP OUT.png`` draws it from any stored result.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...analysis.records.base import load
from ...analysis.records.results import CurvatureResult
from ...analysis.records.rounding import end_words, interval_ends, probability_words
from ...analysis.records.spectra import Extreme
from ..drawing.canvas import heading, new_figure, render, style, write_bytes_atomically
from ..drawing.scales import decades, fix_ticks, log_axis, signed_axis
from ..drawing.study_data import NothingToDraw, setting
from .density import axis_points, broadened

INK, NEGATIVE, FAINT = "#222222", "#C44E52", "#777777"


def anatomy(result: CurvatureResult, group: str) -> Figure:
    """The density of one group with both ends, their intervals, tau, the negative mass and the verdict written in.

    Args:
        result: a stored result.
        group: the group to draw.

    Raises:
        NothingToDraw: the result holds no quadratures of that group.
    """
    found = result.groups.get(group)
    if found is None or found.density is None:
        raise NothingToDraw(f"no quadratures of group {group!r}; measured are {', '.join(result.groups)}")
    tau = max(found.verdict.tau, 1e-300)
    ends = [found.lambda_min.value, found.lambda_max.value, *(b for b in found.lambda_min.interval if b is not None)]
    at = axis_points(min(ends), max(ends), tau)
    curve = broadened(found.density, tau, at)
    top = float(curve.max())
    figure = new_figure(9.2, 4.6)
    axes = figure.subplots()
    axes.plot(at, curve, color=INK, linewidth=1.3)
    axes.fill_between(at, curve, 1e-30, where=at < -tau, color=NEGATIVE, alpha=0.25, linewidth=0)
    axes.axvspan(-tau, tau, color="#EFEFEF", zorder=0, linewidth=0)
    signed_axis(axes, "x", [min(ends), max(ends)], tau, ticks=4)
    floor = top * 1e-11
    log_axis(axes, "y", [floor, top * 1e6], pad=3)
    fix_ticks(axes.yaxis, decades(floor, top, 5))
    _end(axes, found.lambda_min, floor * 30, r"$\lambda_{\min}$", (0.015, 0.70), "left")
    _end(axes, found.lambda_max, floor * 30, r"$\lambda_{\max}$", (0.985, 0.97), "right")
    mass = min(found.negative_mass, key=lambda entry: abs(entry.tau - tau), default=None)
    if mass is not None:
        least, most = interval_ends(*mass.interval, beside=[f"{mass.value:.3g}"])
        words = f"negative mass below $-\\tau$:\n{mass.value:.3g}, between {least} and {most}"
        _note(axes, words, (0.015, 0.97), NEGATIVE)
    at_least = max((bound.at_least for bound in found.saddle_index if abs(bound.tau - tau) <= 1e-9 * tau), default=None)
    if at_least is not None:
        _note(axes, f"at least {at_least} eigenvalues\nbelow $-\\tau$ (interlacing)", (0.015, 0.835), NEGATIVE)
    bulk = f"the bulk, within $\\pm\\tau$ = {tau:.2g}:\nits sign cannot be told"
    axes.annotate(
        bulk, (0, top), xytext=(0.45, 0.97), textcoords="axes fraction", va="top", ha="left", fontsize=9, color=FAINT,
        arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.7},
    )  # fmt: skip
    axes.set_xlabel(r"eigenvalue $\lambda$ (symmetric log; linear within $\pm\tau$)")
    axes.set_ylabel(r"density per unit of $\lambda$ (log)")
    heading(
        figure, f"What is measured of one group: {group}", f"{setting(result.provenance)}. {_typeset(found.verdict.sentence)}"
    )
    return figure


def _end(axes: Axes, extreme: Extreme, height: float, name: str, place: tuple[float, float], align: str) -> None:
    """An extreme Ritz value with its two-sided interval, and what is said of it."""
    low, high = (extreme.value if bound is None else bound for bound in extreme.interval)
    axes.plot([low, high], [height] * 2, color=INK, linewidth=5, alpha=0.3, solid_capstyle="butt")
    axes.plot([extreme.value], [height], marker="|", markersize=14, color=INK)
    inside = f"[{', '.join(end_words(extreme.value, extreme.interval))}]"
    sure = probability_words(extreme.confidence)
    words = _minus(f"{name} = {extreme.value:.3g}\nin {inside}\nwith probability {sure}")
    # in the corners above the curve, whatever its course: few eigenvalues are large
    axes.annotate(
        words, (extreme.value, height), xytext=place, textcoords="axes fraction", fontsize=9, color=INK, ha=align, va="top",
        arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "relpos": (0.6, 0), "shrinkB": 8},
    )  # fmt: skip


def _minus(words: str) -> str:
    """The numbers with the sign that the axes have."""
    return re.sub(r"-(?=[\d.])", "−", words)


def _typeset(sentence: str) -> str:
    """A stored sentence, which is plain ASCII, with the letters of the figure."""
    return _minus(sentence.replace("lambda_min", r"$\lambda_{\min}$").replace("lambda_max", r"$\lambda_{\max}$"))


def _note(axes: Axes, words: str, place: tuple[float, float], colour: str) -> None:
    axes.text(*place, words, transform=axes.transAxes, fontsize=9, color=colour, va="top")


def main(arguments: list[str]) -> None:
    """``RESULT.json GROUP OUT.png``."""
    source, group, out = Path(arguments[0]), arguments[1], Path(arguments[2])
    with style():
        figure = anatomy(load(CurvatureResult, source), group)
        write_bytes_atomically(out, render(figure, ("png",))["png"])


if __name__ == "__main__":
    main(sys.argv[1:])
