"""What a check found: every number that moved, against its tolerance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..drawing.canvas import FORMATS, FigureError, new_figure, render, style, write_bytes_atomically
from ..drawing.scales import number_label, signed_axis
from ..drawing.study_data import count

#: outcome -> colour; outcomes not listed are not drawn (nothing happened to the number)
COLOURS = {
    "moved": "#B2455A",
    "missing": "#6F4E37",
    "not comparable": "#8C8C8C",
    "undecided": "#E69F00",
    "moved, allowed direction": "#009E73",
    "new": "#56B4E9",
}
#: more rows than this are counted, not drawn
MOST = 40


class Side(Protocol):
    """One side of a comparison."""

    @property
    def mean(self) -> float | None:
        """The number, or None."""


class Row(Protocol):
    """One number of a check."""

    @property
    def identifier(self) -> str:
        """``series::number``."""

    @property
    def outcome(self) -> str:
        """What became of it."""

    @property
    def old(self) -> Side | None:
        """In the baseline."""

    @property
    def new(self) -> Side | None:
        """Now."""

    @property
    def tolerance(self) -> float | None:
        """The largest change that passes."""


def save_what_moved(rows: Sequence[Row], path: Path) -> None:
    """Draws the rows that are not the same as before.

    Args:
        rows: of a check.
        path: ends in .svg, .png or .pdf.

    Raises:
        FigureError: another ending.
    """
    kind = path.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise FigureError(f"--figure {path}: the file name must end in .{', .'.join(FORMATS)}")
    with style():
        write_bytes_atomically(path, render(draw(rows), (kind,))[kind])


def change(row: Row) -> float | None:
    """The change in units of the tolerance, or None where a side or the tolerance is missing or zero."""
    before, now = (side.mean if side is not None else None for side in (row.old, row.new))
    if before is None or now is None or not row.tolerance:
        return None
    return (now - before) / row.tolerance


def draw(rows: Sequence[Row]) -> Figure:
    """A line per number: its change in units of its tolerance, old and new value written beside it."""
    order = list(COLOURS)
    told = sorted((row for row in rows if str(row.outcome) in COLOURS), key=lambda row: order.index(str(row.outcome)))
    shown = told[:MOST]
    figure = new_figure(9.6, 1.5 + 0.26 * max(len(shown), 2))
    axes = figure.subplots()
    rest = f"; {len(told) - MOST} more are not drawn" if len(told) > MOST else ""
    figure.suptitle(f"{len(told)} of {count(len(rows), 'number')} not as before{rest}")
    if not shown:
        axes.text(0.5, 0.5, "nothing moved", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return figure
    for place, row in enumerate(shown):
        _line(axes, place, row)
    far = [value for row in shown if (value := change(row)) is not None and math.isfinite(value)]
    signed_axis(axes, "x", [*far, -1.5, 1.5], 1.0, ticks=4, linscale=1.0)
    axes.axvspan(-1, 1, color="#EFEFEF", zorder=0, linewidth=0)
    axes.axvline(0, color="#999999", linewidth=0.6)
    axes.set_yticks(range(len(shown)), [row.identifier for row in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("change in units of the tolerance (shaded: within)")
    used = [name for name in COLOURS if any(str(row.outcome) == name for row in shown)]
    figure.legend(handles=[Patch(color=COLOURS[n], label=n) for n in used], loc="outside lower center", ncols=len(used))
    return figure


def _line(axes: Axes, place: int, row: Row) -> None:
    colour, value = COLOURS[str(row.outcome)], change(row)
    if value is not None:
        axes.plot([0, value], [place, place], color=colour, linewidth=1.4)
        axes.plot([value], [place], marker="o", color=colour, markersize=5, gid=row.identifier)
    sides = [
        "none" if side is None or side.mean is None else number_label(float(f"{side.mean:.4g}")) for side in (row.old, row.new)
    ]
    axes.annotate(
        f"{sides[0]} → {sides[1]}", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color="#444444"
    )
