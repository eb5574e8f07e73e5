"""Spectral densities of the class groups, broadened at drawing time from the stored quadratures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from ...analysis.records.results import GroupResult
from ...analysis.records.rounding import probability_words
from ...analysis.records.spectra import Density, Extreme
from ...analysis.records.study import Study
from ..drawing.appearance import Look
from ..drawing.canvas import column_width, heading, new_figure
from ..drawing.scales import decades, fix_ticks, log_axis, signed_axis
from ..drawing.study_data import (
    SPECTRUM_ONLY,
    Drawing,
    Finals,
    NothingToDraw,
    Planned,
    finals,
    gap_words,
    group_title,
    setting,
)

NAME = "density"
#: standard deviation of the broadening in asinh(lambda / tau): WIDTH tau at zero, WIDTH |lambda| far from it
WIDTH = 0.18
Array = NDArray[np.float64]


def figures(study: Study) -> list[Planned]:
    """The density figure."""
    return [Planned(NAME, lambda: draw(finals(study)))]


def broadened(density: Density, scale: float, at: Array, width: float = WIDTH) -> Array:
    """The density at ``at`` (per unit of lambda): the mean over probes of Gaussians in ``asinh(lambda / scale)``.

    In that coordinate every node has the same width, so a narrow bulk and distant outliers are both visible and the bulk does
    not leak into the negative side. The change of variables keeps the integral over lambda at 1.

    Args:
        density: stored quadratures.
        scale: where the coordinate turns from linear to logarithmic, in units of lambda.
        at: eigenvalues ``[m]``.
        width: standard deviation in that coordinate.
    """
    place, total = np.arcsinh(at / scale), np.zeros_like(at)
    for probe in density.probes:
        nodes = np.arcsinh(np.asarray(probe.nodes) / scale)
        weights = np.asarray(probe.density_weights)
        total += (np.exp(-0.5 * ((place[:, None] - nodes[None, :]) / width) ** 2) * weights).sum(axis=1)
    jacobian = 1 / np.hypot(at, scale)
    return np.asarray(total / len(density.probes) / (width * np.sqrt(2 * np.pi)) * jacobian)


def axis_points(low: float, high: float, scale: float, count: int = 900) -> Array:
    """Points from below ``low`` to above ``high``, evenly spaced in ``asinh(lambda / scale)``."""
    ends = np.arcsinh(np.array([low, high]) / scale) + np.array([-6, 6]) * WIDTH
    return np.asarray(np.sinh(np.linspace(ends[0], ends[1], count)) * scale)


def draw(found: Finals) -> Drawing:
    """One panel per group and optimizer; every seed a curve, its ends marked below.

    Raises:
        NothingToDraw: no result holds quadratures.
    """
    entries = {
        (group, optimizer): {seed: entry for seed, entry in found.of(optimizer, group).items() if entry.density is not None}
        for group in found.groups
        for optimizer in found.optimizers
    }
    everything = [entry for panel in entries.values() for entry in panel.values()]
    if not everything:
        raise NothingToDraw(f"no result holds the density of its eigenvalues; {SPECTRUM_ONLY}")
    scale = float(np.median([max(entry.verdict.tau, 1e-300) for entry in everything]))
    low, high = min(min(_ends(entry)) for entry in everything), max(max(_ends(entry)) for entry in everything)
    at = axis_points(low, high, scale)
    rows, columns = len(found.groups), len(found.optimizers)
    figure = new_figure(max(5.0, 0.9 + column_width(columns) * columns), 1.0 + 1.85 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    top, floor = 0.0, np.inf
    for row, group in enumerate(found.groups):
        for column, optimizer in enumerate(found.optimizers):
            axes = panels[row, column]
            peak, end = _panel(axes, entries[group, optimizer], found.looks[optimizer], at, scale)
            top, floor = max(top, peak), min(floor, end)
            if row == 0:
                axes.set_title(found.looks[optimizer].short, color=found.looks[optimizer].ink)
        panels[row, 0].set_ylabel(group_title(found.results.values(), group))
    _scales(panels[0, 0], low, high, scale, top, floor, ticks=3 if column_width(columns) > 2 else 2)
    heading(figure, "Spectral density of the loss Hessian", setting(found.first.provenance))
    figure.supxlabel(r"eigenvalue $\lambda$ (symmetric log; linear within $\pm\tau$, shaded)", fontsize=9)
    figure.supylabel(r"density per unit of $\lambda$ (log)", fontsize=9)
    return Drawing(figure, f"Spectral density per group and {found.unit}", _caption(found, everything, scale), PAPER)


PAPER = "F1, F2 and F3 (Rangwani et al. 2022, slides 9, 12 and 17)"


def _ends(entry: GroupResult) -> tuple[float, ...]:
    shown = [entry.lambda_min.value, entry.lambda_max.value]
    shown += [end for extreme in (entry.lambda_min, entry.lambda_max) for end in extreme.interval if end is not None]
    return tuple(shown)


def _panel(axes: Axes, seeds: dict[int, GroupResult], look: Look, at: Array, scale: float) -> tuple[float, float]:
    """Draws one optimizer's group; returns the largest density, and the smallest at a lambda_max."""
    axes.axvspan(-scale, scale, color="#EFEFEF", zorder=0, linewidth=0)
    axes.axvline(0, color="#999999", linewidth=0.6, zorder=1)
    if not seeds:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color="#777777")
        return 0.0, np.inf
    top, floor = 0.0, np.inf
    strip = blended_transform_factory(axes.transData, axes.transAxes)
    for index, (seed, entry) in enumerate(seeds.items()):
        if entry.density is None:
            continue
        curve = broadened(entry.density, scale, at)
        axes.plot(at, np.where(curve > 0, curve, np.nan), color=look.colour, linewidth=1.0, alpha=0.85, gid=f"seed-{seed}")
        top = max(top, float(curve.max()))
        floor = min(floor, float(np.interp(entry.lambda_max.value, at, curve)))
        height = 0.05 + 0.055 * (index % 4)
        for extreme in (entry.lambda_min, entry.lambda_max):
            _end_mark(axes, extreme, height, look, strip)
    return top, floor


def _end_mark(axes: Axes, extreme: Extreme, height: float, look: Look, strip: object) -> None:
    bounds = [extreme.value if end is None else end for end in extreme.interval]
    axes.plot(bounds, [height] * 2, color=look.colour, linewidth=2.2, alpha=0.35, transform=strip, solid_capstyle="butt")
    inside = look.colour if extreme.converged else "white"
    axes.plot(
        [extreme.value], [height], marker="|" if extreme.converged else "o", markersize=5, color=look.colour,
        markerfacecolor=inside, transform=strip, linestyle="none",
    )  # fmt: skip


def _scales(axes: Axes, low: float, high: float, scale: float, top: float, floor: float, *, ticks: int) -> None:
    signed_axis(axes, "x", [low, high], scale, ticks=ticks)
    bottom = min(max(floor / 100, top * 1e-16), top * 1e-4)  # the lowest hundredfold holds the marks of the ends
    log_axis(axes, "y", [bottom, top], pad=3)
    fix_ticks(axes.yaxis, decades(bottom, top * 3, 5))


def _caption(found: Finals, everything: Sequence[GroupResult], scale: float) -> str:
    probes = sorted({len(entry.density.probes) for entry in everything if entry.density is not None})
    kinds = sorted({entry.density.distribution for entry in everything if entry.density is not None})
    words = " to ".join(str(number) for number in dict.fromkeys((probes[0], probes[-1])))
    confidence = min(entry.lambda_min.confidence for entry in everything)
    every = [probe for entry in everything if entry.density is not None for probe in entry.density.probes]
    counted = ", settled eigenvalues 1/n each" if all(probe.counted is not None for probe in every) else ""
    how = (
        "from exact eigenvalues"
        if kinds == ["exact"]
        else f"mean of {words} Lanczos quadrature{'s' if probes[-1] > 1 else ''} per curve ({', '.join(kinds)} starts{counted})"
    )
    return (
        f"Share of the Hessian's eigenvalues per unit of λ, {how}; left of zero the loss curves downwards. For the picture "
        f"each node is broadened by a Gaussian of standard deviation {WIDTH:g} in asinh(λ/τ), that is {WIDTH:g} τ at zero and "
        f"{100 * WIDTH:g} % of |λ| far from it, with τ = {scale:.2g} (median over the verdicts); stored numbers are "
        "not broadened. Bars at the bottom: λ_min and λ_max of each curve, the stated interval (tick: the estimate; circle: "
        "not converged, a one-sided bound, or not confirmed to be the end), probability "
        f"{probability_words(confidence)}. {found.words(mean=False)}"
        f"{gap_words(found.gaps, found.left_out)}"
    )
