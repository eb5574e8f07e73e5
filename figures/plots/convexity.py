"""Convexity maps: how far each group's Hessian is from positive semidefinite at every point of a plane, and its two ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...analysis.records.slices import Slice
from ...analysis.records.study import Run, Study
from ..drawing.appearance import Look, looks_of
from ..drawing.canvas import column_width, heading, new_figure
from ..drawing.scales import colour_bar, number_label, plain_ticks
from ..drawing.study_data import Drawing, NothingToDraw, Planned, count, gap_words, setting, slices_by_name, spread_names
from .planes import axis_words, mark, one_seed, plane_words, whose

PREFIX, ENDS = "convexity", "convexity_ends"
PAPER = "F9 (Li et al. 2018: convexity map; here per group)"
#: perceptually even, the same for colour-blind readers and in grey; light is convex
_COLOURS = colormaps["cividis_r"].with_extremes(under="white")
#: share of the cells that the ratio's scale must hold; a few cells next to λ_max = 0 would bleach all others
SHOWN = 0.98
_LOW, _HIGH = r"$-\lambda_\mathrm{min}$", r"$\lambda_\mathrm{max}$"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Maps:
    """One plane of one seed: optimizer -> slice, and the groups that every one of them has a map of."""

    study: Study
    seed: int
    pieces: dict[str, Slice]
    groups: list[str]

    @property
    def looks(self) -> dict[str, Look]:
        """Of all optimizers of the study."""
        return looks_of(self.study)

    @property
    def first(self) -> Slice:
        """Any of them: what they share is read from it."""
        return next(iter(self.pieces.values()))

    @property
    def whose(self) -> str:
        """The seed, or the checkpoint's name."""
        return whose(self.first, self.seed)

    def values(self, number: Callable[[Slice, str], Array]) -> Array:
        """A quantity in all cells of all panels where it is known."""
        found = np.concatenate([number(piece, group).ravel() for piece in self.pieces.values() for group in self.groups])
        return np.asarray(found[np.isfinite(found)])


def figures(study: Study) -> list[Planned]:
    """Two figures per plane that has a map, the ratio and its two ends; none where no plane has one."""
    planned = []
    for name, runs in slices_by_name(study, axes=2).items():
        mapped = [run for run in runs if run.slices[name].lambda_min]
        if mapped:
            planned.append(Planned(f"{PREFIX}-{name}", partial(draw, study, name, mapped)))
            planned.append(Planned(f"{ENDS}-{name}", partial(draw_ends, study, name, mapped)))
    return planned


def lowest(piece: Slice, group: str) -> Array:
    """λ_min ``[points of axis 0, points of axis 1]``; NaN where it is not known."""
    return np.array([[np.nan if x is None else x for x in row] for row in piece.lambda_min[group]], dtype=np.float64)


def highest(piece: Slice, group: str) -> Array:
    """λ_max, as :func:`lowest`."""
    return np.array([[np.nan if x is None else x for x in row] for row in piece.lambda_max[group]], dtype=np.float64)


def depth(piece: Slice, group: str) -> Array:
    """``|min(λ_min, 0)|``."""
    return np.maximum(-lowest(piece, group), 0.0)


def ratio(piece: Slice, group: str) -> Array:
    """``|min(λ_min, 0)| / λ_max``; NaN where an end is not known or λ_max is not positive, infinite nowhere."""
    top = highest(piece, group)
    return depth(piece, group) / np.where(top > 0, top, np.nan)


def gather(study: Study, name: str, runs: list[Run]) -> Maps:
    """The maps that share a figure.

    Raises:
        NothingToDraw: no group has a map in every slice, or no cell is known.
    """
    seed, pieces = one_seed(name, runs)
    first = next(iter(pieces.values()))
    groups = spread_names([group for group in first.lambda_min if all(group in piece.lambda_min for piece in pieces.values())])
    found = Maps(study, seed, pieces, groups)
    if not groups or not len(found.values(ratio)):
        raise NothingToDraw(f"slice '{name}': no group's convexity ratio is known anywhere; raise [analysis] steps")
    return found


def draw(study: Study, name: str, runs: list[Run]) -> Drawing:
    """The ratio: a row per group, a column per optimizer, one seed, one colour scale.

    Raises:
        NothingToDraw: as :func:`gather`.
    """
    found = gather(study, name, runs)
    values = found.values(ratio)
    top = _round_up(max(float(np.quantile(values, SHOWN, method="inverted_cdf")), 1e-4))
    clipped = int((values > top).sum())
    figure, panels = _panels(found, found.groups)
    for row, group in enumerate(found.groups):
        for column, piece in enumerate(found.pieces.values()):
            _map(panels[row, column], piece, ratio(piece, group), Normalize(0, top))
    label = r"$|\min(\lambda_\mathrm{min}, 0)|\,/\,\lambda_\mathrm{max}$"
    figure.colorbar(
        _image(panels[0, 0]), ax=list(panels.flat), label=label, aspect=40, pad=0.02, extend="max" if clipped else "neither"
    )
    what = plane_words(found.first)
    heading(figure, f"Convexity of each group's loss on the plane of {what}, {found.whose}", _setting(found))
    return Drawing(figure, f"Convexity map of each group: {what}", _caption(found, top, clipped), PAPER)


def draw_ends(study: Study, name: str, runs: list[Run]) -> Drawing:
    """What the ratio is made of: λ_min and λ_max, a row each per group.

    Raises:
        NothingToDraw: as :func:`gather`.
    """
    found = gather(study, name, runs)
    half = len(found.groups)
    figure, panels = _panels(found, [f"{group}, {end}" for end in (_LOW, _HIGH) for group in found.groups])
    for rows, number, label in (
        (panels[:half], depth, f"{_LOW} (log; white: not negative)"),
        (panels[half:], highest, f"{_HIGH} (log)"),
    ):
        norm = _log_norm(found.values(number))
        for group, row in zip(found.groups, rows, strict=True):
            for axes, piece in zip(row, found.pieces.values(), strict=True):
                _map(axes, piece, number(piece, group), norm)
        colour_bar(figure, _image(rows[0, 0]), rows.flat, norm.vmin or 1.0, norm.vmax or 1.0, label, aspect=30)
    what = plane_words(found.first)
    heading(figure, f"Both ends of each group's Hessian on the plane of {what}, {found.whose}", _setting(found))
    words = (
        f"What the convexity map of this plane is made of: the smallest eigenvalue (as depth below zero) and the largest one "
        f"of each group's Hessian. A ratio may grow because λ_min falls or because λ_max does. {_shared_words(found)}"
    )
    return Drawing(figure, f"λ_min and λ_max of each group on the plane of {what}", words, PAPER)


def _panels(found: Maps, rows: list[str]) -> tuple[Figure, NDArray[Any]]:
    """Empty panels with their titles, axis words and marks."""
    columns = len(found.pieces)
    figure = new_figure(max(5.2, 1.5 + 0.9 * column_width(columns) * columns), 1.2 + 1.85 * len(rows))
    panels = figure.subplots(len(rows), columns, sharex="col", sharey="col", squeeze=False)
    for column, (optimizer, piece) in enumerate(found.pieces.items()):
        for axes in panels[:, column]:
            axes.patch.set(facecolor="white", hatch="xxx", edgecolor="#999999")  # shows where a cell is not drawn
            mark(axes, piece, ink="black")
            axes.tick_params(labelbottom=bool(axes is panels[-1, column]))
        panels[0, column].set_title(found.looks[optimizer].short, color=found.looks[optimizer].ink)
        panels[-1, column].set_xlabel(axis_words(piece, 1))
        plain_ticks(panels[0, column].xaxis, 4 if columns < 5 else 2)
    for row, words in enumerate(rows):
        panels[row, 0].set_ylabel(f"{words}\n{axis_words(found.first, 2, short=True)}")
    return figure, panels


def _map(axes: Axes, piece: Slice, values: Array, norm: Normalize) -> None:
    """One cell per point of the grid, the point in its middle."""
    x, y = (_edges(axis) for axis in piece.axes)
    if isinstance(norm, LogNorm):  # which would take a depth of zero for a missing one
        values = np.maximum(values, 0.1 * (norm.vmin or 1.0))
    axes.pcolormesh(
        x,
        y,
        np.ma.masked_invalid(values.T),
        norm=norm,
        cmap=_COLOURS,
        shading="flat",
        edgecolors="none",
        rasterized=True,
        gid="map",
    )
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])


def _image(axes: Axes) -> QuadMesh:
    return next(found for found in axes.collections if isinstance(found, QuadMesh))


def _edges(points: list[float]) -> Array:
    at = np.asarray(points)
    if len(at) == 1:
        return np.array([at[0] - 0.5, at[0] + 0.5])
    middle = (at[1:] + at[:-1]) / 2
    return np.concatenate([[2 * at[0] - middle[0]], middle, [2 * at[-1] - middle[-1]]])


def _log_norm(values: Array) -> LogNorm:
    """A logarithmic scale over the positive values, at most six decades of them; what is lower is white."""
    top = float(values.max()) if len(values) and values.max() > 0 else 1.0
    low = float(values[values > 1e-6 * top].min()) if (values > 1e-6 * top).any() else top / 10
    return LogNorm(min(low, top / 1.01), top)


def _round_up(value: float) -> float:
    """To one of 1, 1.5, 2, 3, 5, 7 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 3, 5, 7, 10) if step * power >= value * (1 - 1e-9))


def _setting(found: Maps) -> str:
    return setting(found.first.provenance)


def _caption(found: Maps, top: float, clipped: int) -> str:
    total = sum(ratio(piece, group).size for piece in found.pieces.values() for group in found.groups)
    words = (
        f"The ratio |min(λ_min, 0)| / λ_max of each group's Hessian at the points of the plane spanned by "
        f"{plane_words(found.first)}, through the final checkpoint (cross) of {found.whose}. Light: convex to second "
        "order; dark: the most negative eigenvalue is no longer small beside the largest. One colour scale for all panels, 0 "
        f"to {top:.3g} (Li et al. show 0 to 0.5). "
    )
    if clipped:
        most = float(found.values(ratio).max())
        verbs = ("lies", "has") if clipped == 1 else ("lie", "have")
        words += f"{count(clipped, 'cell')} of {total} {verbs[0]} above it, up to {most:.3g}, and {verbs[1]} its last colour. "
    at_checkpoint = [
        f"{found.looks[optimizer].name} {group} {number_label(float(f'{lowest(piece, group)[centre]:.3g}'))} and "
        f"{number_label(float(f'{highest(piece, group)[centre]:.3g}'))}"
        for optimizer, piece in found.pieces.items()
        for group in found.groups
        if (centre := _centre(piece)) is not None and np.isfinite(ratio(piece, group)[centre])
    ]
    if at_checkpoint:
        words += f"λ_min and λ_max at the checkpoint: {'; '.join(at_checkpoint)}. "
    return words + _shared_words(found)


def _centre(piece: Slice) -> tuple[int, int] | None:
    """Where the checkpoint is on the grid."""
    try:
        return piece.axes[0].index(0.0), piece.axes[1].index(0.0)
    except ValueError:
        return None


def _shared_words(found: Maps) -> str:
    unit = "in Euclidean distance" if abs(found.first.directions[0].norm - 1) < 1e-3 else "in multiples of the directions"
    words = f"Each optimizer has its own plane and its own axis ranges, {unit}. "
    unknown = sum(int(np.isnan(ratio(piece, group)).sum()) for piece in found.pieces.values() for group in found.groups)
    if unknown:
        words += f"Hatched: not known ({count(unknown, 'cell')}), as an end had not converged or nothing is finite there. "
    if found.first.path:
        words += "Line: the stored checkpoints of training, projected; off the plane the Hessian is another. "
    groups = [group for piece in found.pieces.values() for group in piece.lambda_min]
    left_out = [group for group in dict.fromkeys(groups) if group not in found.groups]
    missing = [look.name for optimizer, look in found.looks.items() if optimizer not in found.pieces]
    return words + "One seed: a picture, not a measurement over seeds." + gap_words(missing, left_out)
