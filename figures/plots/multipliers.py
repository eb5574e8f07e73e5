"""Does a step go along negative curvature? The gradient's share along v, and the signed multiplier of each optimizer's step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ...analysis.records.results import GroupResult, Multiplier
from ...analysis.records.study import Study
from ..drawing.appearance import Look, optimizer_looks
from ..drawing.canvas import heading, legend_below, new_figure
from ..drawing.scales import WIDE, log_axis, number_label, signed_axis, value_axis
from ..drawing.study_data import Drawing, Finals, NothingToDraw, Planned, finals, gap_words, group_title, setting
from .extremes import Point, seed_points

NAME = "along_v"
PAPER = (
    "F10 (correlated negative curvature, the quantity of Daneshmand et al. 2018 that the saddle papers build on; no published "
    "numbers)"
)
#: of the two rows of multipliers: axis label, which number
MULTIPLIERS: tuple[tuple[str, Callable[[Multiplier], float | None]], ...] = (
    ("multiplier of a step,\nto first order", lambda found: found.value),
    ("multiplier of a step,\nmeasured", lambda found: found.measured),
)
#: of what no step was tried for: in this figure an optimizer's colour means a step of it
_NO_STEP = Look("", "#444444", "o")


def figures(study: Study) -> list[Planned]:
    """The figure of steps along v."""
    return [Planned(NAME, lambda: draw(finals(study)))]


def steps(found: Finals) -> dict[str, float]:
    """Optimizers whose step was tried, with their radius; SGD, whose multiplier is 1 by definition, is not among them."""
    escapes = [entry.escape for result in found.results.values() for entry in result.groups.values() if entry.escape]
    return {m.optimizer: m.rho for escape in escapes for m in escape.multipliers if m.optimizer != "sgd"}


def share(entry: GroupResult) -> float | None:
    """``<v, g>^2 / ||g||^2``."""
    return entry.escape.correlated_negative_curvature if entry.escape is not None else None


def multiplier(entry: GroupResult, step: str, number: Callable[[Multiplier], float | None]) -> float | None:
    """One multiplier of one optimizer's step; None where it was not measured."""
    rows = entry.escape.multipliers if entry.escape is not None else []
    return next((number(row) for row in rows if row.optimizer == step), None)


def draw(found: Finals) -> Drawing:
    """A column per group, a position per checkpoint's optimizer; below, the steps of several optimizers tried there.

    Raises:
        NothingToDraw: no final checkpoint has an escape record.
    """
    tried = steps(found)
    if not tried:
        raise NothingToDraw("no result holds multipliers; analyze again with [analysis] escape = true")
    looks, columns = found.looks, len(found.groups)
    figure = new_figure(max(5.6, min(10.4, 1.3 + columns * max(2.0, 0.75 * len(looks)))), 7.4)
    panels = figure.subplots(3, columns, sharex=True, sharey="row", squeeze=False)
    inside: list[list[float]] = [[], [], []]
    for column, group in enumerate(found.groups):
        for at, optimizer in enumerate(found.optimizers):
            entries = found.of(optimizer, group)
            shares = {seed: Point(value, (None, None)) for seed, entry in entries.items() if (value := share(entry))}
            inside[0] += seed_points(panels[0, column], at, shares, _NO_STEP, mean=False)
            for row, (_, number) in enumerate(MULTIPLIERS, start=1):
                inside[row] += _tried(panels[row, column], at, entries, list(tried), number)
        panels[0, column].set_title(group_title(found.first, group).replace(" (", "\n("), fontweight="normal")
    random = 1 / found.first.provenance.parameters
    for axes in panels[0]:
        axes.axhline(random, color="#777777", linewidth=0.8, linestyle=":", zorder=1)
    if inside[0]:
        log_axis(panels[0, 0], "y", [*inside[0], random], pad=2)
    panels[0, 0].set_ylabel(r"$\langle v, g\rangle^2 \,/\, \|g\|^2$ (log)")
    for row, (label, _) in enumerate(MULTIPLIERS, start=1):
        wide = _multiplier_axis(panels[row], inside[row])
        panels[row, 0].set_ylabel(f"{label} (symmetric log)" if wide else label)
    for axes in panels[-1]:
        axes.set_xlabel("trained with" if found.unit == "optimizer" else found.unit)
        axes.set_xlim(-0.6, len(looks) - 0.4)
        names = [look.name for look in looks.values()]
        axes.set_xticks(range(len(looks)), names, rotation=35, ha="right", rotation_mode="anchor")
    for axes in panels.flat:
        axes.grid(visible=False, axis="x")
    figure.align_ylabels(list(panels[:, 0]))
    legend_below(figure, _legend(tried))
    heading(figure, "Does a step go along negative curvature?", setting(found.first.provenance))
    return Drawing(figure, "The gradient's share along v, and the signed multipliers of a step", _caption(found, random), PAPER)


def _tried(
    axes: Axes, at: int, entries: dict[int, GroupResult], tried: list[str], number: Callable[[Multiplier], float | None]
) -> list[float]:
    """The steps beside each other around ``at``, every seed a point; returns the values drawn."""
    room, looks, inside = 0.84 / len(tried), optimizer_looks(tried), list[float]()
    for order, step in enumerate(tried):
        points = {
            seed: Point(value, (None, None))
            for seed, entry in entries.items()
            if (value := multiplier(entry, step, number)) is not None
        }
        inside += seed_points(
            axes, at + (order - (len(tried) - 1) / 2) * room, points, looks[step], mean=False, spread=0.6 * room
        )
    return inside


def _multiplier_axis(panels: np.ndarray, values: list[float]) -> bool:
    """Scales a row around 1, shades what is below 0; True where the scale is logarithmic with both signs."""
    wide = max(map(abs, values), default=0.0) > WIDE
    if wide:
        signed_axis(panels[0], "y", [*values, -1.0], 1.0, ticks=4)
    else:
        value_axis(panels[0], [*values, -0.1, 1.2], 1.0)
    bottom = panels[0].get_ylim()[0]
    for axes in panels:
        axes.axhspan(bottom, 0, color="#F6ECEE", zorder=0, linewidth=0)
        axes.axhline(1, color="#777777", linewidth=0.8, zorder=1)
        axes.set_ylim(bottom=bottom)
    return wide


def _legend(tried: dict[str, float]) -> list[Line2D]:
    looks: dict[str, Look] = optimizer_looks(list(tried))
    return [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="none",
               label=f"a step of {look.name}, ρ = {number_label(tried[key])}")
        for key, look in looks.items()
    ]  # fmt: skip


def _caption(found: Finals, random: float) -> str:
    return (
        "v: unit eigenvector of the group's λ_min of that checkpoint; g: the group's gradient. Top: the share of the squared "
        f"gradient along v (dotted: 1/n = {random:.1e}, a random direction). Below, at the same checkpoints: the component "
        "along v of the perturbed gradient of three optimizers, divided by that of the plain one. Above 1 their step leaves "
        "faster than SGD's, below 1 slower, below 0 (shaded) it points back. To first order it follows from λ_min and the "
        "radius ρ; measured, the gradient is taken at the perturbed weights. Where the two disagree, the Hessian at the point "
        "does not describe the loss at the distance ρ; where the share is small, the quotient divides by almost nothing. "
        f"{found.words(mean=False)}{gap_words(found.gaps, found.left_out)}"
    )
