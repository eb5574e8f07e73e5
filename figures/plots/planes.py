"""Two-dimensional slices: contours of each group's loss on a plane through the final checkpoint."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.contour import QuadContourSet
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ...analysis.records.slices import Slice
from ...analysis.records.study import Run, Study
from ..drawing.appearance import Look, looks_of
from ..drawing.canvas import column_width, heading, new_figure
from ..drawing.scales import colour_bar, plain_ticks
from ..drawing.study_data import Drawing, NothingToDraw, Planned, gap_words, hessian_words, setting, slices_by_name

PREFIX = "surface"
PAPER = "F8 (Li et al. 2018; head and tail panels as in ImbSAM and Focal-SAM)"
Array = NDArray[np.float64]
LEVELS = 15


def figures(study: Study) -> list[Planned]:
    """One figure per plane that any run was sliced along."""
    planes = slices_by_name(study, axes=2)
    if not planes:
        return [Planned(PREFIX, _nothing)]
    return [Planned(f"{PREFIX}-{name}", partial(draw, study, name, runs)) for name, runs in planes.items()]


def _nothing() -> Drawing:
    raise NothingToDraw("no run has a plane slice through its final checkpoint; run 'saddlescope slice' on the runs")


def losses(piece: Slice, group: str) -> Array:
    """The group's loss ``[points of axis 0, points of axis 1]``; NaN where it was not finite."""
    rows = piece.loss[group]
    return np.array([[np.nan if x is None else x for x in row] for row in rows if isinstance(row, list)], dtype=np.float64)


def draw(study: Study, name: str, runs: list[Run]) -> Drawing:
    """A row per group, a column per optimizer, one seed: the lowest that every drawn optimizer has.

    Raises:
        NothingToDraw: no loss on the plane is finite and positive.
    """
    looks = looks_of(study)
    seed, pieces = one_seed(name, runs)
    first = next(iter(pieces.values()))
    groups = [group for group in first.loss if all(group in piece.loss for piece in pieces.values())][:6]
    values = np.concatenate([losses(piece, group).ravel() for piece in pieces.values() for group in groups])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        raise NothingToDraw(f"slice '{name}': no loss on the plane is finite and positive")
    levels = np.geomspace(values.min() * 0.999, max(values.max(), values.min() * 1.01) * 1.001, LEVELS)
    figure = new_figure(max(5.2, 1.5 + 0.9 * column_width(len(pieces)) * len(pieces)), 1.2 + 1.85 * len(groups))
    panels = figure.subplots(len(groups), len(pieces), sharex="col", sharey="col", squeeze=False)
    for column, (optimizer, piece) in enumerate(pieces.items()):
        for row, group in enumerate(groups):
            drawn = _panel(panels[row, column], piece, group, levels)
        panels[0, column].set_title(looks[optimizer].short, color=looks[optimizer].ink)
        panels[-1, column].set_xlabel(axis_words(piece, 1))
        panels[0, column].tick_params(labelbottom=False)
        plain_ticks(panels[0, column].xaxis, 4 if len(pieces) < 5 else 2)
    for row, group in enumerate(groups):
        panels[row, 0].set_ylabel(f"{group}\n{axis_words(first, 2, short=True)}")
    colour_bar(figure, drawn, panels.flat, levels[0], levels[-1], "loss (log)", aspect=40)
    what = plane_words(first)
    heading(figure, f"Group losses on the plane of {what}, {whose(first, seed)}", setting(first.provenance))
    missing = [looks[key].name for key in study.optimizers if key not in pieces]
    title = f"Loss surface of each group: {what}"
    return Drawing(figure, title, _caption(first, pieces, looks, seed, missing), PAPER)


def one_seed(name: str, runs: list[Run]) -> tuple[int, dict[str, Slice]]:
    """The seed that most optimizers have this plane for (the lowest of these), and their slices."""
    by_seed: dict[int, dict[str, Slice]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, {})[run.optimizer] = run.slices[name]
    seed = min(by_seed, key=lambda seed: (-len(by_seed[seed]), seed))
    return seed, by_seed[seed]


def whose(piece: Slice, seed: int) -> str:
    """``seed 0``, or the checkpoint's name where no training is recorded."""
    return f"seed {seed}" if piece.provenance.training else Path(piece.provenance.checkpoint).name


def _panel(axes: Axes, piece: Slice, group: str, levels: Array) -> QuadContourSet:
    x, y, loss = np.asarray(piece.axes[0]), np.asarray(piece.axes[1]), losses(piece, group).T
    shown = np.ma.masked_invalid(np.clip(loss, levels[0], None))
    axes.set_facecolor("#DDDDDD")
    filled = axes.contourf(x, y, shown, levels=levels, norm=LogNorm(levels[0], levels[-1]), cmap="viridis")
    axes.contour(x, y, shown, levels=levels[1::2], colors="white", linewidths=0.4, alpha=0.7)
    mark(axes, piece)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    return filled


def mark(axes: Axes, piece: Slice, *, ink: str = "white") -> None:
    """The checkpoint, and the training path where it is stored, on a panel without a grid; ``ink``: of the words."""
    if piece.path:
        path = np.asarray(piece.path)
        axes.plot(path[:, 0], path[:, 1], color="white", linewidth=1.8, zorder=3)
        axes.plot(path[:, 0], path[:, 1], color="black", linewidth=0.9, marker="o", markersize=2.6, zorder=4, gid="path")
        if piece.path_epochs:
            right = path[0, 0] < (piece.axes[0][0] + piece.axes[0][-1]) / 2
            rim = [withStroke(linewidth=1.6, foreground="black" if ink == "white" else "white")]
            axes.annotate(f"epoch {piece.path_epochs[0]}", path[0], xytext=(5 if right else -5, 5), textcoords="offset points",
                          ha="left" if right else "right", fontsize=8, color=ink, path_effects=rim, zorder=5)  # fmt: skip
    axes.plot([0], [0], marker="+", color="white", markersize=8, markeredgewidth=2.4, zorder=5)
    axes.plot([0], [0], marker="+", color="black", markersize=7, markeredgewidth=1.1, zorder=6, gid="centre")
    axes.grid(visible=False)
    plain_ticks(axes.xaxis, 4)
    plain_ticks(axes.yaxis, 4)


def axis_words(piece: Slice, number: int, *, short: bool = False) -> str:
    """Axis 1 or 2 as its own record names it; ``short`` leaves out what differs between the panels of a row."""
    direction = piece.directions[number - 1]
    if direction.kind.endswith("eigenvector"):
        end = "min" if direction.kind.startswith("min") else "max"
        value = (
            "" if direction.eigenvalue is None or short else f"\n($\\lambda$ = {direction.eigenvalue:.3g})".replace("-", "−")
        )
        return f"along $v_\\mathrm{{{end}}}${value}"
    if direction.kind == "pca":
        share = "" if direction.explained_variance is None or short else f" ({100 * direction.explained_variance:.0f} %)"
        return f"PCA axis {number}{share}"
    return direction.kind


def plane_words(piece: Slice) -> str:
    """What spans the plane."""
    kinds = [direction.kind for direction in piece.directions]
    group = piece.directions[0].group
    if kinds == ["pca", "pca"]:
        return "the training path's two principal axes"
    if kinds == ["random", "random"]:
        return "two filter-normalised random directions" if piece.directions[0].normalisation == "filter" else "two directions"
    if set(kinds) == {"min-eigenvector", "max-eigenvector"} and group:
        return f"the most negative and the largest eigenvector of {hessian_words(group)}"
    return " and ".join(kinds)


def _caption(first: Slice, pieces: dict[str, Slice], looks: dict[str, Look], seed: int, missing: list[str]) -> str:
    words = (
        f"The mean training loss of each group on the plane spanned by {plane_words(first)}, through the final checkpoint "
        f"(cross) of {whose(first, seed)}; one logarithmic colour scale for all panels. Each optimizer has its own plane and "
        "its own axis ranges"
    )
    words += ", in Euclidean distance. " if abs(first.directions[0].norm - 1) < 1e-3 else ", in multiples of the directions. "
    values = [
        f"{looks[optimizer].name} " + f"{direction.eigenvalue:.3g}".replace("-", "−")
        for optimizer, piece in pieces.items()
        for direction in piece.directions[:1]
        if direction.eigenvalue is not None
    ]
    if values:
        words += f"Eigenvalue of the horizontal axis: {', '.join(values)}. "
    if first.path:
        far = max(distance for piece in pieces.values() for distance in (*piece.path_distance, 0.0))
        epochs = ", ".join(str(epoch) for epoch in first.path_epochs)
        words += (
            f"Black line: the stored checkpoints of training (epochs {epochs}), projected; they lie up to {far:.2g} off the "
            "plane, where the loss is another. "
        )
    if any(np.isnan(losses(piece, group)).any() for piece in pieces.values() for group in piece.loss):
        words += "Grey: the loss is not finite there. "
    return words + "One seed: a picture, not a measurement over seeds." + gap_words(missing)
