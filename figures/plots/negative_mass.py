"""Negative mass on the ladder of thresholds: how much of the spectrum lies below -tau, and how sure that is."""

from __future__ import annotations

import numpy as np

from ...analysis.records.rounding import probability_words
from ...analysis.records.spectra import MassAtThreshold
from ...analysis.records.study import Study
from ..drawing.appearance import handle
from ..drawing.canvas import heading, legend_below, new_figure
from ..drawing.scales import number_label, signed_axis
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
from .extremes import Point, seed_points

NAME = "negative_mass"


def figures(study: Study) -> list[Planned]:
    """The figure of negative mass."""
    return [Planned(NAME, lambda: draw(finals(study)))]


def draw(found: Finals) -> Drawing:
    """A column per group, a position per threshold, optimizers beside each other.

    Raises:
        NothingToDraw: no result holds a ladder.
    """
    ladder = sorted({mass.relative for entry in found.entries for mass in entry.negative_mass})
    if not ladder:
        raise NothingToDraw(f"no result holds the negative mass at any threshold; {SPECTRUM_ONLY}, with thresholds set")
    looks = found.looks
    columns = len(found.groups)
    figure = new_figure(max(5.2, min(10.4, 1.0 + columns * max(2.2, 0.17 * len(ladder) * len(looks)))), 4.3)
    panels = figure.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0]
    room = 0.86 / len(looks)
    inside: list[float] = []
    for axes, group in zip(panels, found.groups, strict=True):
        for place, relative in enumerate(ladder):
            for order, optimizer in enumerate(found.optimizers):
                at = place + (order - (len(looks) - 1) / 2) * room
                points = {
                    seed: Point(mass.value, mass.interval)
                    for seed, entry in found.of(optimizer, group).items()
                    if (mass := _at(entry.negative_mass, relative)) is not None
                }
                complete = found.complete(len(points))
                inside += seed_points(axes, at, points, looks[optimizer], mean=complete, spread=0.75 * room)
        for edge in range(len(ladder) - 1):
            axes.axvline(edge + 0.5, color="#DDDDDD", linewidth=0.6)
        axes.grid(visible=False, axis="x")
        axes.set_title(group_title(found.results.values(), group), fontweight="normal")
        axes.set_xlim(-0.55, len(ladder) - 0.45)
        axes.set_xlabel(r"threshold $\tau\,/\,\lambda_\mathrm{max}$")
        axes.set_xticks(range(len(ladder)), [number_label(relative) for relative in ladder])
    values = [mass.value for entry in found.entries for mass in entry.negative_mass]
    smallest = min((value for value in values if value > 0), default=1e-3)
    signed_axis(panels[0], "y", [*inside, 1.0], 10.0 ** np.floor(np.log10(smallest)), ticks=6, linscale=0.5)
    panels[0].set_ylim(bottom=0, top=1.3)
    panels[0].set_ylabel(r"share of eigenvalues below $-\tau$")
    legend_below(figure, [handle(look) for look in looks.values()])
    heading(figure, "Negative mass at several thresholds", setting(found.first.provenance))
    return Drawing(figure, "Negative mass per threshold, optimizer and group", _caption(found))


def _at(ladder: list[MassAtThreshold], relative: float) -> MassAtThreshold | None:
    return next((mass for mass in ladder if mass.relative == relative), None)


def _caption(found: Finals) -> str:
    sure = probability_words(min(mass.confidence for entry in found.entries for mass in entry.negative_mass))
    return (
        "The share of the Hessian's eigenvalues below −τ, at rising τ: near zero a Lanczos quadrature cannot tell the sign of "
        "the bulk, so the wide bars on the left are what is known there, not noise of the plot. Vertical bars: interval of "
        f"each seed's share (quadrature bracket and sampling error over probes, probability {sure}); short horizontal "
        "bars: means. The vertical axis is logarithmic, and linear next to 0. "
        f"{found.words()}{gap_words(found.gaps, found.left_out)}"
    )
