"""What leaving would gain: a group's loss along its most negative eigenvector, against the model that calls it a saddle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ...analysis.records.results import GroupResult
from ...analysis.records.study import Study
from ..drawing.appearance import Look
from ..drawing.canvas import column_width, heading, new_figure
from ..drawing.scales import log_axis, plain_ticks
from ..drawing.study_data import Drawing, Finals, NothingToDraw, Planned, finals, gap_words, group_title, setting

NAME = "escape"
PAPER = "F12 (Alain et al. 2019: loss against its quadratic model)"
#: a loss above this many times the checkpoint's is out of the picture: what matters is whether it falls
TOP = 2.0
_DASHES = (0, (2.5, 1.8))
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Walk:
    """One checkpoint's loss on a line: ``at`` in percent of ``||w||``, losses relative to that of the checkpoint."""

    at: Array
    loss: Array
    model: Array

    @property
    def lowest(self) -> tuple[float, float]:
        """Place and relative loss of the lowest point tried; the checkpoint itself where nothing is lower."""
        where = int(np.argmin(self.loss))
        return float(self.at[where]), float(self.loss[where])


def walk(entry: GroupResult) -> Walk | None:
    """The escape test of a group with its downhill side on the right; None where there is none, or no loss to lose."""
    test = entry.escape.test if entry.escape is not None else None
    if test is None or entry.escape is None or entry.loss <= 0 or entry.weight_norm <= 0:
        return None
    # an eigenvector has no sign of its own
    side = -1.0 if entry.escape.gradient_along_v > 0 else 1.0
    at = side * np.asarray(test.steps)
    order = np.argsort(at)
    loss, model = (np.asarray(values)[order] / entry.loss for values in (test.loss, test.quadratic))
    return Walk(100 * at[order] / entry.weight_norm, loss, model)


def figures(study: Study) -> list[Planned]:
    """The figure of escape tests."""
    return [Planned(NAME, lambda: draw(finals(study)))]


def draw(found: Finals) -> Drawing:
    """A row per group, a column per optimizer, every seed a curve with its quadratic model dashed.

    Raises:
        NothingToDraw: no result holds an escape test.
    """
    walks = {
        (group, optimizer): {seed: walk(entry) for seed, entry in found.of(optimizer, group).items()}
        for group in found.groups
        for optimizer in found.optimizers
    }
    shown = [one for seeds in walks.values() for one in seeds.values() if one is not None]
    if not shown:
        raise NothingToDraw("no result holds an escape test; analyze again with [analysis] escape = true")
    rows, columns = len(found.groups), len(found.optimizers)
    figure = new_figure(max(5.2, 0.9 + column_width(columns) * columns), 1.5 + 2.0 * rows)
    panels = figure.subplots(rows, columns, sharex="row", sharey=True, squeeze=False)
    for row, group in enumerate(found.groups):
        for column, optimizer in enumerate(found.optimizers):
            axes, look = panels[row, column], found.looks[optimizer]
            _panel(axes, {seed: one for seed, one in walks[group, optimizer].items() if one is not None}, look)
            if row == 0:
                axes.set_title(look.short, color=look.ink, pad=14)
        ends = [abs(float(one.at[end])) for o in found.optimizers for one in walks[group, o].values() if one for end in (0, -1)]
        if ends:
            panels[row, 0].set_xlim(-1.04 * max(ends), 1.04 * max(ends))
        plain_ticks(panels[row, 0].xaxis, 5 if columns < 5 else 3)
        panels[row, 0].set_ylabel(group_title(found.results.values(), group))
    low = min(float(part[part > 0].min(initial=1.0)) for one in shown for part in (one.loss, one.model))
    high = max(float(part.max()) for one in shown for part in (one.loss, one.model))
    log_axis(panels[0, 0], "y", [low, min(max(high, 1.02), TOP)], pad=1.06)
    for axes in panels[-1]:
        axes.set_xlabel(r"$s$, % of $\|w\|$")
    figure.supylabel("loss / loss at the checkpoint (log)", fontsize=9)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3)
    heading(figure, "What leaving would gain: loss along the most negative eigenvector", setting(found.first.provenance))
    title = f"Loss along the most negative eigenvector, per group and {found.unit}"
    return Drawing(figure, title, _caption(found, high), PAPER)


def _panel(axes: Axes, seeds: dict[int, Walk], look: Look) -> None:
    axes.axvline(0, color="#BBBBBB", linewidth=0.6, zorder=1)
    axes.axhline(1, color="#BBBBBB", linewidth=0.6, zorder=1)
    if not seeds:
        axes.text(0.5, 0.5, "not tested", transform=axes.transAxes, ha="center", va="center", color="#777777")
        return
    for seed, one in seeds.items():
        # a negative prediction has no place on a log axis
        model = np.where(one.model > 0, one.model, np.nan)
        axes.plot(one.at, model, color=look.colour, linewidth=0.9, linestyle=_DASHES, alpha=0.7, gid=f"quadratic-seed-{seed}")
        axes.plot(one.at, one.loss, color=look.colour, linewidth=1.2, gid=f"loss-seed-{seed}")
        axes.plot(
            *([value] for value in one.lowest), marker=look.marker, color=look.colour, markerfacecolor="white",
            markersize=4.5, linestyle="none", zorder=4, gid=f"lowest-seed-{seed}",
        )  # fmt: skip
    falls = sorted(100 * (1 - one.lowest[1]) for one in seeds.values())
    words = " to ".join(dict.fromkeys(f"{fall:.2g}" for fall in (falls[0], falls[-1])))
    # above the panel: steep curves leave through its top
    axes.annotate(f"falls by {words} %", (0.5, 1), xycoords="axes fraction", xytext=(0, 2), textcoords="offset points",
                  fontsize=7.5, color=look.ink, ha="center", va="bottom")  # fmt: skip


def _legend() -> list[Line2D]:
    grey = "#444444"
    return [
        Line2D([], [], color=grey, linewidth=1.2, label="loss"),
        Line2D([], [], color=grey, linewidth=0.9, linestyle=_DASHES, label="quadratic model"),
        Line2D([], [], color=grey, marker="o", markerfacecolor="white", linestyle="none", markersize=4.5, label="lowest"),
    ]


def _caption(found: Finals, high: float) -> str:
    cut = f" Curves that leave at the top rise above {TOP:g} times the checkpoint's loss." if high > TOP else ""
    return (
        "The group's loss when all weights move by s along v, the unit eigenvector of its λ_min, relative to the loss at the "
        "checkpoint; downhill is right. Dashed: L + s⟨v, ∇L⟩ + s²λ_min/2, the model by which the point is a saddle; it is "
        "followed to where it would have lost half of the loss, at most to a fifth of ‖w‖. Where the curve stays above its "
        "dashed line, leaving along v gains less than λ_min promises. Above each panel: the largest fall, least to most over "
        f"the curves.{cut} "
        f"{found.words(mean=False)}{gap_words(found.gaps, found.left_out)}"
    )
