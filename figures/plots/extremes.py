"""The ends of the spectrum and their ratio: every seed a point with its interval, groups side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from ...analysis.records.base import Interval
from ...analysis.records.results import GroupResult
from ...analysis.records.rounding import probability_words
from ...analysis.records.study import Study
from ..drawing.appearance import Look
from ..drawing.canvas import heading, new_figure
from ..drawing.scales import SCALE_WORDS, value_axis
from ..drawing.study_data import Drawing, Finals, Planned, finals, gap_words, group_title, setting

NAME = "extremes"
PAPER = "F1, F3 and F6 (Rangwani et al. 2022; GSA 2026): the numbers printed in their spectra"


@dataclass(frozen=True)
class Point:
    """One seed's number. ``certain`` is False where the estimate is only a one-sided bound."""

    value: float
    interval: Interval
    certain: bool = True

    @classmethod
    def exact(cls, value: float) -> Point:
        """A number that is what was computed, but for rounding: nothing is drawn around it."""
        return cls(value, (value, value))


#: with more positions on a panel than this not every one is named
MOST_NAMES = 14
#: what each row shows: axis label, number of a group
ROWS: tuple[tuple[str, Callable[[GroupResult], Point]], ...] = (
    (
        r"$\lambda_\mathrm{min}$",
        lambda entry: Point(entry.lambda_min.value, entry.lambda_min.interval, entry.lambda_min.converged),
    ),
    (
        r"$\lambda_\mathrm{max}$",
        lambda entry: Point(entry.lambda_max.value, entry.lambda_max.interval, entry.lambda_max.converged),
    ),
    (
        r"$|\min(\lambda_\mathrm{min}, 0)|\,/\,\lambda_\mathrm{max}$",
        lambda entry: Point(
            entry.negative_ratio.value,
            entry.negative_ratio.interval,
            entry.lambda_min.converged and entry.lambda_max.converged,
        ),
    ),
)


def figures(study: Study) -> list[Planned]:
    """The figure of extremes and ratio."""
    return [Planned(NAME, lambda: draw(finals(study)))]


def seed_points(axes: Axes, at: float, points: dict[int, Point], look: Look, *, mean: bool, spread: float = 0.5) -> list[float]:
    """Every seed a point with its interval around the position ``at``; the mean a bar.

    Args:
        axes: the panel.
        at: position of the optimizer on the x axis.
        points: seed -> number.
        look: of the optimizer.
        mean: whether a mean is drawn.
        spread: width over which the seeds are spread.

    Returns:
        Every value and interval end drawn: the y axis must hold them.
    """
    offsets = (np.arange(len(points)) - (len(points) - 1) / 2) * (spread / max(len(points), 3))
    inside: list[float] = []
    for offset, (seed, point) in zip(offsets, points.items(), strict=True):
        inside += _open_ends(axes, at + offset, point, look)
        low, high = (point.value if end is None else end for end in point.interval)
        axes.vlines(at + offset, low, high, color=look.colour, alpha=0.4, linewidth=2.0, zorder=2)
        axes.plot(
            [at + offset],
            [point.value],
            marker=look.marker,
            color=look.colour,
            markerfacecolor=look.colour if point.certain else "white",
            linestyle="none",
            markersize=4,
            zorder=3,
            clip_on=False,  # a zero on the axis is drawn whole
            gid=f"seed-{seed}",
        )
        inside += [low, point.value, high]
    if mean and points:
        middle = float(np.mean([point.value for point in points.values()]))
        half = 0.62 * spread
        axes.hlines(middle, at - half, at + half, color=look.colour, linewidth=1.2, zorder=2.5, gid="mean")
    return inside


def _open_ends(axes: Axes, at: float, point: Point, look: Look) -> list[float]:
    """An arrow towards every side on which nothing is known of the number: no bar would say that there is no error.

    Returns:
        values that the axis must hold for the arrows to lie inside the panel.
    """
    for end, towards in zip(point.interval, (-1, 1), strict=True):
        if end is None:
            axes.annotate(
                "",
                (at, point.value),
                xytext=(0, 17 * towards),
                textcoords="offset points",
                arrowprops={"arrowstyle": "<|-", "color": look.colour, "alpha": 0.55, "linewidth": 1.4, "shrinkB": 0},
                annotation_clip=False,
                zorder=2,
                gid="open-end",
            )
    return [
        point.value + 0.2 * towards * abs(point.value)
        for end, towards in zip(point.interval, (-1, 1), strict=True)
        if end is None
    ]


def draw(found: Finals) -> Drawing:
    """A row per quantity, a column per group, an optimizer per position."""
    looks, columns = found.looks, len(found.groups)
    figure = new_figure(max(5.2, min(10.4, 1.2 + columns * max(1.6, 0.62 * len(looks)))), 7.2)
    panels = figure.subplots(len(ROWS), columns, sharex=True, sharey="row", squeeze=False)
    tau = float(np.median([entry.verdict.tau for entry in found.entries]))
    tops = [found.first.groups[g].lambda_max.value for g in found.groups if g in found.first.groups]
    for row, (label, number) in enumerate(ROWS):
        inside: list[float] = []
        for column, group in enumerate(found.groups):
            axes = panels[row, column]
            for at, optimizer in enumerate(found.optimizers):
                points = {seed: number(entry) for seed, entry in found.of(optimizer, group).items()}
                inside += seed_points(axes, at, points, looks[optimizer], mean=found.complete(len(points)))
                if not points:
                    axes.annotate("–", (at, 0.5), xycoords=("data", "axes fraction"), ha="center", color="#777777")
        threshold = tau / float(np.median(tops)) if row == 2 else tau
        kind = value_axis(panels[row, 0], inside, abs(threshold) or 1e-12)
        panels[row, 0].set_ylabel(label + SCALE_WORDS[kind])
        figure.align_ylabels(list(panels[:, 0]))
    zero_lines(panels[0], tau)
    for column, group in enumerate(found.groups):
        panels[0, column].set_title(group_title(found.results.values(), group), fontweight="normal")
        axes = panels[-1, column]
        axes.set_xlim(-0.6, len(looks) - 0.4)
        named = list(enumerate(looks.values()))[:: 1 + len(looks) // MOST_NAMES]
        names = [look.name for _, look in named]
        axes.set_xticks([at for at, _ in named], names, rotation=35, ha="right", rotation_mode="anchor")
        for tick, (_, look) in zip(axes.get_xticklabels(), named, strict=True):
            tick.set_color(look.ink)
    for axes in panels.flat:
        axes.grid(visible=False, axis="x")
    heading(figure, "Ends of the Hessian's spectrum, and their ratio", setting(found.first.provenance))
    return Drawing(figure, f"λ_min, λ_max and their ratio per {found.unit} and group", caption(found, tau), PAPER)


def zero_lines(panels: Iterable[Axes], tau: float) -> None:
    """Zero, and the band in which a sign is not claimed."""
    for axes in panels:
        axes.axhspan(-tau, tau, color="#EFEFEF", zorder=0, linewidth=0)
        axes.axhline(0, color="#999999", linewidth=0.6, zorder=1)


def caption(found: Finals, tau: float) -> str:
    """What the points, bars and shades of this figure mean."""
    entries = found.entries
    numbers = [one for entry in entries for one in (entry.lambda_min, entry.lambda_max, entry.negative_ratio)]
    sure = probability_words(min(one.confidence for one in numbers))
    states = [{entry.lambda_min.state, entry.lambda_max.state} for entry in entries]
    open_ends = sum("bound" in both for both in states)
    unconfirmed = sum("not confirmed" in both for both in states)
    words = (
        "A negative λ_min is a direction in which the group's loss curves downwards. The ratio also rises when λ_max falls, so "
        f"it is read beside both. Vertical bars: the stated interval of that number, probability at least {sure} (not a "
        f"spread over seeds); shaded in the top row: |λ| ≤ τ = {tau:.2g} (median), where no sign is claimed. "
    )
    if len(found.seeds) > 1:
        words += "Horizontal bars: means. "
    without = sum(None in number(entry).interval for entry in entries for _, number in ROWS)
    if without:
        words += (
            f"Arrows: the interval is open on that side, nothing bounds the number there ({without} of {3 * len(entries)} "
            "numbers; --goal spectrum bounds both sides). "
        )
    if open_ends:
        words += f"Hollow: not converged, a one-sided bound ({open_ends} of {len(entries)}). "
    if unconfirmed:
        words += f"Hollow, too: settled, not confirmed, there may be an end beyond ({unconfirmed} of {len(entries)}). "
    parts = {group: result.groups[group].sampling for result in found.results.values() for group in found.groups
             if group in result.groups}  # fmt: skip
    sizes = [f"{name}: {part.subset_size:,} of {part.population:,}" for name, part in parts.items() if part is not None]
    if sizes:
        words += f"Of a random part of the samples ({'; '.join(sizes)}): what another part would give is not in the bars. "
    return words + found.words() + gap_words(found.gaps, found.left_out)
